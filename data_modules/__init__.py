"""From files to batches: everything that knows CT and knows no network."""
