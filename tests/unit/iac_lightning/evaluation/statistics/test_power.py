from __future__ import annotations

from bisect import bisect_left

import numpy as np
import pytest
from scipy import stats

from iac_lightning.evaluation.statistics.power import WILCOXON_EFFICIENCY, patients_needed


def differences(effect: float, n: int = 40) -> np.ndarray:
    x = np.random.default_rng(0).normal(size=n)
    return (x - x.mean()) / x.std(ddof=1) + effect


@pytest.mark.parametrize("unit", [1.0, 20.0])
@pytest.mark.parametrize(
    ("effect", "alpha", "power"),
    [
        (0.5, 0.05, 0.8),
        (0.2, 0.05 / 3, 0.8),
        (-0.8, 0.05, 0.9),
        (2.0, 0.05, 0.8),  # few patients, where every degree of freedom counts
        (3.0, 0.01, 0.9),
        (1.1, 0.05 / 15, 0.8),  # far tails
        (0.25, 0.001, 0.8),
        (0.2, 0.7, 0.8),  # the wrong side is often significant too
    ],
)
def test_sample_size_is_that_of_the_t_test_over_the_efficiency(
    effect: float, alpha: float, power: float, unit: float
) -> None:
    def reached(m: int) -> float:
        """Power by quadrature over the sample's standard deviation, without SciPy's non-central t."""
        limit = stats.t.isf(alpha / 2, m - 1)
        spread = np.sqrt(stats.chi2.ppf((np.arange(20_000) + 0.5) / 20_000, m - 1) / (m - 1))
        shift = abs(effect) * np.sqrt(m)
        return float((stats.norm.sf(limit * spread - shift) + stats.norm.cdf(-limit * spread - shift)).mean())

    of_t_test = 2 + bisect_left(range(2, 2000), True, key=lambda m: reached(m) >= power)
    expected = int(np.ceil(of_t_test / WILCOXON_EFFICIENCY))
    assert patients_needed(unit * differences(effect), alpha, power) == expected


def test_the_signed_rank_test_has_that_power() -> None:
    """Simulated: with the number that is named, four of five samples establish the difference."""
    rng = np.random.default_rng(1)
    n = patients_needed(differences(0.5))
    assert n == 36  # 34 for the t test (G*Power)
    found = [stats.wilcoxon(rng.normal(0.5, 1, n)).pvalue < 0.05 for _ in range(600)]
    assert np.mean(found) == pytest.approx(0.8, abs=0.04)


def test_where_no_number_is_an_answer() -> None:
    assert patients_needed([0.1]) is None
    assert patients_needed([0.0, 0.0]) is None
    assert patients_needed([0.1, 0.1]) is None
    assert patients_needed([0.1, -0.1]) is None
    assert patients_needed(differences(0.001)) is None


def test_two_patients_say_little_but_something() -> None:
    assert patients_needed([1.0, 2.0]) == 6  # effect 1.5 / √½: 5 or 6 by the t test
