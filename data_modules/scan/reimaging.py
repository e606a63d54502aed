"""A scan as thicker slices would have shown it, and masks of thick slices back on the thin ones."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from data_modules.errors import UserError
from data_modules.scan.geometry import Grid, Volume
from data_modules.scan.hounsfield import to_int16
from data_modules.scan.resampling import resample_image, slab_widths
from data_modules.scan.scan import Scan

TOLERANCE_MM = 0.01
"""Thicknesses that differ by less are the same."""


def finest_mm(scan: Scan) -> float:
    """The thinnest slice that this scan can tell about: its thickest slice, or the slices' distance where they gap.

    Both are measured at right angles to the slices, gantry tilt or not.
    """
    across = slab_widths(scan.grid, scan.slice_axis, 1.0)[scan.slice_axis]
    thickest = max(scan.slice_thicknesses_mm or (scan.slice_thickness_mm,))
    return max(thickest, scan.grid.spacing_mm[scan.slice_axis] / across)


def thicker(scan: Scan, thickness_mm: float, spacing_mm: float | None = None) -> Scan:
    """The scan as slices of `thickness_mm` would have shown it, voxels in plane untouched.

    Each new slice averages the thin ones by exact overlap with the box that brings the profile's variance from t²/12
    to T²/12 (`resampling.resample_image`). The new slices begin at an edge of a thin one and go beyond
    the scan by about as much at either end, so where thin slices of t mm touch and t divides T, every new slice inside
    is the plain mean of T/t of them. `resampling.reimage` centres the new slices instead: its edges may cut thin
    slices in half, and no mask could be brought back without a coin toss. A slice whose middle lies outside the scan
    is left out. Whole HU, as a scanner gives.

    Args:
        scan: in any orientation, tilted (a sheared grid) or not. `slice_thickness_mm` is taken for every slice.
        thickness_mm: T, at right angles to the slices.
        spacing_mm: distance of the new slices, at right angles to them; by default T, slices that touch.

    Returns:
        The re-imaged scan, in the orientation of `scan`.

    Raises:
        UserError: when the scan itself is not thinner, or the slices lie closer than its own: that would be invented
            detail.
    """
    spacing_mm = thickness_mm if spacing_mm is None else spacing_mm
    finest = finest_mm(scan)
    if thickness_mm < finest - TOLERANCE_MM or spacing_mm < finest - TOLERANCE_MM:
        raise UserError(
            f"slices of {thickness_mm:g} mm every {spacing_mm:g} mm cannot be made of a scan that tells no more than "
            f"slices of {finest:.3g} mm; ask for thicker ones"
        )
    axis = scan.slice_axis
    step_mm = slab_widths(scan.grid, axis, spacing_mm)[axis]
    grid = _thick_grid(scan.grid, axis, step_mm)
    slab_mm, target_slab_mm = (slab_widths(scan.grid, axis, t) for t in (scan.slice_thickness_mm, thickness_mm))
    image = resample_image(scan.volume, grid, slab_mm, target_slab_mm)
    return replace(
        scan,
        hu=to_int16(image.data),
        grid=grid,
        slice_thickness_mm=float(thickness_mm),
        slice_thicknesses_mm=None,
    )


def on_thin_slices(mask: Volume, thin: Grid, slice_axis: int) -> Volume:
    """A mask of thick slices on the thin slices that they were made of; outside the thick ones nothing is masked.

    Args:
        mask: `[X, Y, Z]`, on the grid of `thicker`'s scan.
        thin: grid of the scan that it was made of.
        slice_axis: array axis across the slices.

    Raises:
        ValueError: when the grids differ in more than their slices.
    """
    number = thick_slice_of(mask.grid, thin, slice_axis)
    data = mask.data.take(np.maximum(number, 0), axis=slice_axis)
    data[(slice(None),) * slice_axis + (number < 0,)] = 0
    return Volume(data, thin)


def thick_slice_of(thick: Grid, thin: Grid, slice_axis: int) -> NDArray[np.intp]:
    """`[n]` for each thin slice the thick one that covers more than half of it, the one around its middle; −1: none.

    Half by half, the lower slice takes it.

    Raises:
        ValueError: when the grids differ in more than their slices.
    """
    index = np.zeros((thin.shape[slice_axis], 3))
    index[:, slice_axis] = np.arange(thin.shape[slice_axis])
    places = thick.to_index(thin.to_ras_mm(index))
    in_plane = [k for k in range(3) if k != slice_axis]
    same_size = all(thick.shape[k] == thin.shape[k] for k in in_plane)
    if not same_size or np.abs(places[:, in_plane]).max() > 1e-3:
        raise ValueError("the grids differ in plane; these thick slices were not made of these thin ones")
    # An edge of a thick slice through the middle of a thin one must not be decided by rounding.
    number = np.ceil(places[:, slice_axis] - 0.5 - 1e-4).astype(np.intp)
    return np.where((number >= 0) & (number < thick.shape[slice_axis]), number, -1)


def _thick_grid(grid: Grid, axis: int, step_mm: float) -> Grid:
    """The slices of `thicker`, `step_mm` apart along the grid's axis."""
    n, spacing = grid.shape[axis], grid.spacing_mm[axis]
    extent = n * spacing
    n_slices = max(1, int(np.ceil(extent / step_mm - 1e-6)))
    before = int((n_slices * step_mm - extent) / 2 / spacing + 1e-6) * spacing
    first = (step_mm - spacing) / 2 - before  # mm from the centre of the first thin slice
    while n_slices > 1 and first + (n_slices - 1) * step_mm > extent - spacing / 2 + 1e-6:
        n_slices -= 1
    index = np.zeros(3)
    index[axis] = first / spacing
    affine = grid.affine.copy()
    affine[:3, axis] = grid.directions[:, axis] * step_mm
    affine[:3, 3] = grid.to_ras_mm(index)
    x, y, z = (n_slices if k == axis else size for k, size in enumerate(grid.shape))
    return Grid((x, y, z), affine)
