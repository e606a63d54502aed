"""Values against slice thickness: by stratum, and as the slope of a straight line.

A slope over all scans compares different patients as well as different thicknesses, and who gets which scan is not
random; a difference of two models' slopes on the same scans, and the slope within patients scanned at several
thicknesses, are free of that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from iac_lightning.evaluation.statistics.intervals import (
    MIN_PATIENTS,
    Interval,
    Kind,
    mean_ci,
    sums_ci,
    without_interval,
)
from iac_lightning.evaluation.statistics.jackknife import Floats, leave_one_out, ratio, student_interval
from iac_lightning.evaluation.statistics.paired import holm
from iac_lightning.evaluation.statistics.strata import THICKNESS_STRATA, Stratum, stratum_index


def by_stratum(
    values: ArrayLike,
    thickness_mm: ArrayLike,
    patients: ArrayLike,
    strata: Sequence[Stratum] = THICKNESS_STRATA,
    kind: Kind = "share",
) -> list[tuple[str, Interval]]:
    """Mean over the scans of each stratum with its interval over patients; pass a − b for two models' difference."""
    x, names = np.asarray(values, dtype=np.float64), np.asarray(patients)
    index = stratum_index(thickness_mm, strata)
    return [(name, mean_ci(x[index == k], names[index == k], kind)) for k, (name, _, _) in enumerate(strata)]


@dataclass(frozen=True, kw_only=True)
class Contrast:
    """A stratum against all others.

    Attributes:
        stratum: its name.
        difference: mean over its scans − mean over all other scans.
        holm_p: p of that difference after Holm's correction over the strata.
    """

    stratum: str
    difference: Interval
    holm_p: float


def stratum_contrasts(
    values: ArrayLike, thickness_mm: ArrayLike, patients: ArrayLike, strata: Sequence[Stratum] = THICKNESS_STRATA
) -> list[Contrast]:
    """Each stratum against all others; those with fewer than `MIN_PATIENTS`, in it or outside, are left out.

    Arguments as in `by_stratum`.
    """
    x, names = np.asarray(values, dtype=np.float64), np.asarray(patients)
    known = ~np.isnan(x)
    index = stratum_index(thickness_mm, strata)
    found = []
    for k, (name, _, _) in enumerate(strata):
        inside = (index == k) & known
        outside = (index != k) & known
        if min(len(np.unique(names[rows])) for rows in (inside, outside)) >= MIN_PATIENTS:
            found.append((name, _two_means(x, inside, outside, names)))
    adjusted = holm([difference.p for _, difference in found])
    return [Contrast(stratum=name, difference=d, holm_p=float(p)) for (name, d), p in zip(found, adjusted, strict=True)]


def _two_means(
    x: Floats, inside: NDArray[np.bool_], outside: NDArray[np.bool_], names: NDArray[np.generic]
) -> Interval:
    """Mean over some scans − mean over others, which may be of the same patients; scans in neither are left out."""
    columns = np.stack([inside, np.where(inside, x, 0), outside, np.where(outside, x, 0)], axis=-1)[inside | outside]
    share = inside[inside | outside].mean()
    # The slope over an indicator, whose spread is what the patients' scans add to.
    leverage = (inside[inside | outside] - share) ** 2

    def statistic(sums: Floats) -> Floats:
        return ratio(sums[..., 1], sums[..., 0]) - ratio(sums[..., 3], sums[..., 2])

    return sums_ci(columns, statistic, names[inside | outside], leverage=leverage)


def slope_ci(values: ArrayLike, thickness_mm: ArrayLike, patients: ArrayLike) -> Interval:
    """Least-squares slope of a value per mm of slice thickness, with a 95 % interval over patients.

    On the same scans the slope of a − b is the difference of the two slopes: pass a − b for the paired comparison.

    Args:
        values: `[n_scans]` values; nan are left out.
        thickness_mm: `[n_scans]`.
        patients: `[n_scans]`, whose scan it is.
    """
    y, x = _pair(values, thickness_mm)
    known = ~np.isnan(y)
    centred = x - x[known].mean() if known.any() else x
    return sums_ci(line_columns(centred, y), line_slope, patients, leverage=centred**2)


def line_columns(x: Floats, y: Floats) -> Floats:
    """What `line_slope` needs of each scan, `[..., 5]`."""
    return np.stack([np.ones_like(x), x, y, x**2, x * y], axis=-1)


def line_slope(sums: Floats) -> Floats:
    """Least-squares slope from sums of `line_columns`; nan where all thicknesses are one."""
    n, sx, sy, sxx, sxy = np.moveaxis(sums, -1, 0)
    spread = sxx - ratio(sx**2, n)
    return ratio(sxy - ratio(sx * sy, n), np.where(spread > 1e-12 * np.maximum(sxx, 1), spread, 0.0))


def within_patient_slope_ci(values: ArrayLike, thickness_mm: ArrayLike, patients: ArrayLike) -> Interval:
    """Slope per mm on the same heads: deviations from each patient's means (the fixed-effects estimator).

    Only patients with scans of different thickness contribute, and only they and their scans are counted; where they
    are too few for an interval, each patient's own slope stands. Arguments as in `slope_ci`.
    """
    y, x = _pair(values, thickness_mm)
    names = np.asarray(patients)
    x, y, names = x[~np.isnan(y)], y[~np.isnan(y)], names[~np.isnan(y)]
    _, codes = np.unique(names, return_inverse=True)
    if not len(x):
        return sums_ci(np.zeros((0, 2)), lambda sums: sums[..., 0], names)
    counts = np.bincount(codes)
    dx, dy = (v - (np.bincount(codes, weights=v) / counts)[codes] for v in (x, y))
    spread = np.bincount(codes, weights=dx**2)
    varied = (spread > 1e-9)[codes]
    columns = np.stack([dx * dy, dx**2], axis=-1)[varied]
    slope = sums_ci(columns, lambda sums: ratio(sums[..., 0], sums[..., 1]), names[varied], leverage=columns[:, 1])
    if slope.n_patients >= MIN_PATIENTS:
        return slope
    own = np.bincount(codes, weights=dx * dy)[spread > 1e-9] / spread[spread > 1e-9]
    return without_interval(slope.estimate, slope.n, slope.n_patients, own)


def line_band(
    x: NDArray[np.float64], y: NDArray[np.float64], patients: NDArray[np.str_], grid: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """The least-squares line at some thicknesses and its pointwise 95 % band over patients.

    Args:
        x: `[n]` slice thickness of each scan.
        y: `[n]` value of each scan.
        patients: `[n]` whose scan it is.
        grid: `[k]` thicknesses where the line is wanted.

    Returns:
        Line, lower and upper end of the band, each `[k]`; the band is nan below `MIN_PATIENTS` patients.
    """
    _, codes = np.unique(patients, return_inverse=True)
    middle = x.mean()
    x, grid = x - middle, grid - middle
    sums = np.stack([np.bincount(codes, weights=c).astype(np.float64) for c in line_columns(x, y).T], axis=-1)
    spread = sums[:, 3] / sums[:, 3].sum() if sums[:, 3].any() else 0 * sums[:, 3]
    scans = sums[:, 0] / sums[:, 0].sum()

    def line(at: float) -> tuple[float, float, float]:
        def value(total: Floats) -> Floats:
            return ratio(total[..., 2], total[..., 0]) + line_slope(total) * (at - ratio(total[..., 1], total[..., 0]))

        # Of a line's value at x, mean and slope have the shares 1/n and (x − mean)² / Σ(x − mean)² of the variance.
        leverage = scans / sums[:, 0].sum() + spread * at**2 / sums[:, 3].sum() if sums[:, 3].any() else scans
        found = leave_one_out(sums, value, leverage)
        low, high = student_interval(found)
        return float(found.estimate), float(low), float(high)

    lines = np.array([line(float(at)) for at in grid])
    if len(sums) < MIN_PATIENTS:
        lines[:, 1:] = np.nan
    return lines[:, 0], lines[:, 1], lines[:, 2]


def _pair(values: ArrayLike, thickness_mm: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    y, x = np.asarray(values, dtype=np.float64), np.asarray(thickness_mm, dtype=np.float64)
    if y.ndim != 1 or x.shape != y.shape or not np.isfinite(x).all():
        raise ValueError(f"values of shape {y.shape} need as many finite thicknesses, got shape {x.shape}")
    return y, x
