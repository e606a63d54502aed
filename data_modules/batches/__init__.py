"""From prepared volumes to batches: where patches are cut, how they are changed, in which order they come."""
