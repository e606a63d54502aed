"""How many patients a paired difference would need to be established, as far as a sample can tell."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize, stats

from iac_lightning.evaluation.statistics.intervals import MIN_PATIENTS

WILCOXON_EFFICIENCY = 3 / np.pi
"""Of the signed-rank test against the t test, where differences are normal (Hodges & Lehmann 1956)."""

MOST_PATIENTS = 100_000
"""A larger number is no answer."""


@dataclass(frozen=True, kw_only=True)
class SampleSize:
    """Patients with which a difference would be found.

    Attributes:
        as_seen: were the effect as large as the one seen.
        fewest: were it as large as the upper end of its 95 % interval.
        most: were it as small as the lower end; None where that end is 0 (no number suffices) or the number is above
            `MOST_PATIENTS`.
    """

    as_seen: int
    fewest: int
    most: int | None


def patients_needed(differences: ArrayLike, alpha: float = 0.05, power: float = 0.8) -> SampleSize | None:
    """Patients with which a signed-rank test would find a difference, as a range.

    The sample size of the paired t test with the effect size mean / standard deviation of the patients' differences,
    over the efficiency of the signed-rank test. The effect size is the sample's own, so its 95 % interval (from the
    noncentral t distribution, Hedges & Olkin 1985) goes into the number too: of few patients that is a wide range.

    Args:
        differences: `[n_patients]`.
        alpha: two-sided level; divided by the number of comparisons where several are made.
        power: probability of finding it.

    Returns:
        Numbers of patients; None below `MIN_PATIENTS`, where the differences have no spread or no mean, or beyond
        `MOST_PATIENTS`.
    """
    d = np.asarray(differences, dtype=np.float64)
    if len(d) < MIN_PATIENTS or d.std(ddof=1) < 1e-12 or abs(d.mean()) < 1e-12:
        return None
    effect = float(abs(d.mean()) / d.std(ddof=1))
    as_seen = _patients(effect, alpha, power)
    low, high = effect_interval(effect, len(d))
    fewest = _patients(high, alpha, power)
    if as_seen is None or fewest is None:
        return None
    return SampleSize(as_seen=as_seen, fewest=fewest, most=_patients(low, alpha, power) if low > 0 else None)


def effect_interval(effect: float, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Interval of |mean| / standard deviation of n differences; its lower end is 0 where they may have no mean.

    The noncentral t distributions under which the t seen is the upper or lower (1 − confidence) / 2 quantile.
    """
    t, tail = effect * np.sqrt(n), (1 - confidence) / 2

    def end(probability: float) -> float:
        def excess(shift: float) -> float:  # the cdf of a far lower tail, with the sign turned as below
            return float(stats.nct.sf(-t, n - 1, -shift)) - probability

        return float(optimize.brentq(excess, 0.0, t + 10 + 2 * t)) / float(np.sqrt(n))

    return (end(1 - tail) if stats.t.cdf(t, n - 1) > 1 - tail else 0.0), end(tail)


def _patients(effect: float, alpha: float, power: float) -> int | None:
    """Of the t test with this effect size, over the signed-rank test's efficiency; None beyond `MOST_PATIENTS`."""

    def reached(n: int) -> bool:
        limit, shift = stats.t.isf(alpha / 2, n - 1), effect * np.sqrt(n)
        # The other side is the same tail with the sign turned: SciPy's cdf of a far lower tail is often nan.
        return bool(stats.nct.sf(limit, n - 1, shift) + stats.nct.sf(limit, n - 1, -shift) >= power)

    low, high = 1, 2
    while not reached(high):
        low, high = high, 2 * high
        if high > MOST_PATIENTS:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if reached(middle) else (middle, high)
    return int(np.ceil(high / WILCOXON_EFFICIENCY))
