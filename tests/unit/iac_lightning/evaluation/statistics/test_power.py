from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from iac_lightning.evaluation.statistics.power import WILCOXON_EFFICIENCY, patients_needed


def differences(effect: float, n: int = 40) -> np.ndarray:
    x = np.random.default_rng(0).normal(size=n)
    return (x - x.mean()) / x.std(ddof=1) + effect


@pytest.mark.parametrize(("effect", "alpha", "power"), [(0.5, 0.05, 0.8), (0.2, 0.05 / 3, 0.8), (-0.8, 0.05, 0.9)])
def test_sample_size_is_that_of_the_t_test_over_the_efficiency(effect: float, alpha: float, power: float) -> None:
    n = int(np.floor(patients_needed(differences(effect), alpha, power) * WILCOXON_EFFICIENCY))

    def reached(m: int) -> float:
        limit = stats.t.ppf(1 - alpha / 2, m - 1)
        return (
            1
            - stats.nct.cdf(limit, m - 1, abs(effect) * np.sqrt(m))
            + stats.nct.cdf(-limit, m - 1, abs(effect) * np.sqrt(m))
        )

    assert reached(n + 1) >= power > reached(n - 1)


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
