"""Settings of an experiment: what there is, what may be, how it is read. Imports neither torch nor data."""
