"""Many processes: SLURM jobs, and scans shared out among ranks."""
