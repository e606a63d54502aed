"""Thicker slices: the profile by which a scanner averages along z, as matrices for a batch at once.

A profile is a trapezium, the average of a box over another box: its full width at half maximum is that of the wider
box, its corners are as round as the narrower box is wide. Roundness 0 is the box of `data_modules.scan.resampling`,
roundness 1 a triangle. Helical scanners smear the box by interpolating between turns: Polacin et al., "Evaluation of
section sensitivity profiles and image noise in spiral CT", Radiology 185 (1992) 29–35.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Floats = NDArray[np.float64]

_TOUCHES = 1e-4
"""Share of a slice above which it lies in a thick one: less is rounding."""


@dataclass(frozen=True, eq=False)
class SliceOperators:
    """What leads from n slices of a patch to at most K contiguous thicker ones, and back; one row (``R``) a patch.

    Attributes:
        to_thick: `[R, K, n]` weights of each thick slice; rows sum to 1, or are empty where a patch has fewer.
        to_thin: `[R, n, K]` weights of linear interpolation back, which invents no detail; rows sum to 1.
        overlap: `[R, n, K]` share of each thin slice that lies in each thick one; rows sum to 1.
    """

    to_thick: Floats
    to_thin: Floats
    overlap: Floats

    @property
    def there_and_back(self) -> Floats:
        """`[R, n, n]`, row k the weights with which n slices give slice k."""
        return np.asarray(self.to_thin @ self.to_thick)


def slice_operators(
    n: int, spacing_mm: float, own_mm: Floats, thicker_mm: Floats, roundness: Floats, widening: Floats
) -> SliceOperators:
    """Contiguous slices of `thicker_mm` around the middle of a patch.

    Variances add (`resampling.resample_image`): slices that average over `own_mm` already are averaged over a box of
    width √(w² − own² + spacing²), where w = `widening` × `thicker_mm`, which is itself averaged over a box of width
    `roundness` × w. So the variance becomes w² (1 + roundness²) / 12.

    Args:
        n: slices of the patch.
        spacing_mm: their distance.
        own_mm: `[R]` width that they average over now, not less than their distance.
        thicker_mm: `[R]` distance and nominal thickness of the new slices, greater than `own_mm`.
        roundness: `[R]` from 0 to 1.
        widening: `[R]` full width at half maximum over nominal thickness, at least 1.
    """
    n_thick = np.maximum(1, np.ceil(n * spacing_mm / thicker_mm - 1e-6)).astype(int)
    number = np.arange(n_thick.max())
    thin_mm = spacing_mm * np.arange(n)  # centres, from that of the first thin slice
    first_mm = (thin_mm[-1] - (n_thick - 1) * thicker_mm) / 2
    thick_mm = first_mm[:, None] + thicker_mm[:, None] * number  # [R, K]
    present = number < n_thick[:, None]
    fwhm_mm = widening * thicker_mm
    edges_mm = spacing_mm * (np.arange(n + 1) - 0.5)
    from_centre = edges_mm - thick_mm[..., None]
    below = _below(from_centre, np.sqrt(fwhm_mm**2 - own_mm**2 + spacing_mm**2), roundness * fwhm_mm)
    distance = np.abs(thin_mm[:, None] - thick_mm[:, None])  # [R, n, K]
    reach = thicker_mm[:, None, None]
    shared = np.minimum(np.minimum(spacing_mm, reach), (spacing_mm + reach) / 2 - distance)
    return SliceOperators(
        to_thick=_shares(np.diff(below, axis=-1) * present[..., None]),
        to_thin=_shares(np.maximum(reach - distance, 0) * present[:, None]),
        overlap=_shares(np.maximum(shared, 0) * present[:, None]),
    )


def along_z(volumes: Tensor, matrix: Tensor) -> Tensor:
    """`[R, 1, X, Y, columns]` by a matrix a row, `[R, rows, columns]`, to `[R, 1, X, Y, rows]`."""
    return torch.bmm(volumes.flatten(1, 3), matrix.transpose(1, 2)).unflatten(1, volumes.shape[1:4])


def bright_on_thick(peak_hu: Tensor, threshold: float, to_thick: Tensor, overlap: Tensor) -> Tensor:
    """Where a voxel of the thick-sliced scan that overlaps a voxel of the patch may reach a threshold.

    No average is larger than the average of the largest, so no voxel of the thick-sliced scan that does reach it is
    left out.

    Args:
        peak_hu: `[R, 1, X, Y, n]`, the brightest voxel of the thin-sliced scan in each voxel.
        threshold: HU.
        to_thick: `[R, K, n]` of `SliceOperators`.
        overlap: `[R, n, K]` of `SliceOperators`.

    Returns:
        `[R, 1, X, Y, n]` bool.
    """
    bright = (along_z(peak_hu.to(torch.float32), to_thick) >= threshold).to(torch.float32)
    return along_z(bright, (overlap > _TOUCHES).to(torch.float32)) > 0.5


def _below(x: Floats, box: Floats, rounding: Floats) -> Floats:
    """Integral up to x of a box averaged over another: flat in the middle, linear at both sides.

    Args:
        x: `[R, K, n]` from the middle of the profile.
        box: `[R]` width of one box.
        rounding: `[R]` width of the other, which may be 0.
    """
    top, base = (width[:, None, None] / 2 for width in (np.abs(box - rounding), box + rounding))
    side = base - top
    up, down = np.clip(x + base, 0, side), np.clip(x - top, 0, side)
    steep = 2 * np.maximum(side, np.finfo(np.float64).tiny)
    return np.asarray(up**2 / steep + np.clip(x + top, 0, 2 * top) + down - down**2 / steep)


def _shares(weights: Floats) -> Floats:
    """Rows that sum to 1, where they are not empty."""
    total = weights.sum(axis=-1, keepdims=True)
    return np.divide(weights, total, out=np.zeros_like(weights), where=total > 0)
