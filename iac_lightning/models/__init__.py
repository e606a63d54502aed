"""Networks: tensors in, tensors out. No Lightning, no MLflow."""
