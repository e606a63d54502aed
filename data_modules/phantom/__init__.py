"""A digital cohort with the heterogeneity of a clinical trial, from a seed."""

from data_modules.phantom.cohort import DEFAULT_FRACTIONS, make_phantom_cohort

__all__ = ["DEFAULT_FRACTIONS", "make_phantom_cohort"]
