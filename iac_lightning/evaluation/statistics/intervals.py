"""Values of scans with their 95 % interval over patients.

Series of one patient are alike, so patients are the units, each with all its series (`jackknife`). Below `MIN_PATIENTS`
there is no interval, for a few patients do not tell how much patients differ; their own values stand instead.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from iac_lightning.evaluation.statistics import jackknife
from iac_lightning.evaluation.statistics.jackknife import Floats, Scale, Spread, Statistic, ratio

MIN_PATIENTS = 5
"""Fewest patients of an interval."""

Kind = Literal["share", "positive", "signed", "difference"]
"""Of a value of scans: a share from 0 to 1, an amount that is not negative, an amount with a sign whose size differs by
decades (errors of volumes), or anything else without limits (differences of shares)."""


@dataclass(frozen=True, kw_only=True)
class Interval:
    """An estimate and its 95 % interval.

    Attributes:
        estimate: of the sample itself.
        low: lower end; nan where there is no interval: below `MIN_PATIENTS`, or where a single patient decides.
        high: upper end.
        n: scans behind it (those where the value is defined).
        n_patients: patients behind it.
        p: two-sided test that the value is 0, by the same standard error; nan where the value is no difference or
            slope.
        remark: why there is no interval; empty where there is one.
        points: below `MIN_PATIENTS`, each patient's value, rising; empty where patients have none of their own.
    """

    estimate: float
    low: float
    high: float
    n: int
    n_patients: int
    p: float = float("nan")
    remark: str = ""
    points: tuple[float, ...] = ()


def missing_interval(n_patients: int) -> str:
    """Why a value of so many patients has no interval."""
    if n_patients < MIN_PATIENTS:
        return f"{n_patients} patient{'s' if n_patients != 1 else ''}: too few for an interval"
    return "no interval: all agree, or a single patient decides"


def mean_ci(values: ArrayLike, patients: ArrayLike, kind: Kind = "share", confidence: float = 0.95) -> Interval:
    """Mean over scans with an interval over patients.

    Args:
        values: `[n_scans]`; nan marks scans where the value is undefined, which are left out.
        patients: `[n_scans]`, whose scan it is.
        kind: of the values.
        confidence: coverage of the interval.

    Raises:
        ValueError: when there is not one patient a value, or a value is outside of what its kind can be.
    """
    x, codes = defined_values(values, patients)
    if len(x) and ((kind in ("share", "positive") and x.min() < 0) or (kind == "share" and x.max() > 1)):
        raise ValueError(f"values from {x.min():g} to {x.max():g} are no {kind}")
    scans = np.bincount(codes).astype(np.float64)
    sums, squares = (np.bincount(codes, weights=v).astype(np.float64) for v in (x, x**2))
    own = sums / scans
    if len(scans) < MIN_PATIENTS:
        return without_interval(float(x.mean()) if len(x) else float("nan"), len(x), len(own), own)
    spread = mean_spread(sums, scans, squares, kind)
    low, high = mean_ends(spread, kind, len(scans), confidence)
    return _interval(spread, low, high, len(x), len(scans), tested=kind in ("signed", "difference"))


def mean_spread(sums: Floats, scans: Floats, squares: Floats, kind: Kind) -> Spread:
    """Spread of a mean over scans, from sum, number and sum of squares of each patient's, all `[..., n_patients]`.

    Amounts that differ by decades have no more degrees of freedom than there are patients who make up their spread:
    found by simulation (`benchmarks.coverage`), for with those of the scans intervals of |volume error| cover 70–90 %.
    """
    columns = np.stack([sums, scans], axis=-1)
    size = {"positive": squares, "signed": np.sqrt(squares)}.get(kind)
    if size is not None:  # all of them 0: patients weigh alike
        size = np.where(size.sum(axis=-1, keepdims=True) > 0, size, scans)
    return jackknife.leave_one_out(columns, lambda total: ratio(total[..., 0], total[..., 1]), scans, size)


def mean_ends(spread: Spread, kind: Kind, n_patients: int, confidence: float = 0.95) -> tuple[Floats, Floats]:
    """Ends of the interval of a mean over scans.

    Where every scan of a share is 0, all that n patients say is that at most a share 1 − (α/2)^(1/n) of patients is
    otherwise, with probability 1 − α/2 (Clopper & Pearson 1934), and they lie at 1 at most; likewise where all are 1.
    """
    scales: dict[Kind, Scale] = {"share": jackknife.SHARE, "positive": jackknife.POSITIVE}
    low, high = jackknife.student_interval(spread, scales.get(kind, jackknife.REAL), confidence)
    if kind == "share":
        otherwise = 1 - ((1 - confidence) / 2) ** (1 / n_patients)
        none, all_ = spread.estimate <= 0, spread.estimate >= 1
        low = np.where(none, 0.0, np.where(all_, 1 - otherwise, low))
        high = np.where(none, otherwise, np.where(all_, 1.0, high))
    return low, high


def sums_ci(
    columns: ArrayLike,
    statistic: Statistic,
    patients: ArrayLike,
    *,
    leverage: ArrayLike | None = None,
    size: ArrayLike | None = None,
    scale: Scale = jackknife.REAL,
) -> Interval:
    """A statistic that depends on sums over scans only, with its 95 % interval over patients.

    Slopes, concordance, κ and ratios are of that kind.

    Args:
        columns: `[n_scans, k]` what is summed; a scan with a nan is left out.
        statistic: of the sums.
        patients: `[n_scans]`, whose scan it is.
        leverage: `[n_scans]` as in `jackknife.leave_one_out`; by default every scan weighs alike.
        size: `[n_scans]`, likewise.
        scale: of the interval.

    Raises:
        ValueError: when there is not one patient a scan.
    """
    rows, names = np.asarray(columns, dtype=np.float64), np.asarray(patients)
    if rows.ndim != 2 or rows.shape[:1] != names.shape:
        raise ValueError(f"columns of shape {rows.shape} with patients of shape {names.shape}")
    keep = ~np.isnan(rows).any(axis=1)
    _, codes = np.unique(names[keep], return_inverse=True)
    n = int(codes.max()) + 1 if len(codes) else 0

    def by_patient(values: ArrayLike) -> Floats:
        weights = np.asarray(values, dtype=np.float64)[keep]
        return np.bincount(codes, weights=weights, minlength=n).astype(np.float64)

    sums = np.stack([by_patient(column) for column in rows.T], axis=-1)
    if n < MIN_PATIENTS:
        estimate = float(statistic(sums.sum(axis=0))) if n else float("nan")
        return without_interval(estimate, int(keep.sum()), n)
    weights = by_patient(np.ones(len(rows)) if leverage is None else leverage)
    spread = jackknife.leave_one_out(sums, statistic, weights, None if size is None else by_patient(size))
    low, high = jackknife.student_interval(spread, scale)
    return _interval(spread, low, high, int(keep.sum()), n, tested=scale is jackknife.REAL)


def ratio_ci(numerator: ArrayLike, denominator: ArrayLike, patients: ArrayLike) -> Interval:
    """Ratio of two totals over scans, neither negative, with an interval over patients on the logarithmic scale.

    Its degrees of freedom are those of the patients' shares of the denominator, which may lie with a few of them.

    Args:
        numerator: `[n_scans]`; a scan with a nan here or below is left out.
        denominator: `[n_scans]`.
        patients: `[n_scans]`, whose scan it is.

    Returns:
        The interval; its ends are nan where the numerator is 0.
    """
    columns = np.stack([np.asarray(v, dtype=np.float64) for v in (numerator, denominator)], axis=-1)
    return sums_ci(
        columns, lambda sums: ratio(sums[..., 0], sums[..., 1]), patients, size=columns[:, 1], scale=jackknife.POSITIVE
    )


def defined_values(values: ArrayLike, patients: ArrayLike) -> tuple[Floats, NDArray[np.intp]]:
    """Values that are not nan, and for each the number of its patient in sorted order.

    Raises:
        ValueError: when there is not one patient a value.
    """
    x, names = np.asarray(values, dtype=np.float64), np.asarray(patients)
    if x.ndim != 1 or x.shape != names.shape:
        raise ValueError(f"values of shape {x.shape} with patients of shape {names.shape}")
    keep = ~np.isnan(x)
    _, codes = np.unique(names[keep], return_inverse=True)
    return x[keep], codes


def without_interval(estimate: float, n: int, n_patients: int, points: Iterable[float] = ()) -> Interval:
    """Of patients too few for an interval, with their own values where they have some."""
    return Interval(
        estimate=estimate,
        low=float("nan"),
        high=float("nan"),
        n=n,
        n_patients=n_patients,
        remark=missing_interval(n_patients) if np.isfinite(estimate) else "",
        points=tuple(sorted(map(float, points))),
    )


def _interval(spread: Spread, low: Floats, high: Floats, n: int, n_patients: int, *, tested: bool) -> Interval:
    return Interval(
        estimate=float(spread.estimate),
        low=float(low),
        high=float(high),
        n=n,
        n_patients=n_patients,
        p=float(jackknife.student_p(spread)) if tested else float("nan"),
        remark=missing_interval(n_patients) if np.isfinite(spread.estimate) and np.isnan(low) else "",
    )
