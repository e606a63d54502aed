"""From masks and probabilities to figures with their uncertainty. No Lightning, no MLflow."""
