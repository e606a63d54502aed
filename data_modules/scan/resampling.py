"""Slice-thickness-aware resampling between grids that share directions, both ways, axis by axis.

A voxel averages the object over a profile. A box profile of width w has variance w²/12, and variances add, so going
from width t to a thicker T takes a filter of variance (T² − t²)/12; going thinner takes interpolation, which invents
no detail. The profile width along a slice axis is the slice thickness t, which is not the spacing s: slices overlap
(t > s) or leave gaps (t < s).

Everything is linear and separable: each axis has an operator matrix `[targets, sources]` whose rows sum to 1 (images
and probabilities) or to the covered share of the target voxel (occupancy).
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from data_modules.scan.geometry import AIR_HU, Grid, Volume

PROFILES = ("overlap", "gaussian", "linear")
_DIRECTION_TOLERANCE = 1e-3
_EDGE = 1e-4  # share of a voxel: rounding of affines must not push an outermost voxel out of the field of view


def resample_image(
    volume: Volume,
    target: Grid,
    slab_mm: tuple[float, float, float] | None = None,
    target_slab_mm: tuple[float, float, float] | None = None,
    profile: str = "overlap",
    fill: float = AIR_HU,
) -> Volume:
    """Resample HU to another voxel size, averaging where the target's profile is wider and interpolating elsewhere.

    Per axis, with source spacing s, source profile width t and target profile width T:

    - ``"overlap"``: average of the source cells (width s) by their exact overlap with a box of width
      B = √(T² − t² + s²), which is T where t = s and gives the variance T²/12 where slices overlap (t > s). B falls to
      s as T falls to t, and a box of width s *is* linear interpolation. A slice with a gap (t < s) stands for its
      whole cell: t is raised to s.
    - ``"gaussian"``: the linear interpolant filtered by a Gaussian such that both together have the variance
      (T² − t²)/12; linear interpolation alone brings s²/6 on average, so up to there it stands alone.
    - ``"linear"``: linear interpolation whatever the widths (what careless resampling does).

    Args:
        volume: `[X, Y, Z]` HU.
        target: grid with the same directions; any voxel size, offset and extent.
        slab_mm: widths of the source's profile along its axes; by default its spacing. See `slab_widths`.
        target_slab_mm: widths of the target's profile; by default its spacing.
        profile: one of `PROFILES`.
        fill: value of target voxels whose centre lies outside the source's field of view (voxel edges included).
            A voxel that is at least half covered is the average of what covers it.

    Returns:
        float32 on `target`.

    Raises:
        ValueError: for grids of different directions, an unknown profile or a width that is not positive.
    """
    if profile not in PROFILES:
        raise ValueError(f"unknown profile {profile!r}; choose one of {', '.join(PROFILES)}")
    slab = volume.grid.spacing_mm if slab_mm is None else slab_mm
    target_slab = target.spacing_mm if target_slab_mm is None else target_slab_mm
    if min(*slab, *target_slab) <= 0:
        raise ValueError(f"profile widths must be positive, got {slab} mm and {target_slab} mm")
    operators = [
        _image_operator(*axis, _rounded(slab[k]), _rounded(target_slab[k]), profile)
        for k, axis in enumerate(_axes(volume.grid, target))
    ]
    data = _apply(volume.data, operators)
    for k, operator in enumerate(operators):
        data[(slice(None),) * k + (~operator.any(axis=1),)] = fill
    return Volume(data, target)


def resample_occupancy(mask: Volume, target: Grid) -> Volume:
    """The share of each target voxel that a native mask covers: a soft label that keeps the mask's volume.

    Args:
        mask: `[X, Y, Z]` bool (or occupancy in [0, 1]); nothing lies outside its grid.
        target: grid with the same directions.

    Returns:
        float32 in [0, 1] on `target`; sum × voxel volume equals the mask's where `target` covers it.

    Raises:
        ValueError: for grids of different directions.
    """
    operators = [_overlap(*axis, axis[3]) / np.float32(axis[3]) for axis in _axes(mask.grid, target)]
    return Volume(np.clip(_apply(mask.data, operators), 0, 1), target)


def resample_probability(probability: Volume, target: Grid) -> Volume:
    """Probabilities to another grid: average by overlap where the target is coarser, linear where it is finer.

    Outside the source's field of view the probability is 0.

    Args:
        probability: `[X, Y, Z]` in [0, 1].
        target: grid with the same directions.

    Returns:
        float32 in [0, 1] on `target`.

    Raises:
        ValueError: for grids of different directions.
    """
    resampled = resample_image(probability, target, fill=0.0)
    return resampled.with_data(np.clip(resampled.data, 0, 1))


def resample_peak(volume: Volume, target: Grid, fill: float = AIR_HU) -> Volume:
    """The largest of the source voxels that overlap each target voxel, by more than the rounding of affines.

    A source voxel of at least some value therefore leaves at least that value in every target voxel that it reaches
    into: unlike an average, a threshold of the result misses none.

    Args:
        volume: `[X, Y, Z]`.
        target: grid with the same directions.
        fill: value where no source voxel overlaps.

    Returns:
        Of the source's type, on `target`.

    Raises:
        ValueError: for grids of different directions.
    """
    data = volume.data
    for k, axis in enumerate(_axes(volume.grid, target)):
        least = _EDGE * min(axis[1], axis[3])
        overlaps = _overlap(*axis, axis[3]) > least
        first, count = overlaps.argmax(axis=1), overlaps.sum(axis=1)
        peak = data.take(first, axis=k)
        for step in range(1, int(count.max())):
            np.maximum(peak, data.take(first + np.minimum(step, np.maximum(count - 1, 0)), axis=k), out=peak)
        peak[(slice(None),) * k + (count == 0,)] = fill
        data = peak
    return Volume(data, target)


def probability_on_scan(probability: Volume, scan_hu: Volume, restrict_hu: float | None) -> Volume:
    """What a network says of a region, on the scan's own voxels.

    A network that learnt under the restricted objective (`loss.restrict_hu`) has never been told about darker voxels:
    its probability there is 0, by the scan's own HU.

    Args:
        probability: `[X, Y, Z]` on the common grid.
        scan_hu: the region on the scan's grid.
        restrict_hu: darkest voxel that the network learnt of; None: it learnt of all.

    Returns:
        float32 in [0, 1] on the grid of `scan_hu`.
    """
    native = resample_probability(probability, scan_hu.grid)
    if restrict_hu is None:
        return native
    return native.with_data(np.where(scan_hu.data >= restrict_hu, native.data, np.float32(0)))


def reimage(
    volume: Volume,
    axis: int,
    thickness_mm: float,
    target_thickness_mm: float,
    target_spacing_mm: float | None = None,
    profile: str = "overlap",
) -> Volume:
    """The volume as thicker slices would have shown it.

    Args:
        volume: `[X, Y, Z]` HU.
        axis: the array axis across slices.
        thickness_mm: profile width along `axis` now.
        target_thickness_mm: profile width to reach; nothing is filtered where it is not larger.
        target_spacing_mm: distance of the new slices, which cover the volume around its centre; by default the slices
            stay where they are.
        profile: one of `PROFILES`.

    Returns:
        float32, on the same grid or on one that differs along `axis` alone.

    Raises:
        ValueError: for an unknown profile or a width that is not positive.
    """
    grid = volume.grid
    if target_spacing_mm is not None:
        spacing = _with(grid.spacing_mm, axis, target_spacing_mm)
        grid = grid.with_spacing(spacing, grid.size_mm)
    slab = _with(volume.grid.spacing_mm, axis, thickness_mm)
    target_slab = _with(volume.grid.spacing_mm, axis, target_thickness_mm)
    return resample_image(volume, grid, slab, target_slab, profile)


def slab_widths(grid: Grid, slice_axis: int, slice_thickness_mm: float) -> tuple[float, float, float]:
    """Profile widths along a scan's axes: its spacing in plane, its slice thickness across slices.

    Slice thickness is measured at right angles to the slices; on a sheared grid (gantry tilt) the axis across slices
    is oblique to them, and a slab's width along it is larger by 1 / cos(tilt).
    """
    step = grid.affine[:3, slice_axis]
    first, second = (grid.affine[:3, k] for k in range(3) if k != slice_axis)
    normal = np.cross(first, second)
    cosine = abs(float(step @ normal)) / float(np.linalg.norm(step) * np.linalg.norm(normal))
    return _with(grid.spacing_mm, slice_axis, slice_thickness_mm / cosine)


def _with(widths: tuple[float, float, float], axis: int, value: float) -> tuple[float, float, float]:
    x, y, z = (value if k == axis else width for k, width in enumerate(widths))
    return x, y, z


def _rounded(value: float) -> float:
    """Nanometres are noise of the affine: rounding lets equal grids share a cached operator."""
    return round(float(value), 6)


def _axes(source: Grid, target: Grid) -> list[tuple[int, float, int, float, float]]:
    """Per axis: sources, their spacing, targets, their spacing, and the first target's place from the first source."""
    if np.abs(source.directions - target.directions).max() > _DIRECTION_TOLERANCE:
        raise ValueError(
            f"grids have different directions ({source.axis_codes} and {target.axis_codes}):\n"
            f"{source.directions.round(4)}\n{target.directions.round(4)}\nbring both to one orientation first"
        )
    middle = (np.asarray(target.shape) - 1) / 2  # where tiny differences of direction do least harm
    center = source.to_index(target.center_ras_mm) * source.spacing_mm
    first = center - middle * target.spacing_mm
    return [
        (
            source.shape[k],
            _rounded(source.spacing_mm[k]),
            target.shape[k],
            _rounded(target.spacing_mm[k]),
            _rounded(first[k]),
        )
        for k in range(3)
    ]


@lru_cache(maxsize=256)
def _image_operator(
    n: int, spacing: float, m: int, target_spacing: float, first: float, slab: float, target_slab: float, profile: str
) -> NDArray[np.float32]:
    """`[m, n]` weights of one axis; rows sum to 1, or are empty where the target's centre is out of the field of view.

    Lengths are in mm, from the centre of the first source voxel.
    """
    variance = max(0.0, target_slab**2 - slab**2) / 12
    if profile == "gaussian" and variance > spacing**2 / 6:
        operator = _smoothed_linear(n, spacing, m, target_spacing, first, np.sqrt(variance - spacing**2 / 6))
    else:
        slab = max(slab, spacing)
        widening = max(0.0, target_slab**2 - slab**2) if profile == "overlap" else 0.0
        operator = _overlap(n, spacing, m, target_spacing, first, float(np.sqrt(widening + spacing**2)))
    centers = first + target_spacing * np.arange(m)
    inside = (centers >= -(0.5 + _EDGE) * spacing) & (centers <= (n - 0.5 + _EDGE) * spacing)
    operator = np.where(inside[:, None], operator, 0)
    operator /= np.where(inside, operator.sum(axis=1), 1)[:, None]
    weights = operator.astype(np.float32)
    weights.setflags(write=False)
    return weights


def _overlap(n: int, spacing: float, m: int, target_spacing: float, first: float, width: float) -> NDArray[np.float64]:
    """`[m, n]` lengths (mm) that boxes of `width` around the targets share with the source cells."""
    source = spacing * np.arange(n)
    target = first + target_spacing * np.arange(m)[:, None]
    upper = np.minimum(target + width / 2, source + spacing / 2)
    lower = np.maximum(target - width / 2, source - spacing / 2)
    return np.maximum(upper - lower, 0)


def _smoothed_linear(
    n: int, spacing: float, m: int, target_spacing: float, first: float, sigma: float
) -> NDArray[np.float64]:
    """`[m, n]` weights of linear interpolation followed by a continuous Gaussian, in closed form.

    The hat function is the second difference of the ramp max(0, x), whose Gaussian average is x·Φ(x/σ) + σ·φ(x/σ).
    """
    distance = first + target_spacing * np.arange(m)[:, None] - spacing * np.arange(n)

    def ramp(x: NDArray[np.float64]) -> NDArray[np.float64]:
        return x * ndtr(x / sigma) + sigma / np.sqrt(2 * np.pi) * np.exp(-0.5 * (x / sigma) ** 2)

    weights = (ramp(distance + spacing) - 2 * ramp(distance) + ramp(distance - spacing)) / spacing
    return np.where(np.abs(distance) < 4 * sigma + spacing, np.maximum(weights, 0), 0)


def _apply(data: NDArray[Any], operators: list[Any]) -> NDArray[np.float32]:
    """`[X, Y, Z]` through one operator an axis; reads only the source voxels that carry weight."""
    used: list[slice] = []
    for operator in operators:
        columns = np.flatnonzero(operator.any(axis=0))
        used.append(slice(columns[0], columns[-1] + 1) if columns.size else slice(0, 1))
    out = np.ascontiguousarray(data[tuple(used)], dtype=np.float32)
    shrink = [operator.shape[0] / max(1, n) for operator, n in zip(operators, out.shape, strict=True)]
    for k in np.argsort(shrink):  # what shrinks most goes first: least work
        matrix = operators[k][:, used[k]].astype(np.float32)
        if k == 0:
            out = (matrix @ out.reshape(out.shape[0], -1)).reshape(-1, *out.shape[1:])
        elif k == 1:
            out = matrix @ out
        else:
            out = out @ matrix.T
    return out
