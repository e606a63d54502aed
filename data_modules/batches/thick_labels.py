"""The label that a reader draws on thicker slices, made from that of thinner ones: batches, on any device.

A reader of thick slices marks whole thick voxels: those of at least 130 HU where calcification, and not bone, is the
brighter part, without single ones (annotation protocol of Jin et al. 2025). Preparation then brings the mask to the
common grid as the share of each voxel that is labelled.

The scanner's pixels are about half as wide as the common grid's. What is compared with a threshold is therefore
interpolated to half pixels first and averaged afterwards, so that shares stay soft in plane, as those of a prepared
mask are. Through plane it is the other way round: slices are thicker than the grid, whose voxels take the
mask of the slices that they lie in.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from data_modules.batches.transforms_slices import along_z

CALCIUM_HU = 130.0
"""Darkest voxel that a reader labels."""

SOFT_TISSUE_HU = 80.0
"""What is darker than this is neither bone nor calcification."""

LEAST_SHARE = 0.4
"""Of what is brighter than soft tissue in a thick voxel, the least that lies under the label of the thinner slices. So
chosen that phantoms prepared from thick slices have as much label as their thin ones changed to it (docs/results)."""


def protocol_label(hu: Tensor, occupancy: Tensor, to_thick: Tensor, to_grid: Tensor) -> Tensor:
    """What preparation would make of the mask that a reader draws on thicker slices.

    Args:
        hu: `[B, 1, X, Y, Z]` of the thinner slices on the common grid.
        occupancy: `[B, 1, X, Y, Z]` in [0, 1], share of each voxel that their label covers.
        to_thick: `[B, K, Z]` weights of the slice profile; rows sum to 1, or to 0 for a slice that is not there.
        to_grid: `[B, Z, K]` share of each slice of the common grid that lies in each thick slice.

    Returns:
        `[B, 1, X, Y, Z]` float32 in [0, 1]: occupancy on the common grid.
    """
    if hu.device.type != "cpu":  # looking where the label lies would wait for the device
        return _label(hu, occupancy, to_thick, to_grid)
    out = torch.zeros_like(hu)
    for row in range(len(hu)):
        columns = occupancy[row, 0].any(dim=2)
        if columns.any():
            x, y = _reach(columns.any(dim=1)), _reach(columns.any(dim=0))
            box = (slice(row, row + 1), slice(None), x, y)
            out[box] = _label(hu[box], occupancy[box], to_thick[row : row + 1], to_grid[row : row + 1])
    return out


def _label(hu: Tensor, occupancy: Tensor, to_thick: Tensor, to_grid: Tensor) -> Tensor:
    """`protocol_label` of a part; a pixel around the labelled ones is enough: interpolation reaches no farther."""
    bright = (hu - SOFT_TISSUE_HU).clamp(min=0)
    thick = along_z(torch.cat([hu, bright, bright * occupancy], dim=1), to_thick)
    slices = thick.permute(0, 1, 4, 2, 3).flatten(1, 2)  # as channels of pictures, which is how interpolation is fast
    halved = functional.interpolate(slices, scale_factor=2.0, mode="bilinear")
    thick_hu, bright, labelled = halved.unflatten(1, (3, -1)).unbind(1)
    marked = ((thick_hu >= CALCIUM_HU) & (labelled > LEAST_SHARE * bright)).to(hu.dtype)
    kept = marked * (_sum_of_27(marked) > 1.5)  # itself and a neighbour
    pixels = functional.avg_pool2d(kept, 2).permute(0, 2, 3, 1)[:, None]
    return along_z(pixels, to_grid)


def _sum_of_27(volumes: Tensor) -> Tensor:
    """Of each voxel of `[B, X, Y, Z]` and its neighbours; nothing lies outside."""
    padded = functional.pad(volumes, (1, 1, 1, 1, 1, 1))
    for axis in (1, 2, 3):
        n = volumes.shape[axis]
        padded = padded.narrow(axis, 0, n) + padded.narrow(axis, 1, n) + padded.narrow(axis, 2, n)
    return padded


def _reach(labelled: Tensor) -> slice:
    """From a place before the first labelled one to a place after the last."""
    places = labelled.nonzero()[:, 0]
    return slice(max(int(places[0]) - 1, 0), int(places[-1]) + 2)
