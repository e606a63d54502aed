"""A digital cohort with the heterogeneity of a clinical trial, from a seed."""
