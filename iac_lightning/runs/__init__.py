"""A run on disk: its folder, and the record of its looks at the test split."""
