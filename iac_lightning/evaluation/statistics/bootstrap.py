"""Uncertainty over patients: percentile bootstrap, paired comparison of two models, Holm's correction.

Series of one patient are alike, so patients are drawn, each with all its series (a cluster bootstrap). Patients are
drawn in the order of their sorted names: the order of rows does not change an interval.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

RESAMPLES = 10_000
"""Resamples of an interval of a mean."""

_DRAWS_AT_ONCE = 4_000_000


@dataclass(frozen=True, kw_only=True)
class Interval:
    """An estimate and its percentile bootstrap interval.

    Attributes:
        estimate: of the sample itself.
        low: lower end; nan below two patients, which cannot tell how much patients differ.
        high: upper end.
        n: scans behind it (those where the value is defined).
        n_patients: patients behind it.
    """

    estimate: float
    low: float
    high: float
    n: int
    n_patients: int


@dataclass(frozen=True, kw_only=True)
class PairedDifference:
    """Model a against model b on the same scans.

    Attributes:
        difference: mean of a − b over scans, with its interval over patients.
        wilcoxon_p: two-sided Wilcoxon signed-rank test on each patient's mean difference; 1 when all are zero,
            nan without a pair.
        wins: scans where a is higher.
        ties: scans where both are equal.
        losses: scans where a is lower.
    """

    difference: Interval
    wilcoxon_p: float
    wins: int
    ties: int
    losses: int


def mean_ci(
    values: ArrayLike, patients: ArrayLike, *, seed: int, resamples: int = RESAMPLES, confidence: float = 0.95
) -> Interval:
    """Mean over scans with a percentile interval over patients.

    A resample draws as many patients as there are, with replacement; its mean is the sum over all their scans divided
    by the number of those scans. Per-patient sums and counts make it one indexing operation.

    Args:
        values: `[n_scans]`; nan marks scans where the value is undefined, which are left out.
        patients: `[n_scans]`, whose scan it is.
        seed: decides the draws.
        resamples: number of resamples.
        confidence: coverage of the interval.
    """
    x, codes = _defined(values, patients)
    n_patients = int(codes.max()) + 1 if len(codes) else 0
    estimate = float(x.mean()) if len(x) else float("nan")
    if n_patients < 2:
        return Interval(estimate=estimate, low=float("nan"), high=float("nan"), n=len(x), n_patients=n_patients)
    sums, counts = np.bincount(codes, weights=x), np.bincount(codes)
    means = [sums[draw].sum(axis=1) / counts[draw].sum(axis=1) for draw in _draws(n_patients, resamples, seed)]
    low, high = _percentiles(np.concatenate(means), confidence)
    return Interval(estimate=estimate, low=low, high=high, n=len(x), n_patients=n_patients)


def statistic_ci(
    statistic: Callable[[NDArray[np.intp]], float],
    patients: ArrayLike,
    *,
    seed: int,
    resamples: int = 2_000,
    confidence: float = 0.95,
) -> Interval:
    """Percentile interval over patients of any statistic of rows.

    Args:
        statistic: takes row indices `[m]` (with repeats) and returns the value of those rows; a nan (for example
            no variance in a resample) is left out of the percentiles.
        patients: `[n_scans]`, whose row it is.
        seed: decides the draws.
        resamples: number of resamples; each calls `statistic` once.
        confidence: coverage of the interval.
    """
    names = np.asarray(patients)
    _, codes = np.unique(names, return_inverse=True)
    counts = np.bincount(codes) if len(codes) else np.zeros(0, dtype=int)
    estimate = float(statistic(np.arange(len(codes)))) if len(codes) else float("nan")
    low = high = float("nan")
    if len(counts) >= 2:
        by_patient = np.argsort(codes, kind="stable")
        first = np.cumsum(counts) - counts
        results = []
        for draws in _draws(len(counts), resamples, seed):
            for draw in draws:
                n = counts[draw]
                within = np.arange(n.sum()) - np.repeat(np.cumsum(n) - n, n)
                results.append(statistic(by_patient[np.repeat(first[draw], n) + within]))
        defined = np.asarray(results)[~np.isnan(results)]
        if len(defined):
            low, high = _percentiles(defined, confidence)
    return Interval(estimate=estimate, low=low, high=high, n=len(codes), n_patients=len(counts))


def paired_difference(
    a: ArrayLike,
    b: ArrayLike,
    patients: ArrayLike,
    *,
    seed: int,
    resamples: int = RESAMPLES,
    confidence: float = 0.95,
) -> PairedDifference:
    """Compare two models on the same scans; scans where either value is nan are left out.

    Args:
        a: `[n_scans]` values of the first model.
        b: `[n_scans]` values of the second, in the same order of scans.
        patients: `[n_scans]`, whose scan it is.
        seed: decides the draws.
        resamples: number of resamples.
        confidence: coverage of the interval.
    """
    # Rounding makes 0.3 - 0.2 and 0.4 - 0.3 the tie that they are.
    difference = np.round(np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64), 12)
    d, codes = _defined(difference, patients)
    interval = mean_ci(difference, patients, seed=seed, resamples=resamples, confidence=confidence)
    p = float("nan")
    if len(d):
        by_patient = np.round(np.bincount(codes, weights=d) / np.bincount(codes), 12)
        p = float(stats.wilcoxon(by_patient).pvalue) if by_patient.any() else 1.0
    return PairedDifference(
        difference=interval,
        wilcoxon_p=p,
        wins=int((d > 0).sum()),
        ties=int((d == 0).sum()),
        losses=int((d < 0).sum()),
    )


@dataclass(frozen=True, kw_only=True)
class EffectSize:
    """Size of a paired difference in units that do not depend on the sample size; patients are the units.

    Attributes:
        dz: Cohen's dz, mean over standard deviation (n − 1) of the patients' differences (Cohen 1988); nan below two
            patients or when all differ by the same.
        rank_biserial: matched-pairs rank-biserial correlation, (W₊ − W₋) / (W₊ + W₋) of the Wilcoxon rank sums (Kerby
            2014): 1 when every patient who differs is higher, 0 when balanced, also when none differs.
        n_patients: patients behind it.
    """

    dz: float
    rank_biserial: float
    n_patients: int


def sums_ci(
    columns: ArrayLike,
    statistic: Callable[[NDArray[np.float64]], NDArray[np.float64]],
    patients: ArrayLike,
    *,
    seed: int,
    resamples: int = RESAMPLES,
    confidence: float = 0.95,
) -> Interval:
    """Percentile interval over patients of a statistic that depends on sums over scans only.

    Slopes, concordance, κ and ratios are of that kind. Per-patient sums make a resample one row of a matrix product,
    so that thousands cost little; draws are those of `statistic_ci`.

    Args:
        columns: `[n_scans, k]` what is summed; a scan with a nan is left out.
        statistic: takes sums `[..., k]`, returns values `[...]`, nan where undefined (left out of the percentiles).
        patients: `[n_scans]`, whose scan it is.
        seed: decides the draws.
        resamples: number of resamples.
        confidence: coverage of the interval.

    Raises:
        ValueError: when there is not one patient a scan.
    """
    rows, names = np.asarray(columns, dtype=np.float64), np.asarray(patients)
    if rows.ndim != 2 or rows.shape[:1] != names.shape:
        raise ValueError(f"columns of shape {rows.shape} with patients of shape {names.shape}")
    keep = ~np.isnan(rows).any(axis=1)
    _, codes = np.unique(names[keep], return_inverse=True)
    n = int(codes.max()) + 1 if len(codes) else 0
    sums = np.stack([np.bincount(codes, weights=column, minlength=n) for column in rows[keep].T], axis=-1)
    estimate = float(statistic(sums.sum(axis=0))) if n else float("nan")
    low = high = float("nan")
    if n >= 2:
        results = [statistic(counts @ sums) for counts in patient_counts(n, resamples, seed)]
        resampled = np.concatenate(results)
        if not np.isnan(resampled).all():
            low, high = _percentiles(resampled[~np.isnan(resampled)], confidence)
    return Interval(estimate=estimate, low=low, high=high, n=int(keep.sum()), n_patients=n)


def ratio(numerator: NDArray[np.float64], denominator: NDArray[np.float64]) -> NDArray[np.float64]:
    """Quotient, nan where the denominator is 0."""
    undefined = np.full(np.broadcast(numerator, denominator).shape, np.nan)
    return np.divide(numerator, denominator, out=undefined, where=np.asarray(denominator) != 0)


def effect_size(a: ArrayLike, b: ArrayLike, patients: ArrayLike) -> EffectSize:
    """Effect sizes of a − b over patients (each the mean of the patient's scans); scans with a nan are left out."""
    difference = np.round(np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64), 12)
    d, codes = _defined(difference, patients)
    if not len(d):
        return EffectSize(dz=float("nan"), rank_biserial=float("nan"), n_patients=0)
    by_patient = np.round(np.bincount(codes, weights=d) / np.bincount(codes), 12)
    spread = float(by_patient.std(ddof=1)) if len(by_patient) > 1 else 0.0
    moved = by_patient[by_patient != 0]
    ranks = stats.rankdata(np.abs(moved))
    return EffectSize(
        dz=float(by_patient.mean()) / spread if spread > 1e-12 else float("nan"),
        rank_biserial=float((ranks * np.sign(moved)).sum() / ranks.sum()) if len(moved) else 0.0,
        n_patients=len(by_patient),
    )


def holm(p_values: ArrayLike) -> NDArray[np.float64]:
    """p-values adjusted for the number of comparisons (Holm 1979, step-down); nan stays nan and is not counted."""
    p = np.asarray(p_values, dtype=np.float64)
    adjusted = np.full(p.shape, np.nan)
    tested = np.flatnonzero(~np.isnan(p))
    order = tested[np.argsort(p[tested], kind="stable")]
    factors = np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(p[order] * factors), 1.0) if len(order) else []
    return adjusted


def _defined(values: ArrayLike, patients: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
    """Values that are not nan, and for each the number of its patient in sorted order."""
    x, names = np.asarray(values, dtype=np.float64), np.asarray(patients)
    if x.ndim != 1 or x.shape != names.shape:
        raise ValueError(f"values of shape {x.shape} with patients of shape {names.shape}")
    keep = ~np.isnan(x)
    _, codes = np.unique(names[keep], return_inverse=True)
    return x[keep], codes


def _draws(n_patients: int, resamples: int, seed: int) -> Iterator[NDArray[np.int64]]:
    """Patients drawn with replacement, `[chunk, n_patients]` at a time, `resamples` rows in all."""
    rng = np.random.default_rng([seed, n_patients])
    chunk = max(1, _DRAWS_AT_ONCE // n_patients)
    for start in range(0, resamples, chunk):
        yield rng.integers(n_patients, size=(min(chunk, resamples - start), n_patients))


def patient_counts(n_patients: int, resamples: int, seed: int) -> Iterator[NDArray[np.float64]]:
    """How often each patient is drawn, `[chunk, n_patients]` at a time, `resamples` rows in all."""
    for draws in _draws(n_patients, resamples, seed):
        places = draws + n_patients * np.arange(len(draws))[:, None]
        times = np.bincount(places.ravel(), minlength=n_patients * len(draws))
        yield times.reshape(len(draws), n_patients).astype(np.float64)


def _percentiles(values: NDArray[np.float64], confidence: float) -> tuple[float, float]:
    low, high = np.quantile(values, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)
