"""The page of an ablation sweep."""
