"""Patients and seeds drawn together: means, draws and remarks worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from iac_lightning.evaluation.bootstrap import mean_ci
from iac_lightning.evaluation.two_level import (
    Draws,
    patient_sums,
    percentile_interval,
    seed_remark,
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


def test_one_seed_each_is_the_bootstrap_over_patients() -> None:
    rng = np.random.default_rng([1])
    values, patients = rng.random((2, 1, 30)), np.array([f"p{i % 11:02d}" for i in range(30)])
    sums, counts = patient_sums(values, patients)
    draws = two_level(weighted_means(sums, counts), [1, 1], 11, seed=5, resamples=400)
    assert (draws.n_seeds, draws.seed_df) == ((1, 1), 0)
    assert draws.resampled.shape == (400, 2, 1)
    np.testing.assert_array_equal(draws.estimate, draws.trainings)
    for k in (0, 1):
        alone = mean_ci(values[k, 0], patients, seed=5, resamples=400)
        assert draws.estimate[k, 0] == pytest.approx(alone.estimate)
        assert percentile_interval(draws.resampled[:, k, 0]) == pytest.approx((alone.low, alone.high))


def constant(*figures: float) -> object:
    """Trainings of the same figure whoever is drawn."""
    return lambda weights: np.broadcast_to(np.array(figures)[:, None], (len(weights), len(figures), 1))


def test_seeds_are_averaged_and_their_spread_is_pooled() -> None:
    # Recipe 0: 1, 3; recipe 1: 0, 0, 6; recipe 2: 10. Enlarged deviations: ±√2 and (−2, −2, 4)·√1.5; df = 1 + 2.
    draws = two_level(constant(1, 3, 0, 0, 6, 10), [2, 3, 1], 4, seed=1, resamples=200_000)  # type: ignore[arg-type]
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
        two_level(constant(1, 3), [2], 4, seed=s, resamples=50).resampled  # type: ignore[arg-type]
        for s in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, same)
    assert not np.array_equal(first, other)


def test_one_patient_has_no_draws_and_two_have() -> None:
    assert np.isnan(two_level(constant(1, 2), [1, 1], 1, seed=0, resamples=9).resampled).all()  # type: ignore[arg-type]
    assert np.isfinite(two_level(constant(1, 2), [1, 1], 2, seed=0, resamples=9).resampled).all()  # type: ignore[arg-type]


def test_percentiles_leave_out_what_is_undefined() -> None:
    values = np.array([np.nan, 3.0, 1.0, np.inf, 2.0])
    assert percentile_interval(values, 1.0) == (1.0, 3.0)
    assert percentile_interval(np.arange(101.0), 0.9) == pytest.approx((5.0, 95.0))
    assert percentile_interval(np.arange(1001.0)) == pytest.approx((25.0, 975.0))
    assert np.isnan(percentile_interval(np.array([np.nan]))).all()


@pytest.mark.parametrize(
    ("n_seeds", "expected"),
    [
        (
            (2, 1, 1),
            "Intervals cover patients and seeds; the spread over seeds rests on 1 degree of freedom, which is little, "
            "and widens them. 2 of 3 cells were trained once and borrow the spread of the others.",
        ),
        (
            (3, 4, 1),
            "Intervals cover patients and seeds; the spread over seeds rests on 5 degrees of freedom, which is little, "
            "and widens them. 1 of 3 cells was trained once and borrows the spread of the others.",
        ),
        ((4, 4), "Intervals cover patients and seeds; the spread over seeds rests on 6 degrees of freedom."),
        (
            (1, 1),
            "Every cell was trained with one seed, so intervals cover patients only: how much another seed would "
            "change a cell cannot be known, and a difference may be the luck of one training.",
        ),
    ],
)
def test_the_reader_is_told_what_intervals_cover(n_seeds: tuple[int, ...], expected: str) -> None:
    nothing = np.zeros((1, 1))
    df = sum(n - 1 for n in n_seeds)
    draws = Draws(estimate=nothing, resampled=nothing[None], trainings=nothing, n_seeds=n_seeds, seed_df=df)
    assert seed_remark(draws) == expected
