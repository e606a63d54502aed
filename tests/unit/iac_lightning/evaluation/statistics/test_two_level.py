"""Patients and seeds drawn together: means and draws worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from iac_lightning.evaluation.statistics.intervals import mean_ci
from iac_lightning.evaluation.statistics.two_level import (
    patient_sums,
    percentile_interval,
    two_level,
    weighted_means,
)


def test_sums_of_patients_in_sorted_order() -> None:
    values = np.array([[1.0, 2.0, 4.0, 8.0], [10.0, 20.0, 40.0, 80.0]])
    sums, counts = patient_sums(values, np.array(["b", "a", "b", "c"]))
    assert sums.tolist() == [[2.0, 5.0, 8.0], [20.0, 50.0, 80.0]]
    assert counts.tolist() == [1.0, 2.0, 1.0]


def test_means_are_over_the_scans_of_the_patients_drawn() -> None:
    sums = np.array([[[2.0, 6.0], [1.0, 0.0]], [[4.0, 0.0], [3.0, 3.0]]])  # two trainings, two variants, two patients
    means = weighted_means(sums, np.array([1.0, 3.0]))
    found = means(np.array([[1.0, 1.0], [2.0, 0.0], [0.0, 2.0]]))
    assert found.shape == (3, 2, 2)
    assert found[0].tolist() == [[8 / 4, 1 / 4], [4 / 4, 6 / 4]]
    assert found[1].tolist() == [[4 / 2, 2 / 2], [8 / 2, 6 / 2]]
    assert found[2].tolist() == [[12 / 6, 0.0], [0.0, 6 / 6]]


def test_one_seed_each_is_the_interval_over_patients() -> None:
    rng = np.random.default_rng([1])
    values, patients = rng.normal(size=(2, 1, 30)), np.array([f"p{i % 11:02d}" for i in range(30)])
    sums, counts = patient_sums(values, patients)
    draws = two_level(weighted_means(sums, counts), [1, 1], counts, seed=5, resamples=40_000)
    assert (draws.n_seeds, draws.seed_df) == ((1, 1), 0)
    assert draws.resampled.shape == (40_000, 2, 1)
    np.testing.assert_array_equal(draws.estimate, draws.trainings)
    for k in (0, 1):
        alone = mean_ci(values[k, 0], patients, "difference")
        assert draws.estimate[k, 0] == pytest.approx(alone.estimate)
        low, high = percentile_interval(draws.resampled[:, k, 0])
        assert high - low == pytest.approx(alone.high - alone.low, rel=0.06)


def test_few_patients_widen_the_draws_as_students_t_does() -> None:
    sums, counts = np.array([-2.0, -1, 0, 1, 2]).reshape(1, 1, 5), np.ones(5)
    draws = two_level(weighted_means(sums, counts), [1], counts, seed=2, resamples=100_000).resampled[:, 0, 0]
    # Variance of the mean 2/5 (over n) times 5/4, times that of √(4 / χ²₄), 4 / (4 − 2).
    assert draws.var() == pytest.approx(0.4 * 1.25 * 2, rel=0.05)
    uneven = two_level(weighted_means(sums, counts), [1], np.array([9, 9, 1, 1, 1.0]), seed=2, resamples=100_000)
    assert np.abs(uneven.resampled).mean() > 1.1 * np.abs(draws).mean()


def constant(*figures: float) -> object:
    """Trainings of the same figure whoever is drawn."""
    return lambda weights: np.broadcast_to(np.array(figures)[:, None], (len(weights), len(figures), 1))


def test_seeds_are_averaged_and_their_spread_is_pooled() -> None:
    # Recipe 0: 1, 3; recipe 1: 0, 0, 6; recipe 2: 10. Enlarged deviations: ±√2 and (−2, −2, 4)·√1.5; df = 1 + 2.
    draws = two_level(constant(1, 3, 0, 0, 6, 10), [2, 3, 1], np.ones(8), seed=1, resamples=200_000)  # type: ignore[arg-type]
    assert draws.estimate[:, 0] == pytest.approx([2, 2, 10])
    assert draws.trainings[:, 0].tolist() == [1, 3, 0, 0, 6, 10]
    assert (draws.n_seeds, draws.seed_df) == ((2, 3, 1), 3)
    deviations = draws.resampled[:, :, 0] - draws.estimate[:, 0]
    pool = np.array([-(2**0.5), 2**0.5, *(np.array([-2, -2, 4]) * 1.5**0.5)])
    # Student's factor √(3/χ²₃) has the mean √3·Γ(1) / (√2·Γ(3/2)) = 1.3820, and differs from resample to resample.
    assert len(np.unique(np.abs(deviations[:, 2]))) > 1000
    assert np.abs(deviations[:, 2]).mean() == pytest.approx(1.3820 * np.abs(pool).mean(), rel=0.02)
    pairs = np.abs(pool[:, None] + pool).mean() / 2
    assert np.abs(deviations[:, 0]).mean() == pytest.approx(1.3820 * pairs, rel=0.02)
    threes = np.abs(pool[:, None, None] + pool[:, None] + pool).mean() / 3
    assert np.abs(deviations[:, 1]).mean() == pytest.approx(1.3820 * threes, rel=0.02)
    # Recipes draw their deviations independently.
    assert abs(np.corrcoef(np.sign(deviations[:, 0]), np.sign(deviations[:, 2]))[0, 1]) < 0.02


def test_draws_follow_from_the_seed() -> None:
    first, same, other = (
        two_level(constant(1, 3), [2], np.ones(8), seed=s, resamples=50).resampled  # type: ignore[arg-type]
        for s in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, same)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize(("leverage", "drawn"), [(np.ones(4), False), (np.ones(5), True), (np.eye(5)[0], False)])
def test_four_patients_or_one_who_decides_have_no_draws(leverage: np.ndarray, drawn: bool) -> None:
    found = two_level(constant(1, 2), [1, 1], leverage, seed=0, resamples=9).resampled  # type: ignore[arg-type]
    assert (np.isfinite(found) == drawn).all()


def test_percentiles_leave_out_what_is_undefined() -> None:
    values = np.array([np.nan, 3.0, 1.0, np.inf, 2.0])
    assert percentile_interval(values, 1.0) == (1.0, 3.0)
    assert percentile_interval(np.arange(101.0), 0.9) == pytest.approx((5.0, 95.0))
    assert percentile_interval(np.arange(1001.0)) == pytest.approx((25.0, 975.0))
    assert np.isnan(percentile_interval(np.array([np.nan]))).all()


def test_the_spread_over_seeds_is_the_pooled_one_with_students_tails():
    rng = np.random.default_rng([5])
    values = rng.normal(0, 1, (40, 3))
    draws = two_level(
        lambda w: np.broadcast_to(values.reshape(1, -1, 1), (len(w), 120, 1)),
        [3] * 40,
        np.ones(5),
        seed=1,
        resamples=4000,
    )
    assert draws.seed_df == 80
    pooled = values.var(axis=1, ddof=1).mean() / 3
    deviations = draws.resampled[:, :, 0] - values.mean(axis=1)
    assert deviations.var() == pytest.approx(pooled * 80 / 78, rel=0.01)
    few = two_level(
        lambda w: np.broadcast_to(np.array([0.0, 2, 0, 2]).reshape(1, -1, 1), (len(w), 4, 1)),
        [2, 2],
        np.ones(5),
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
