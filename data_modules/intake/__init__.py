"""From a hospital's or a trial's export to a cohort: what is in it, what each series is, and images without names."""
