from __future__ import annotations

from bisect import bisect_left

import numpy as np
import pytest
from scipy import stats

from iac_lightning.evaluation.statistics.power import WILCOXON_EFFICIENCY, effect_interval, patients_needed


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
    found = patients_needed(unit * differences(effect), alpha, power)
    assert found is not None
    assert found.as_seen == expected


def test_the_signed_rank_test_has_that_power() -> None:
    """Simulated: with the number that is named, four of five samples establish the difference."""
    rng = np.random.default_rng(1)
    n = patients_needed(differences(0.5)).as_seen
    assert n == 36  # 34 for the t test (G*Power)
    found = [stats.wilcoxon(rng.normal(0.5, 1, n)).pvalue < 0.05 for _ in range(600)]
    assert np.mean(found) == pytest.approx(0.8, abs=0.04)


def test_where_no_number_is_an_answer() -> None:
    assert patients_needed([0.1]) is None
    assert patients_needed([0.0, 0.0]) is None
    assert patients_needed([0.1, 0.1]) is None
    assert patients_needed([0.1, -0.1]) is None
    assert patients_needed(differences(0.001)) is None


def test_below_five_patients_there_is_no_guess() -> None:
    assert patients_needed([1.0, 2.0, 3.0, 1.5]) is None
    assert patients_needed([1.0, 2.0, 3.0, 1.5, 1.0]) is not None


@pytest.mark.parametrize(("effect", "n"), [(0.5, 40), (0.9, 12), (2.5, 8)])
def test_the_interval_of_the_effect_is_that_of_noncentral_t(effect: float, n: int) -> None:
    """With the effect at an end of the interval, 2.5 % of samples have an effect beyond the one seen."""
    low, high = effect_interval(effect, n)
    rng = np.random.default_rng(2)

    def seen(true: float) -> np.ndarray:
        x = rng.normal(true, 1, (40_000, n))
        return x.mean(axis=1) / x.std(axis=1, ddof=1)

    assert 0 < low < effect < high
    assert (seen(low) >= effect).mean() == pytest.approx(0.025, abs=0.004)
    assert (seen(high) <= effect).mean() == pytest.approx(0.025, abs=0.004)


def test_a_sample_size_is_a_range_and_open_where_the_effect_may_be_none() -> None:
    established, open_ = patients_needed(differences(0.5, 60)), patients_needed(differences(0.2, 40))
    assert established.fewest < established.as_seen == 36 < established.most
    assert established.fewest == patients_needed(differences(effect_interval(0.5, 60)[1], 60)).as_seen
    assert open_.fewest < open_.as_seen
    assert open_.most is None
