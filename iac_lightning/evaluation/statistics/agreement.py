"""Agreement of two measurements of the same thing: predicted and labelled volume, or two readers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from iac_lightning.evaluation.statistics.bootstrap import RESAMPLES, Interval, ratio, sums_ci


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


def icc_2_1(ratings: ArrayLike) -> float:
    """ICC(2,1): absolute agreement of single measurements, two-way random effects (Shrout & Fleiss 1979).

    Args:
        ratings: `[n, k]`, n subjects measured by k raters.

    Returns:
        The coefficient; nan with fewer than two subjects or raters, or without any variance.
    """
    table, rows, columns, error = _mean_squares(ratings)
    n, k = table.shape
    return _ratio(rows - error, rows + (k - 1) * error + k * (columns - error) / n)


def icc_3_1(ratings: ArrayLike) -> float:
    """ICC(3,1): consistency of single measurements, two-way mixed effects (Shrout & Fleiss 1979).

    A constant offset between raters does not lower it. Arguments and result as in `icc_2_1`.
    """
    table, rows, _, error = _mean_squares(ratings)
    return _ratio(rows - error, rows + (table.shape[1] - 1) * error)


def ccc(measurement: ArrayLike, reference: ArrayLike) -> float:
    """Lin's concordance correlation coefficient (Lin 1989), with variances over n; nan without any variance."""
    x, y = _pair(measurement, reference)
    if len(x) < 2:
        return float("nan")
    covariance = ((x - x.mean()) * (y - y.mean())).mean()
    return _ratio(2 * covariance, x.var() + y.var() + (x.mean() - y.mean()) ** 2)


def ccc_ci(
    measurement: ArrayLike, reference: ArrayLike, patients: ArrayLike, *, seed: int, resamples: int = RESAMPLES
) -> Interval:
    """Lin's concordance correlation coefficient with a 95 % percentile interval over patients."""
    x, y = _pair(measurement, reference)
    centre = (x.mean() + y.mean()) / 2 if len(x) else 0.0  # sums of squares of large volumes lose digits
    x, y = x - centre, y - centre

    def statistic(sums: NDArray[np.float64]) -> NDArray[np.float64]:
        n, sx, sy, squares, product = np.moveaxis(sums, -1, 0)
        mx, my, power = sx / n, sy / n, squares / n
        scale = power - 2 * mx * my  # both variances and the squared difference of the means
        return ratio(2 * (product / n - mx * my), np.where(scale > 1e-12 * power, scale, 0.0))

    columns = np.stack([np.ones_like(x), x, y, x**2 + y**2, x * y], axis=-1)
    return sums_ci(columns, statistic, patients, seed=seed, resamples=resamples)


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


def _mean_squares(ratings: ArrayLike) -> tuple[NDArray[np.float64], float, float, float]:
    """The table and its mean squares between subjects, between raters and of the residual."""
    table = np.asarray(ratings, dtype=np.float64)
    if table.ndim != 2:
        raise ValueError(f"ratings of shape {table.shape}, expected [subjects, raters]")
    n, k = table.shape
    if n < 2 or k < 2:
        return table, float("nan"), float("nan"), float("nan")
    subject, rater, mean = table.mean(axis=1), table.mean(axis=0), table.mean()
    rows = k * ((subject - mean) ** 2).sum() / (n - 1)
    columns = n * ((rater - mean) ** 2).sum() / (k - 1)
    residual = table - subject[:, None] - rater[None, :] + mean
    return table, float(rows), float(columns), float((residual**2).sum() / ((n - 1) * (k - 1)))


def _ratio(numerator: float, denominator: float) -> float:
    return float(numerator / denominator) if denominator != 0 else float("nan")
