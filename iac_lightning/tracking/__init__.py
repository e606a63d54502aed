"""MLflow: what runs were made from, and what came of them."""
