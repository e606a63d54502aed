"""What was drawn on a scan, or predicted for it, onto the voxels that the scan has here; and back onto its file's.

A companion of a scan (a mask, a probability map) lies on the voxels that its maker saw. These are the scan's own, maybe
with axes in another order or stored the other way round; or those of the file, where slices slide against each other
and were moved onto a right-angled grid here; or those of dcm2niix, which moves them too, by other parts of a pixel.
No value is ever blended: voxels are reordered, and slices moved in plane by whole pixels.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from data_modules.scan.geometry import Grid, Volume, place
from data_modules.scan.scan import Scan

_TOLERANCE = 0.05  # of a voxel
_DRIFT = 0.5  # of a voxel, from one end of the grid to the other
_BETWEEN_SLICES = 0.25  # of the distance between slices: farther off a companion is of other slices


class Fit(NamedTuple):
    """How a companion comes onto its scan's grid.

    Attributes:
        volume: the companion there.
        remark: what a reader should know of it; empty where every voxel is exactly where it was.
    """

    volume: Volume
    remark: str = ""


def fit_to_scan(companion: Volume, like: Scan | Grid) -> Fit | None:
    """A companion on its scan's grid; None where its voxels are not the scan's.

    Args:
        companion: a mask or a probability map.
        like: its scan, or just the grid, which then must have the same voxels.
    """
    grid = like if isinstance(like, Grid) else like.grid
    if companion.grid.same_as(grid, tolerance_mm=_TOLERANCE * min(grid.spacing_mm)):
        return Fit(Volume(companion.data, grid))
    if same_voxels(companion.grid, grid):
        return Fit(place(companion, grid, 0))
    if isinstance(like, Grid):
        return None
    if like.file_grid is not None and same_voxels(companion.grid, like.file_grid):
        return Fit(move_slices(place(companion, like.file_grid, 0), grid))
    return _on_other_straight_grid(companion, like) if like.is_resampled else None


def to_file_grid(volume: Volume, scan: Scan) -> Volume:
    """A mask or map on the scan's grid, on the grid of the scan's file, where that is another one."""
    return volume if scan.file_grid is None else move_slices(volume, scan.file_grid)


def same_voxels(one: Grid, other: Grid) -> bool:
    """Whether two grids have the same voxels at the same places, in whatever order (to 5 % of a voxel)."""
    moves = _moves(other, one)
    if moves is None or tuple(np.asarray(other.shape)[list(moves.axes)]) != one.shape:
        return False
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in one.shape], indexing="ij")).reshape(3, -1).T
    expected = np.where(np.asarray(moves.signs) > 0, corners, np.asarray(one.shape) - 1 - corners)
    there = other.to_index(one.to_ras_mm(corners))[:, list(moves.axes)]
    return bool(np.abs(there - expected).max() <= _TOLERANCE)


def move_slices(volume: Volume, target: Grid) -> Volume:
    """Voxels of one grid on another that has the same slices, of the same pixels, slid in plane: the nearest ones.

    Each slice moves as a whole, by whole pixels, so that no voxel of it is lost or doubled; beyond it lies 0.

    Raises:
        ValueError: when the slices of the two grids are not the same.
    """
    moves = _moves(volume.grid, target)
    if moves is None:
        raise ValueError("the slices of the two grids differ; resample instead of moving")
    source = volume.data.transpose(moves.axes)  # axis k runs along the target's axis k
    out = np.zeros(target.shape, dtype=volume.data.dtype)
    for k in range(target.shape[moves.across]):
        first = np.rint(moves.start + k * moves.slide).astype(int)
        index = [first[t] + moves.signs[t] * np.arange(n) for t, n in enumerate(target.shape)]
        index[moves.across] = first[moves.across : moves.across + 1]
        inside = [np.flatnonzero((i >= 0) & (i < n)) for i, n in zip(index, source.shape, strict=True)]
        taken = source[np.ix_(*(i[at] for i, at in zip(index, inside, strict=True)))]
        inside[moves.across] = inside[moves.across] + k
        out[np.ix_(*inside)] = taken
    return Volume(out, target)


class _Moves(NamedTuple):
    """How the slices of a source lie on a target, in the order of the target's axes.

    Attributes:
        axes: the source's axis along each of the target's.
        signs: 1 where both run the same way, else −1.
        across: the target's axis across the slices.
        start: `[3]`, the source's index of the target's voxel (0, 0, 0), fractional.
        slide: `[3]`, how it changes from one target slice to the next.
    """

    axes: tuple[int, int, int]
    signs: tuple[int, int, int]
    across: int
    start: NDArray[np.float64]
    slide: NDArray[np.float64]


def _moves(source: Grid, target: Grid) -> _Moves | None:
    """How slices lie on each other; None where pixels or slices differ."""
    mapping = np.linalg.inv(source.affine) @ target.affine  # target index -> source index
    matrix, start = mapping[:3, :3], mapping[:3, 3]
    whole = np.rint(matrix)
    drift = np.abs(matrix - whole).max(axis=0) * np.asarray(target.shape)
    is_step = (np.abs(whole).sum(axis=0) == 1) & (drift <= _DRIFT)
    if is_step.sum() < 2:
        return None
    across = int(np.argmin(is_step)) if not is_step.all() else int(np.argmax(target.spacing_mm))
    axes = [int(np.abs(whole[:, k]).argmax()) for k in range(3)]
    axes[across] = 3 - sum(axes[k] for k in range(3) if k != across)
    if sorted(axes) != [0, 1, 2]:
        return None
    along = np.array([matrix[axes[k], k] for k in range(3)])
    if abs(abs(along[across]) - 1) * target.shape[across] > _DRIFT:
        return None
    signs = np.sign(along).astype(int)
    return _Moves(
        axes=(axes[0], axes[1], axes[2]),
        signs=(int(signs[0]), int(signs[1]), int(signs[2])),
        across=across,
        start=start[axes],
        slide=matrix[axes, across],
    )


def _on_other_straight_grid(companion: Volume, scan: Scan) -> Fit | None:
    """A companion of slices that another program moved onto a straight grid too, such as dcm2niix's `_Tilt`."""
    spacing = np.asarray(scan.grid.spacing_mm)
    thickest = max(scan.slice_thicknesses_mm or (scan.slice_thickness_mm,))
    for grid in (companion.grid, _mended_origin(companion.grid, scan)):
        moves = _moves(grid, scan.grid) if grid is not None else None
        if grid is None or moves is None or _slides(moves, scan.grid):
            continue
        off = np.abs(moves.start - np.rint(moves.start))
        margin = np.full(3, 1.5)  # a pixel more or less at the edge of the slid slices
        margin[moves.across] = 1 + thickest / 2 / spacing[moves.across]
        last = np.asarray(grid.shape)[list(moves.axes)] - 1
        end = moves.start + np.asarray(moves.signs) * (np.asarray(scan.grid.shape) - 1)
        is_covered = (np.minimum(moves.start, end) >= -margin).all() and (
            np.maximum(moves.start, end) <= last + margin
        ).all()
        if off[moves.across] > _BETWEEN_SLICES or not is_covered:
            continue
        moved = move_slices(Volume(companion.data, grid), scan.grid)
        if companion.data.dtype == bool and np.count_nonzero(moved.data) != np.count_nonzero(companion.data):
            continue
        by = " × ".join(f"{d:.2f}" for d in off * spacing)
        return Fit(
            moved, f"lies {by} mm off the scan's voxels (slices moved by another program); the nearest were taken"
        )
    return None


def _slides(moves: _Moves, target: Grid) -> bool:
    """Whether slices lie farther and farther off in plane."""
    in_plane = np.delete(moves.slide, moves.across)
    return bool(np.abs(in_plane).max() * target.shape[moves.across] > _DRIFT)


def _mended_origin(grid: Grid, scan: Scan) -> Grid | None:
    """Where dcm2niix's volume of a tilt to the other side really lies; None where this cannot be it.

    It adds rows before the first, and should move the origin back by as many steps of the rows; it moves it by the
    second row of the affine instead of the second column (`adjustOriginForNegativeTilt`, v1.0.20220720 and later). How
    many rows it added follows from the slices, which lie where the scan's do. It leaves the pixels of the last slice
    where they were instead of those of the first, a part of a pixel off.
    """
    if grid.shape[2] != scan.grid.shape[scan.slice_axis] or scan.gantry_tilt_deg == 0:
        return None
    step = grid.affine[1, :3] - grid.affine[:3, 1]
    n_rows = np.arange(1, grid.shape[1])
    origins = grid.affine[:3, 3] + n_rows[:, None] * step
    across = scan.grid.directions[:, scan.slice_axis]
    slices = scan.grid.to_ras_mm([[0, 0, 0], np.asarray(scan.grid.shape) - 1]) @ across
    first = slices[0] if grid.affine[:3, 2] @ across > 0 else slices[1]
    off = np.abs(origins @ across - first)
    n = int(off.argmin())
    if off[n] > _BETWEEN_SLICES * grid.spacing_mm[2]:
        return None
    slid = np.tan(np.radians(abs(scan.gantry_tilt_deg))) * (grid.shape[2] - 1) * grid.spacing_mm[2] / grid.spacing_mm[1]
    if not 0 <= n_rows[n] - slid < 1.5:
        return None
    affine = grid.affine.copy()
    affine[:3, 3] = origins[n] + (n_rows[n] - slid) * grid.affine[:3, 1]
    return Grid(grid.shape, affine)
