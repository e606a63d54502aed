"""Lengths that a CT scan of a patient can have."""

PLAUSIBLE_MM = (0.1, 20.0)
"""Spacing of voxels and thickness of slices, smallest and largest."""


def is_plausible_mm(value: float) -> bool:
    """Whether a spacing or a slice thickness is one that CT has; False for NaN."""
    return PLAUSIBLE_MM[0] <= value <= PLAUSIBLE_MM[1]
