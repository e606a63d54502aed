"""Skull base and vault of one scan that were delivered as two series: which belong together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_modules.intake.facts import ImageFacts
from data_modules.scan.dicom_groups import SAME_DIRECTION, unit_directions

_LONGEST_PART_MM = 120.0
"""A longer series is a whole head, and needs no other part."""
_WIDEST_GAP = 1.6
"""Between the last slice of one part and the first of the other, in thicknesses of the thicker: up to a slice may lie
between (1), and rounding."""
_MOST_SHARED = 1.1
"""Overlap likewise: where two parts meet, a slice of one may lie within one of the other."""
_SAME_SPACING = 1e-3


@dataclass(frozen=True)
class _Part:
    x: NDArray[np.float64]
    y: NDArray[np.float64]
    low_mm: float
    high_mm: float
    thickness_mm: float
    alike: tuple[Any, ...]
    number: int


def parts_of_one_scan(stacks: Sequence[Sequence[ImageFacts]]) -> list[tuple[int, int]]:
    """Pairs of stacks of one examination that are the lower and the upper part of one scan.

    They have one frame of reference, matrix, pixel spacing, orientation, kernel and state of contrast, neither is a
    whole head, and one begins where the other ends. Of several that fit, those numbered nearest to each other are
    taken; no stack is part of two.

    Returns:
        Indices, the lower part first.
    """
    parts = [_part(stack) for stack in stacks]
    fitting = [
        (abs(parts[i].number - parts[j].number), i, j)
        for i in range(len(parts))
        for j in range(len(parts))
        if i != j and _goes_on(parts[i], parts[j])
    ]
    taken: set[int] = set()
    pairs = []
    for _, lower, upper in sorted(fitting):
        if not taken & {lower, upper}:
            taken |= {lower, upper}
            pairs.append((lower, upper))
    return pairs


def _part(stack: Sequence[ImageFacts]) -> _Part:
    slices = [image.slice for image in stack]
    x, y = unit_directions(slices)
    height = np.array([s.position for s in slices]) @ np.cross(x, y)
    if np.cross(x, y)[2] < 0:  # the lower part is the one nearer to the feet
        height = -height
    first = slices[0]
    return _Part(
        x=x,
        y=y,
        low_mm=float(height.min()),
        high_mm=float(height.max()),
        thickness_mm=float(np.nanmax([0.0, *(s.thickness_mm for s in slices)])),
        alike=(first.frame_of_reference, first.shape, first.kernel, any(s.contrast for s in slices), first.pixel_mm),
        number=first.series_number,
    )


def _goes_on(lower: _Part, upper: _Part) -> bool:
    """Whether `upper` begins where `lower` ends."""
    *same, spacing = lower.alike
    *of_upper, upper_spacing = upper.alike
    if not same[0] or same != of_upper or not np.allclose(spacing, upper_spacing, rtol=_SAME_SPACING, atol=0):
        return False
    if max(np.abs(lower.x - upper.x).max(), np.abs(lower.y - upper.y).max()) > SAME_DIRECTION:
        return False
    if max(lower.high_mm - lower.low_mm, upper.high_mm - upper.low_mm) > _LONGEST_PART_MM:
        return False
    thickest = max(lower.thickness_mm, upper.thickness_mm)
    gap = upper.low_mm - lower.high_mm
    in_order = lower.low_mm < upper.low_mm and lower.high_mm < upper.high_mm
    return in_order and -_MOST_SHARED * thickest < gap <= _WIDEST_GAP * thickest
