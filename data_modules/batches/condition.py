"""What a network is told beside the image: where its crop lies, and how the scan was made. All in millimetres."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from data_modules.config import CONDITIONS
from data_modules.prepare.store import PreparedSeries
from data_modules.scan.scan import Scan

Floats = NDArray[np.float64]

SLICE_AXIS = 2
"""Patches have their axes nearest to RAS+; thick slices are stacked along z."""


@dataclass(frozen=True)
class Acquisition:
    """How a scan was made, as far as networks are told.

    Attributes:
        slice_thickness_mm: how thick a slab a slice of the region averages.
        slice_axis: array axis across slices, of the region in canonical orientation.
        spacing_mm: voxel size of the region on the scan's own voxels, along x, y, z.
    """

    slice_thickness_mm: float
    slice_axis: int
    spacing_mm: tuple[float, float, float]

    @staticmethod
    def of_series(series: PreparedSeries) -> Acquisition:
        """Of a prepared series."""
        return Acquisition(series.slice_thickness_mm, series.slice_axis, series.native_grid.spacing_mm)

    @staticmethod
    def of_region(region: Scan) -> Acquisition:
        """Of a region of interest."""
        return Acquisition(region.slice_thickness_mm, region.slice_axis, region.grid.spacing_mm)

    def told_thickness_mm(self, grid_spacing_mm: float) -> float:
        """Slice thickness as networks are told it.

        Of slices that are not stacked along z it is at least what the common grid averages over there.

        Args:
            grid_spacing_mm: of the common grid along z.
        """
        if self.slice_axis == SLICE_AXIS:
            return self.slice_thickness_mm
        return max(self.slice_thickness_mm, grid_spacing_mm)


def n_condition_values(condition_on: Sequence[str]) -> int:
    """Numbers that a network is told beside the image."""
    return sum(CONDITIONS[word] for word in condition_on)


def position_mm(corner: ArrayLike, crop: ArrayLike, shape: ArrayLike, spacing_mm: ArrayLike) -> Floats:
    """The middle of a crop as seen from the middle of its region, `[..., 3]` along x, y, z.

    Args:
        corner: `[..., 3]` voxel of the region that becomes voxel (0, 0, 0) of the crop; may lie outside.
        crop: `[3]` voxels of the crop.
        shape: `[..., 3]` voxels of the region.
        spacing_mm: `[3]` voxel size of both.
    """
    middle = np.asarray(corner) + (np.asarray(crop) - 1) / 2
    return np.asarray((middle - (np.asarray(shape) - 1) / 2) * np.asarray(spacing_mm))


def condition_values(
    condition_on: Sequence[str], position_mm: Floats, slice_thickness_mm: ArrayLike, spacing_mm: ArrayLike
) -> NDArray[np.float32]:
    """What networks are told of crops, in the order of `condition_on`.

    Args:
        condition_on: keys of `CONDITIONS`.
        position_mm: `[B, 3]` of each crop.
        slice_thickness_mm: `[B]`, or one for all.
        spacing_mm: `[B, 3]`, or `[3]` for all.

    Returns:
        `[B, K]` float32, K = `n_condition_values`.
    """
    rows = len(position_mm)
    values = {
        "position": position_mm,
        "slice_thickness": np.broadcast_to(slice_thickness_mm, rows)[:, None],
        "spacing": np.broadcast_to(spacing_mm, (rows, 3)),
    }
    columns = [np.empty((rows, 0)), *(values[word] for word in condition_on)]
    return np.concatenate(columns, axis=1, dtype=np.float32)
