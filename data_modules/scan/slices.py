"""Acquired slices, wherever they lie, onto one right-angled grid.

CT slices are parallel planes, each with a position of its own. A gantry tilt shifts them against each other in plane,
thickness and spacing may change on the way, slices may be missing or overlap. The grid chosen here has its axes
along the rows, the columns and the normal of the slices: every output slice is then an acquired slice moved within
its plane (or, between acquired slices, the linear interpolation of two), so the fine in-plane resolution is never
mixed with the coarse through-plane one, as it would be on a grid along the patient's axes.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_modules.scan.geometry import AIR_HU, Grid, Volume

THICKNESS_UNKNOWN = "slice thickness unknown"
"""How the remark begins that a thickness is a guess."""
_TOLERANCE_MM = 0.1  # headers often round positions to 0.1 mm
_TOLERANCE = 0.05  # of the spacing between slices
_SNAP_PIXELS = 0.02  # in-plane shifts this near to whole pixels are not interpolated


@dataclass(frozen=True, eq=False, kw_only=True)
class SliceStack:
    """Parallel slices of one size.

    Attributes:
        planes: `[N, Y, X]` HU.
        positions_mm: `[N, 3]`, RAS+ centre of each slice's pixel (0, 0), in any order.
        x_direction: `[3]` unit vector of increasing X (along a row), RAS+.
        y_direction: `[3]` unit vector of increasing Y, at right angles to it.
        pixel_mm: pixel spacing along X and Y.
        thicknesses_mm: `[N]`, NaN where unknown.
    """

    planes: NDArray[Any]
    positions_mm: NDArray[np.float64]
    x_direction: NDArray[np.float64]
    y_direction: NDArray[np.float64]
    pixel_mm: tuple[float, float]
    thicknesses_mm: NDArray[np.float64]

    def take(self, indices: NDArray[np.intp]) -> SliceStack:
        """Some of the slices, in the order of `indices`."""
        if np.array_equal(indices, np.arange(len(self.planes))):
            return self
        return replace(
            self,
            planes=self.planes[indices],
            positions_mm=self.positions_mm[indices],
            thicknesses_mm=self.thicknesses_mm[indices],
        )


@dataclass(frozen=True, eq=False, kw_only=True)
class StraightStack:
    """What `straighten` made.

    Attributes:
        volume: `[X, Y, Z]` HU on a right-angled grid, Z across the slices.
        thicknesses_mm: `[Z]`, thickness of the acquired slice nearest to each output slice.
        tilt_deg: angle between the slices' normal and the direction in which they step, not negative.
        warnings: what was not as it should be.
        is_resampled: whether slices were moved or interpolated.
    """

    volume: Volume
    thicknesses_mm: NDArray[np.float64]
    tilt_deg: float
    warnings: tuple[str, ...]
    is_resampled: bool


def straighten(stack: SliceStack) -> StraightStack:
    """Slices onto a regular, right-angled grid along (row, column, normal).

    A regular stack is only put in order, no value changes. Otherwise output slices lie every `s` mm along the normal,
    `s` being the finest spacing that occurs twice in a row (a single short step where two blocks meet does not
    count), and coincide with the slices of the first such run, which are then only shifted in plane (linearly,
    by a fraction of a pixel). Between acquired slices the two neighbours are interpolated linearly along the normal,
    which is the shortest way. Thick slices inside a run of thinner ones add nothing and are left out. Beyond the
    first and last slice the grid reaches as far as half their thickness. Voxels that no slice covers are air.
    """
    normal = np.cross(stack.x_direction, stack.y_direction)
    stack = stack.take(np.argsort(stack.positions_mm @ normal, kind="stable"))
    warnings: list[str] = []
    kept = not_covered_by_thinner(stack.positions_mm @ normal, stack.thicknesses_mm)
    if len(kept) < len(stack.planes):
        warnings.append(f"{len(stack.planes) - len(kept)} slices lie within thinner ones and were left out")
        stack = stack.take(kept)
    n = len(stack.planes)
    offsets = stack.positions_mm - stack.positions_mm[0]
    height = offsets @ normal
    in_plane = np.stack([offsets @ stack.x_direction, offsets @ stack.y_direction])  # [2, N]
    thicknesses = stack.thicknesses_mm
    spacing, first, regular = _spacing(height, thicknesses)
    if not np.isfinite(thicknesses).all():
        warnings.append(f"{THICKNESS_UNKNOWN}, taken to be the spacing between slices ({spacing:.2f} mm)")
        thicknesses = np.where(np.isfinite(thicknesses), thicknesses, spacing)
    counts = Counter(round(float(t), 2) for t in thicknesses)
    if len(counts) > 1:
        listed = ", ".join(f"{count} slices of {t:g} mm" for t, count in sorted(counts.items()))
        warnings.append(f"slice thickness changes within the series: {listed}")
    slide = in_plane[:, -1] - in_plane[:, 0]
    tilt = float(np.degrees(np.arctan2(np.hypot(*slide), height[-1]))) if n > 1 else 0.0
    straight = bool(np.abs(in_plane - in_plane.mean(axis=1, keepdims=True)).max() <= _TOLERANCE_MM)
    if straight and regular:
        tilt, planes, corner, lowest = 0.0, stack.planes, np.zeros(2), 0.0
    else:
        if not straight:
            warnings.append(
                f"slices step {tilt:.1f}° off their normal (gantry tilt): moved in plane onto a right-angled grid"
            )
        if not regular:
            warnings.append(
                f"spacing between slices changes ({np.diff(height).min():.2f} to {np.diff(height).max():.2f} mm): "
                f"resampled every {spacing:.2f} mm"
            )
        warnings.extend(_gap_remarks(height))
        below = int((height[first] - height[0] + thicknesses[0] / 2) / spacing + 1e-6)
        above = int((height[-1] - height[first] + thicknesses[-1] / 2) / spacing + 1e-6)
        if regular:  # output slices are the acquired ones
            below, above = first, n - 1 - first
        levels = height[first] + spacing * np.arange(-below, above + 1)
        pixel = np.asarray(stack.pixel_mm)
        before = np.ceil((in_plane[:, first] - in_plane.min(axis=1)) / pixel - _SNAP_PIXELS)
        corner = in_plane[:, first] - before * pixel
        extra = np.ceil((in_plane.max(axis=1) - corner) / pixel - _SNAP_PIXELS).astype(int)
        shape = (stack.planes.shape[1] + int(extra[1]), stack.planes.shape[2] + int(extra[0]))
        shifts = (corner[:, None] - in_plane) / pixel[:, None]  # output pixel i of slice k is its pixel i + shift
        planes = _sample(stack.planes, height, shifts, levels, shape, spacing)
        thicknesses = thicknesses[np.abs(levels[:, None] - height[None]).argmin(axis=1)]
        lowest = float(levels[0])
    affine = np.eye(4)
    affine[:3, 0] = stack.x_direction * stack.pixel_mm[0]
    affine[:3, 1] = stack.y_direction * stack.pixel_mm[1]
    affine[:3, 2] = normal * spacing
    affine[:3, 3] = stack.positions_mm[0] + corner[0] * stack.x_direction + corner[1] * stack.y_direction
    affine[:3, 3] += lowest * normal
    data = planes.transpose(2, 1, 0)
    return StraightStack(
        volume=Volume(data, Grid(data.shape, affine)),
        thicknesses_mm=thicknesses,
        tilt_deg=tilt,
        warnings=tuple(warnings),
        is_resampled=not (straight and regular),
    )


def not_covered_by_thinner(height: NDArray[np.float64], thicknesses: NDArray[np.float64]) -> NDArray[np.intp]:
    """Indices of slices that do not lie between (or on) two thinner slices within their own thickness."""
    kept = []
    for i, (h, t) in enumerate(zip(height, thicknesses, strict=True)):
        thinner = height[thicknesses < 0.8 * t]
        under, over = thinner[thinner <= h], thinner[thinner >= h]
        if not (under.size and over.size and over.min() - under.max() <= t):
            kept.append(i)
    return np.asarray(kept, dtype=np.intp)


def _spacing(height: NDArray[np.float64], thicknesses: NDArray[np.float64]) -> tuple[float, int, bool]:
    """Spacing of the output, a slice that it shall pass through, and whether all slices are that regular already."""
    if len(height) == 1:
        return (float(thicknesses[0]) if np.isfinite(thicknesses[0]) else 1.0), 0, True
    gaps = np.diff(height)
    mean = float(gaps.mean())
    tolerance = min(_TOLERANCE_MM, 0.2 * mean)
    if np.abs(height - height[0] - mean * np.arange(len(height))).max() <= tolerance:
        return mean, 0, True
    near = np.abs(np.diff(gaps)) <= np.maximum(_TOLERANCE * gaps[:-1], 0.05)  # gap i and the next are alike
    if not near.any():
        finest = float(np.percentile(gaps, 25, method="lower"))
        return finest, int(np.flatnonzero(gaps == finest)[0]), False
    starts = np.flatnonzero(near)
    finest = float(gaps[starts].min())
    alike = np.abs(gaps - finest) <= max(_TOLERANCE * finest, 0.05)
    return float(gaps[alike].mean()), int(np.flatnonzero(alike & np.append(near, False))[0]), False


@dataclass(frozen=True, kw_only=True)
class Gap:
    """A step between two slices that is at least 1.5 times as wide as those around it.

    Attributes:
        after: index of the slice below it.
        width_mm: how wide it is.
        spacing_mm: how wide the steps around it are.
        missing: about how many slices are not there.
    """

    after: int
    width_mm: float
    spacing_mm: float
    missing: int


def missing_slices(height: NDArray[np.float64]) -> list[Gap]:
    """The gaps between slices at `height` (`[N]`, ascending)."""
    steps, gaps = np.diff(height), []
    for i, step in enumerate(steps):
        around = np.concatenate([steps[max(0, i - 2) : i], steps[i + 1 : i + 3]])
        if around.size and step > 1.5 * np.median(around):
            usual = float(np.median(around))
            missing = max(1, round(float(step) / usual) - 1)
            gaps.append(Gap(after=i, width_mm=float(step), spacing_mm=usual, missing=missing))
    return gaps


def _gap_remarks(height: NDArray[np.float64]) -> list[str]:
    return [
        f"about {gap.missing} slices missing: the gap of {gap.width_mm:.1f} mm after slice {gap.after + 1} of "
        f"{len(height)} was interpolated"
        for gap in missing_slices(height)
    ]


def _sample(
    planes: NDArray[Any],
    height: NDArray[np.float64],
    shifts: NDArray[np.float64],
    levels: NDArray[np.float64],
    shape: tuple[int, int],
    spacing: float,
) -> NDArray[Any]:
    """`[len(levels), *shape]`: slices at `levels`, each from the one or two acquired slices beside it."""
    out = np.empty((len(levels), *shape), dtype=planes.dtype)
    snap = min(_TOLERANCE_MM, _TOLERANCE * spacing)
    for k, level in enumerate(levels):
        nearest = int(np.abs(height - level).argmin())
        above = int(np.searchsorted(height, level))
        if abs(height[nearest] - level) <= snap or above in (0, len(height)):
            values = _shifted(planes[nearest], shifts[:, nearest], shape)
        else:
            weight = (level - height[above - 1]) / (height[above] - height[above - 1])
            values = _shifted(planes[above - 1], shifts[:, above - 1], shape) * np.float32(1 - weight)
            values += _shifted(planes[above], shifts[:, above], shape) * np.float32(weight)
        out[k] = np.rint(values) if np.issubdtype(out.dtype, np.integer) else values
    return out


def _shifted(plane: NDArray[Any], shift_xy: NDArray[np.float64], shape: tuple[int, int]) -> NDArray[np.float32]:
    """`[Y, X]` whose pixel (y, x) is the plane's (y + shift_y, x + shift_x), linear between pixels, air outside."""
    moved = np.asarray(plane, dtype=np.float32)
    for axis, (shift, size) in enumerate(zip(shift_xy[::-1], shape, strict=True)):
        whole = int(np.rint(shift)) if abs(shift - np.rint(shift)) <= _SNAP_PIXELS else int(np.floor(shift))
        fraction = np.float32(max(0.0, shift - whole)) if abs(shift - whole) > _SNAP_PIXELS else np.float32(0)
        taken = _window(moved, whole, size, axis)
        if fraction:
            taken = (1 - fraction) * taken + fraction * _window(moved, whole + 1, size, axis)
        moved = taken
    return moved


def _window(plane: NDArray[np.float32], start: int, size: int, axis: int) -> NDArray[np.float32]:
    """`size` rows (axis 0) or columns (axis 1) from `start` on, air outside the plane."""
    plane = np.moveaxis(plane, axis, 0)
    out = np.full((size, plane.shape[1]), AIR_HU, dtype=np.float32)
    first, last = max(0, -start), min(size, plane.shape[0] - start)
    if first < last:
        out[first:last] = plane[first + start : last + start]
    return np.moveaxis(out, 0, axis)
