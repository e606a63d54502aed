"""Agreement of two measurements of the same thing: predicted and labelled volume, or two readers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from iac_lightning.evaluation.statistics.intervals import Interval, sums_ci
from iac_lightning.evaluation.statistics.jackknife import CORRELATION, Floats, Statistic, ratio


@dataclass(frozen=True, kw_only=True)
class BlandAltman:
    """Bias and 95 % limits of agreement of measurement − reference, in the measurement's unit.

    Attributes:
        bias: mean difference.
        low: bias − 1.96 standard deviations (n − 1) of the differences.
        high: bias + 1.96 standard deviations.
    """

    bias: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class VolumeError:
    """Errors of measured volumes.

    Attributes:
        median_absolute: median of |measurement − reference|.
        mean_signed: mean of measurement − reference.
    """

    median_absolute: float
    mean_signed: float


def agreement_ci(ratings: ArrayLike, patients: ArrayLike, coefficient: Statistic) -> Interval:
    """A coefficient of agreement with its 95 % interval over patients, on the scale of Fisher's z.

    A few large volumes decide a coefficient of volumes, so its degrees of freedom are those of the patients' shares of
    the volumes' spread, not of their scans: without that intervals cover 87–92 % whatever the number of patients
    (`benchmarks.coverage`).

    Args:
        ratings: `[n, k]`, n scans measured by k raters.
        patients: `[n]`, whose scan it is.
        coefficient: `icc_2_1`, `icc_3_1` or `ccc`.

    Returns:
        The interval; its ends are nan where agreement is perfect, which does not tell how far it may be from that.
    """
    table = _ratings(ratings)
    if len(table):
        table = table - table.mean()  # no coefficient depends on it, and sums of squares round less
    columns = rating_columns(table)
    spread = ((table - table.mean(axis=0)) ** 2).sum(axis=-1) if len(table) else np.zeros(0)
    return sums_ci(columns, coefficient, patients, size=spread, scale=CORRELATION)


def rating_columns(ratings: Floats) -> Floats:
    """What the coefficients need of each scan `[..., k]` → `[..., k + 3]`; they take the sums over scans."""
    one, total = np.ones_like(ratings[..., :1]), ratings.sum(axis=-1, keepdims=True)
    return np.concatenate([one, ratings, total**2, (ratings**2).sum(axis=-1, keepdims=True)], axis=-1)


def icc_2_1(sums: Floats) -> Floats:
    """ICC(2,1): absolute agreement of single measurements, two-way random effects (Shrout & Fleiss 1979).

    Args:
        sums: `[..., k + 3]` of `rating_columns` over n scans measured by k raters.

    Returns:
        The coefficients `[...]`; nan with fewer than two scans, or without any variance.
    """
    n, k, rows, columns, error = _mean_squares(sums)
    return ratio(rows - error, rows + (k - 1) * error + k * ratio(columns - error, n))


def icc_3_1(sums: Floats) -> Floats:
    """ICC(3,1): consistency of single measurements, two-way mixed effects (Shrout & Fleiss 1979).

    A constant offset between raters does not lower it. Arguments and result as in `icc_2_1`.
    """
    _, k, rows, _, error = _mean_squares(sums)
    return ratio(rows - error, rows + (k - 1) * error)


def ccc(sums: Floats) -> Floats:
    """Lin's concordance correlation coefficient of two measurements (Lin 1989), with variances over n.

    Arguments and result as in `icc_2_1`.
    """
    n, x, y, total_squares, squares = np.moveaxis(sums, -1, 0)
    variances = squares - ratio(x**2 + y**2, n)
    variances = np.where(variances > 1e-12 * squares, variances, 0.0)
    covariances = total_squares - squares - ratio(2 * x * y, n)
    return np.where(n > 1, ratio(covariances, variances + ratio((x - y) ** 2, n)), np.nan)


def bland_altman(measurement: ArrayLike, reference: ArrayLike) -> BlandAltman:
    """Bias and limits of agreement of measurement − reference (Bland & Altman 1986); nan below two pairs."""
    x, y = _pair(measurement, reference)
    if len(x) < 2:
        return BlandAltman(bias=float("nan"), low=float("nan"), high=float("nan"))
    bias, spread = float((x - y).mean()), 1.96 * float((x - y).std(ddof=1))
    return BlandAltman(bias=bias, low=bias - spread, high=bias + spread)


def volume_error(measurement: ArrayLike, reference: ArrayLike) -> VolumeError:
    """Median absolute and mean signed error of measurement − reference; nan without a pair."""
    x, y = _pair(measurement, reference)
    if not len(x):
        return VolumeError(median_absolute=float("nan"), mean_signed=float("nan"))
    return VolumeError(median_absolute=float(np.median(np.abs(x - y))), mean_signed=float((x - y).mean()))


def _pair(measurement: ArrayLike, reference: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    x, y = np.asarray(measurement, dtype=np.float64), np.asarray(reference, dtype=np.float64)
    if x.ndim != 1 or x.shape != y.shape:
        raise ValueError(f"measurements of shape {x.shape} against references of shape {y.shape}")
    return x, y


def _ratings(ratings: ArrayLike) -> Floats:
    table = np.asarray(ratings, dtype=np.float64)
    if table.ndim != 2 or table.shape[1] < 2:
        raise ValueError(f"ratings of shape {table.shape}, expected [scans, raters] of two raters or more")
    return table


def _mean_squares(sums: Floats) -> tuple[Floats, int, Floats, Floats, Floats]:
    """Number of scans and raters; mean squares between scans, between raters and of the residual."""
    n, by_rater, total_squares, squares = sums[..., 0], sums[..., 1:-2], sums[..., -2], sums[..., -1]
    k = by_rater.shape[-1]
    middle = ratio(by_rater.sum(axis=-1) ** 2, n * k)
    rows = total_squares / k - middle
    columns = ratio((by_rater**2).sum(axis=-1), n) - middle
    residual = squares - middle - rows - columns
    rounding = 1e-12 * squares
    rows, columns, residual = (np.where(np.abs(part) > rounding, part, 0.0) for part in (rows, columns, residual))
    n = np.where(n > 1, n, np.nan)
    return n, k, rows / (n - 1), columns / (k - 1), residual / ((n - 1) * (k - 1))
