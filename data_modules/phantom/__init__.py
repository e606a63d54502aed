"""A digital cohort with the heterogeneity of a clinical trial, made from a seed."""
