"""Values against slice thickness: by stratum, and as the slope of a straight line.

A slope over all scans compares different patients as well as different thicknesses, and who gets which scan is not
random; a difference of two models' slopes on the same scans, and the slope within patients scanned at several
thicknesses, are free of that.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from iac_lightning.evaluation.statistics.bootstrap import RESAMPLES, Interval, mean_ci, ratio, sums_ci
from iac_lightning.evaluation.statistics.strata import THICKNESS_STRATA, Stratum, stratum_index


def by_stratum(
    values: ArrayLike,
    thickness_mm: ArrayLike,
    patients: ArrayLike,
    strata: Sequence[Stratum] = THICKNESS_STRATA,
    *,
    seed: int,
    resamples: int = RESAMPLES,
) -> list[tuple[str, Interval]]:
    """Mean over the scans of each stratum with its interval over patients; pass a − b for two models' difference."""
    x, names = np.asarray(values, dtype=np.float64), np.asarray(patients)
    index = stratum_index(thickness_mm, strata)
    return [
        (name, mean_ci(x[index == k], names[index == k], seed=seed, resamples=resamples))
        for k, (name, _, _) in enumerate(strata)
    ]


def slope_ci(
    values: ArrayLike, thickness_mm: ArrayLike, patients: ArrayLike, *, seed: int, resamples: int = RESAMPLES
) -> Interval:
    """Least-squares slope of a value per mm of slice thickness, with a 95 % percentile interval over patients.

    On the same scans the slope of a − b is the difference of the two slopes: pass a − b for the paired comparison.

    Args:
        values: `[n_scans]` values; nan are left out.
        thickness_mm: `[n_scans]`.
        patients: `[n_scans]`, whose scan it is.
        seed: decides the draws.
        resamples: number of resamples; those of one thickness only have no slope and are left out.
    """
    y, x = _pair(values, thickness_mm)

    def statistic(sums: NDArray[np.float64]) -> NDArray[np.float64]:
        n, sx, sy, sxx, sxy = np.moveaxis(sums, -1, 0)
        spread = sxx - sx**2 / n
        return ratio(sxy - sx * sy / n, np.where(spread > 1e-12 * sxx, spread, 0.0))

    columns = np.stack([np.ones_like(x), x, y, x**2, x * y], axis=-1)
    return sums_ci(columns, statistic, patients, seed=seed, resamples=resamples)


def within_patient_slope_ci(
    values: ArrayLike, thickness_mm: ArrayLike, patients: ArrayLike, *, seed: int, resamples: int = RESAMPLES
) -> Interval:
    """Slope per mm on the same heads: deviations from each patient's means (the fixed-effects estimator).

    Only patients with scans of different thickness contribute, and only they and their scans are counted. Arguments
    as in `slope_ci`.
    """
    y, x = _pair(values, thickness_mm)
    names = np.asarray(patients)
    x, y, names = x[~np.isnan(y)], y[~np.isnan(y)], names[~np.isnan(y)]
    _, codes = np.unique(names, return_inverse=True)
    if not len(x):
        return sums_ci(np.zeros((0, 2)), lambda sums: sums[..., 0], names, seed=seed)
    counts = np.bincount(codes)
    dx, dy = (v - (np.bincount(codes, weights=v) / counts)[codes] for v in (x, y))
    varied = (np.bincount(codes, weights=dx**2) > 1e-9)[codes]
    columns = np.stack([dx * dy, dx**2], axis=-1)[varied]
    return sums_ci(
        columns, lambda sums: ratio(sums[..., 0], sums[..., 1]), names[varied], seed=seed, resamples=resamples
    )


def line_band(
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    patients: NDArray[np.str_],
    grid: NDArray[np.float64],
    seed: int,
    resamples: int,
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """The least-squares line at some thicknesses and its pointwise 95 % percentile band over patients.

    Args:
        x: `[n]` slice thickness of each scan.
        y: `[n]` value of each scan.
        patients: `[n]` whose scan it is.
        grid: `[k]` thicknesses where the line is wanted.
        seed: of the bootstrap.
        resamples: of the bootstrap.

    Returns:
        Line, lower and upper end of the band, each `[k]`; the band is nan where there is one patient.
    """
    _, codes = np.unique(patients, return_inverse=True)
    n = int(codes.max()) + 1
    columns = np.stack([np.ones_like(x), x, y, x**2, x * y], axis=-1)
    sums = np.stack([np.bincount(codes, weights=column, minlength=n) for column in columns.T], axis=-1)
    times = np.random.default_rng([seed, n]).multinomial(n, np.full(n, 1 / n), size=resamples)

    def lines(total: NDArray[np.float64]) -> NDArray[np.float64]:
        count, sx, sy, sxx, sxy = np.moveaxis(total, -1, 0)[..., None]
        with np.errstate(invalid="ignore", divide="ignore"):
            slope = (sxy - sx * sy / count) / (sxx - sx**2 / count)
            return sy / count + slope * (grid - sx / count)

    resampled = lines(times.astype(np.float64) @ sums)
    resampled = resampled[np.isfinite(resampled).all(axis=1)]
    low, high = (
        np.quantile(resampled, [0.025, 0.975], axis=0) if n > 1 and len(resampled) else np.full((2, len(grid)), np.nan)
    )
    return lines(sums.sum(axis=0)), low, high


def _pair(values: ArrayLike, thickness_mm: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    y, x = np.asarray(values, dtype=np.float64), np.asarray(thickness_mm, dtype=np.float64)
    if y.ndim != 1 or x.shape != y.shape or not np.isfinite(x).all():
        raise ValueError(f"values of shape {y.shape} need as many finite thicknesses, got shape {x.shape}")
    return y, x
