"""The page that compares evaluated models."""
