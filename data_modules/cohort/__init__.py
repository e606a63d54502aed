"""The table of series: what it must hold, splits by patient, and the guards against leakage and peeking."""
