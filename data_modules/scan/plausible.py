"""Lengths that a CT scan of a patient can have."""

PLAUSIBLE_MM = (0.1, 20.0)
"""Spacing of voxels and thickness of slices, smallest and largest."""

SAME_PLACE_MM = 0.1
"""Slices nearer to each other than this lie at one position: headers often round positions to 0.1 mm."""


def is_plausible_mm(value: float) -> bool:
    """Whether a spacing or a slice thickness is one that CT has; False for NaN."""
    return PLAUSIBLE_MM[0] <= value <= PLAUSIBLE_MM[1]
