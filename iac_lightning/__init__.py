"""From batches to numbers: networks, training, inference, evaluation and tracking."""

__version__ = "0.1.0"
