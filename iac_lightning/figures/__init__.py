"""Pictures: matplotlib figures of scans, models and sweeps. No global state, no files."""
