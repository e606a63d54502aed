from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from iac_lightning.evaluation.statistics.two_level import percentile_interval, two_level


def test_the_spread_over_seeds_is_the_pooled_one_with_students_tails():
    rng = np.random.default_rng([5])
    values = rng.normal(0, 1, (40, 3))
    draws = two_level(
        lambda w: np.broadcast_to(values.reshape(1, -1, 1), (len(w), 120, 1)), [3] * 40, 2, seed=1, resamples=4000
    )
    assert draws.seed_df == 80
    pooled = values.var(axis=1, ddof=1).mean() / 3
    deviations = draws.resampled[:, :, 0] - values.mean(axis=1)
    assert deviations.var() == pytest.approx(pooled * 80 / 78, rel=0.01)
    few = two_level(
        lambda w: np.broadcast_to(np.array([0.0, 2, 0, 2]).reshape(1, -1, 1), (len(w), 4, 1)),
        [2, 2],
        2,
        seed=1,
        resamples=20_000,
    )
    # all deviations are ±√2, so a mean of two is ±√2 or 0 (half of the time), times √(2 / χ²₂)
    scaled = np.abs(few.resampled[:, 0, 0] - 1) / 2**0.5
    assert (scaled < 1e-9).mean() == pytest.approx(0.5, abs=0.01)
    assert np.quantile(scaled[scaled > 1e-9] ** 2 / 2, 0.5) == pytest.approx(1 / stats.chi2.ppf(0.5, 2), rel=0.03)


def test_undefined_draws_are_left_out_of_the_interval():
    draws = np.array([np.nan, *np.linspace(0, 1, 101), np.inf])
    assert percentile_interval(draws) == pytest.approx((0.025, 0.975))
    assert np.isnan(percentile_interval(np.array([np.nan]))).all()
