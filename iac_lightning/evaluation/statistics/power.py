"""How many patients a paired difference would need to be established."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

WILCOXON_EFFICIENCY = 3 / np.pi
"""Of the signed-rank test against the t test, where differences are normal (Hodges & Lehmann 1956)."""

MOST_PATIENTS = 100_000
"""A larger number is no answer."""


def patients_needed(differences: ArrayLike, alpha: float = 0.05, power: float = 0.8) -> int | None:
    """Patients with which a signed-rank test would find a difference, were it as large as the one seen.

    The sample size of the paired t test with the effect size mean / standard deviation of the patients' differences,
    over the efficiency of the signed-rank test. It rests on an effect size that the sample itself gives, and is only
    as good as that.

    Args:
        differences: `[n_patients]`.
        alpha: two-sided level; divided by the number of comparisons where several are made.
        power: probability of finding it.

    Returns:
        A number of patients; None where the differences have no spread or no mean, or beyond `MOST_PATIENTS`.
    """
    d = np.asarray(differences, dtype=np.float64)
    if len(d) < 2 or d.std(ddof=1) < 1e-12 or abs(d.mean()) < 1e-12:
        return None
    effect = abs(d.mean()) / d.std(ddof=1)

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
