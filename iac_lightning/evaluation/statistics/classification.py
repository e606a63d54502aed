"""Agreement and comparison of classifications: confusion matrix, weighted κ, McNemar's test, ROC of detection."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from iac_lightning.evaluation.statistics.intervals import MIN_PATIENTS, Interval, missing_interval, sums_ci
from iac_lightning.evaluation.statistics.jackknife import CORRELATION, SHARE, Spread, ratio, student_interval


@dataclass(frozen=True, kw_only=True)
class McNemar:
    """Two classifiers on the same cases: only the cases that one alone gets right tell them apart (McNemar 1947).

    Attributes:
        only_first: cases that only the first gets right.
        only_second: cases that only the second gets right.
        exact_p: two-sided binomial p; 1 without a discordant case.
        mid_p: mid-p version, less conservative (Fagerland, Lydersen & Laake 2013, doi:10.1186/1471-2288-13-91).
    """

    only_first: int
    only_second: int
    exact_p: float
    mid_p: float


@dataclass(frozen=True, kw_only=True)
class Roc:
    """How well a score tells patients with a lesion from those without.

    Attributes:
        auc: area under the curve (`auc_ci`); nan when one class is absent.
        n_positive: patients with a lesion.
        false_positive_rate: `[m]` rising, from 0 to 1; empty when one class is absent.
        true_positive_rate: `[m]`.
    """

    auc: Interval
    n_positive: int
    false_positive_rate: NDArray[np.float64] = field(repr=False)
    true_positive_rate: NDArray[np.float64] = field(repr=False)


def confusion_matrix(reference: ArrayLike, assigned: ArrayLike, n_classes: int) -> NDArray[np.int64]:
    """Counts `[n_classes, n_classes]`; rows are the reference, columns what was assigned.

    Raises:
        ValueError: when lengths differ or a class is not in 0 … n_classes − 1.
    """
    cells = _cells(reference, assigned, n_classes)
    return np.bincount(cells, minlength=n_classes**2).reshape(n_classes, n_classes)


def weighted_kappa(table: ArrayLike) -> NDArray[np.float64]:
    """Quadratic-weighted κ (Cohen 1968) of confusion matrices `[..., g, g]` → `[...]`.

    κ = 1 − Σ w·observed / Σ w·expected with w = (i − j)²; nan when no disagreement is expected (one class only).
    """
    observed = np.asarray(table, dtype=np.float64)
    classes = np.arange(observed.shape[-1])
    weights = (classes[:, None] - classes) ** 2
    n = observed.sum(axis=(-2, -1))
    expected = observed.sum(axis=-1)[..., :, None] * observed.sum(axis=-2)[..., None, :]
    disagreement = (weights * observed).sum(axis=(-2, -1)) * n
    return 1 - ratio(disagreement, (weights * expected).sum(axis=(-2, -1)))


def weighted_kappa_ci(reference: ArrayLike, assigned: ArrayLike, patients: ArrayLike, n_classes: int) -> Interval:
    """Quadratic-weighted κ with a 95 % interval over patients, on the scale of Fisher's z.

    Args:
        reference: `[n_scans]` classes 0 … n_classes − 1.
        assigned: `[n_scans]` classes by the classifier.
        patients: `[n_scans]`, whose scan it is.
        n_classes: number of ordered classes.

    Returns:
        The interval; its ends are nan where agreement is perfect, which does not tell how far it may be from that.
    """
    one_hot = np.eye(n_classes**2)[_cells(reference, assigned, n_classes)]

    def statistic(sums: NDArray[np.float64]) -> NDArray[np.float64]:
        return weighted_kappa(sums.reshape(*sums.shape[:-1], n_classes, n_classes))

    size = disagreement_share(np.asarray(reference, dtype=float), np.asarray(assigned, dtype=float))
    return sums_ci(one_hot, statistic, patients, size=size, scale=CORRELATION)


def disagreement_share(reference: NDArray[np.float64], assigned: NDArray[np.float64]) -> NDArray[np.float64]:
    """What each scan `[..., n]` adds to the spread of κ: half of it alike, half as it disagrees, (i − j)²; nan: none.

    A few scans that are far off decide κ; with degrees of freedom of the scans alone its intervals cover 90–92 % of the
    samples where κ is high (`benchmarks.coverage`).
    """
    there = ~np.isnan(reference)
    apart = np.where(there, (reference - assigned) ** 2, 0.0)
    total = apart.sum(axis=-1, keepdims=True)
    return there / there.sum(axis=-1, keepdims=True) + np.where(total > 0, apart / np.where(total > 0, total, 1), 0.0)


def mcnemar(first_correct: ArrayLike, second_correct: ArrayLike) -> McNemar:
    """McNemar's test of two classifiers on the same cases.

    Cases are taken as independent: give one a patient, or state that the p-value ignores repeated scans.

    Args:
        first_correct: `[n]` boolean, whether the first classifier is right.
        second_correct: `[n]` boolean, of the second.

    Raises:
        ValueError: when they are of different cases.
    """
    a, b = np.asarray(first_correct, dtype=bool), np.asarray(second_correct, dtype=bool)
    if a.ndim != 1 or a.shape != b.shape:
        raise ValueError(f"{a.shape} against {b.shape} cases")
    return mcnemar_counts(int((a & ~b).sum()), int((~a & b).sum()))


def mcnemar_counts(only_first: int, only_second: int) -> McNemar:
    """McNemar's test from the two discordant counts; of any paired signs it is the exact sign test."""
    n = only_first + only_second
    if not n:
        return McNemar(only_first=0, only_second=0, exact_p=1.0, mid_p=1.0)
    exact = float(stats.binomtest(only_first, n).pvalue)
    # Half of the probability of outcomes as likely as the observed one: there are two, but one when balanced.
    halved = (0.5 if only_first == only_second else 1.0) * float(stats.binom.pmf(only_first, n, 0.5))
    return McNemar(only_first=only_first, only_second=only_second, exact_p=exact, mid_p=exact - halved)


def roc(score: ArrayLike, positive: ArrayLike) -> Roc:
    """ROC curve and its area, each row a patient.

    Args:
        score: `[n_patients]`, higher for a lesion: predicted volume or the largest probability.
        positive: `[n_patients]` boolean, whether there is a lesion.

    Raises:
        ValueError: when there is not one class a score.
    """
    x, y = np.asarray(score, dtype=np.float64), np.asarray(positive, dtype=bool)
    if x.ndim != 1 or x.shape != y.shape:
        raise ValueError(f"scores of shape {x.shape} with classes of shape {y.shape}")
    rates = [np.zeros(0), np.zeros(0)]
    if y.any() and not y.all():
        steps = np.unique(x)[::-1]
        rates = [np.r_[0.0, (group[:, None] >= steps).mean(axis=0)] for group in (x[~y], x[y])]
    return Roc(auc=auc_ci(x, y), n_positive=int(y.sum()), false_positive_rate=rates[0], true_positive_rate=rates[1])


def auc_ci(score: NDArray[np.float64], positive: NDArray[np.bool_]) -> Interval:
    """Area under the ROC curve with a 95 % interval on the logit scale.

    DeLong's standard error (DeLong, DeLong & Clarke-Pearson 1988) with the degrees of freedom of Brunner & Munzel
    (2000). No interval below `MIN_PATIENTS` patients of either class, nor where the classes part perfectly.
    """
    inside, outside = score[positive], score[~positive]
    area = auc(score, positive)
    low = high = float("nan")
    remark = "" if np.isnan(area) else "no interval: the classes part perfectly"
    fewest = min(len(inside), len(outside))
    if fewest < MIN_PATIENTS:
        remark = "" if np.isnan(area) else missing_interval(fewest).replace(":", " of one kind:")
    elif 0 < area < 1:
        above = np.sign(inside[:, None] - outside) / 2 + 0.5
        parts = [above.mean(axis=axis).var(ddof=1) / above.shape[1 - axis] for axis in (1, 0)]
        freedom = sum(part**2 / (n - 1) for part, n in zip(parts, above.shape, strict=True))
        spread = Spread(
            estimate=np.asarray(area), se=np.sqrt(np.asarray(sum(parts))), df=ratio(np.sum(parts) ** 2, freedom)
        )
        low, high = map(float, student_interval(spread, SHARE))
        remark = ""
    return Interval(estimate=area, low=low, high=high, n=len(score), n_patients=len(score), remark=remark)


def auc(score: NDArray[np.float64], positive: NDArray[np.bool_]) -> float:
    """Chance that a patient with a lesion scores higher than one without; ties count half (Mann–Whitney)."""
    n = int(positive.sum())
    if not 0 < n < len(score):
        return float("nan")
    above = stats.rankdata(score)[positive].sum() - n * (n + 1) / 2
    return float(above / (n * (len(score) - n)))


def _cells(reference: ArrayLike, assigned: ArrayLike, n_classes: int) -> NDArray[np.int64]:
    rows, columns = np.asarray(reference, dtype=np.int64), np.asarray(assigned, dtype=np.int64)
    if rows.ndim != 1 or rows.shape != columns.shape:
        raise ValueError(f"classes of shape {rows.shape} against {columns.shape}")
    both = np.concatenate([rows, columns])
    if ((both < 0) | (both >= n_classes)).any():
        raise ValueError(f"classes must lie in 0 … {n_classes - 1}")
    return rows * n_classes + columns
