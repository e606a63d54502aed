"""Opponents worth beating: nnU-Net v2, its residual encoder and PrimusV3, trained by their own code (see README.md)."""
