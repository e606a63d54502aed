from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from iac_lightning.evaluation import bootstrap
from iac_lightning.evaluation.bootstrap import holm, mean_ci, paired_difference, statistic_ci

RNG_VALUES = np.random.default_rng(0).beta(3, 2, 40)


def test_one_series_per_patient_is_scipys_bootstrap():
    reference = stats.bootstrap(
        (RNG_VALUES,), np.mean, n_resamples=10_000, method="percentile", rng=np.random.default_rng(1)
    ).confidence_interval
    found = mean_ci(RNG_VALUES, np.arange(40), seed=0)
    assert found.estimate == pytest.approx(RNG_VALUES.mean())
    assert (found.low, found.high) == pytest.approx((reference.low, reference.high), abs=0.003)
    assert (found.n, found.n_patients) == (40, 40)


def test_repeating_every_scan_of_a_patient_does_not_narrow_the_interval():
    once = mean_ci(RNG_VALUES, np.arange(40), seed=5)
    fivefold = mean_ci(np.repeat(RNG_VALUES, 5), np.repeat(np.arange(40), 5), seed=5)
    assert (fivefold.low, fivefold.high) == pytest.approx((once.low, once.high))
    assert (fivefold.n, fivefold.n_patients) == (200, 40)


def test_two_patients_by_hand():
    # a: 0, 0, 0; b: 1. Resamples: aa 0 (1/4), bb 1 (1/4), ab 1/4 (1/2): means over scans, not over patients.
    found = mean_ci([0, 0, 0, 1], ["a", "a", "a", "b"], seed=0, confidence=0.4)
    assert (found.estimate, found.low, found.high) == (0.25, 0.25, 0.25)
    wide = mean_ci([0, 0, 0, 1], ["a", "a", "a", "b"], seed=0)
    assert (wide.low, wide.high) == (0.0, 1.0)


def test_row_order_and_chunks_change_nothing_and_the_seed_does(monkeypatch):
    patients = np.array([f"p{i % 13}" for i in range(40)])
    first = mean_ci(RNG_VALUES, patients, seed=3)
    shuffled = np.random.default_rng(9).permutation(40)
    again = mean_ci(RNG_VALUES[shuffled], patients[shuffled], seed=3)
    assert (again.low, again.high) == pytest.approx((first.low, first.high))
    assert mean_ci(RNG_VALUES, patients, seed=4) != first
    monkeypatch.setattr(bootstrap, "_DRAWS_AT_ONCE", 13 * 777)
    chunked = mean_ci(RNG_VALUES, patients, seed=3)
    assert (chunked.low, chunked.high) == pytest.approx((first.low, first.high))


def test_undefined_values_are_left_out():
    found = mean_ci([0.5, np.nan, 0.7, np.nan], ["a", "a", "b", "c"], seed=0)
    assert (found.estimate, found.n, found.n_patients) == (pytest.approx(0.6), 2, 2)
    one = mean_ci([0.5, 0.6], ["a", "a"], seed=0)
    assert one.estimate == pytest.approx(0.55)
    assert np.isnan([one.low, one.high]).all()
    none = mean_ci([np.nan], ["a"], seed=0)
    assert np.isnan(none.estimate)
    assert none.n == 0


def test_statistic_of_rows_agrees_with_the_vectorised_mean():
    patients = np.array([i % 13 for i in range(40)])[::-1]
    mean = mean_ci(RNG_VALUES, patients, seed=3, resamples=3000)
    rows = statistic_ci(lambda index: float(RNG_VALUES[index].mean()), patients, seed=3, resamples=3000)
    assert (rows.estimate, rows.low, rows.high) == pytest.approx((mean.estimate, mean.low, mean.high))


def test_statistic_draws_all_rows_of_a_patient_together():
    patients = np.array(["b", "a", "b", "c", "c", "c"])
    drawn: list[np.ndarray] = []
    statistic_ci(lambda index: float(drawn.append(index) or len(index)), patients, seed=0, resamples=50)
    for index in drawn:
        counts = np.bincount(index, minlength=6)
        assert counts[0] == counts[2]
        assert counts[3] == counts[4] == counts[5]
        assert counts[0] + counts[1] + counts[3] == 3
    assert len({len(index) for index in drawn}) > 1


def test_statistic_skips_undefined_resamples():
    values = np.array([1.0, 2.0])
    found = statistic_ci(lambda i: float(values[i].mean()) if len(set(i)) == 2 else np.nan, ["a", "b"], seed=0)
    assert (found.low, found.high) == (1.5, 1.5)
    assert np.isnan(statistic_ci(lambda i: float(len(i)), ["a"], seed=0).low)


def test_paired_difference_against_scipy():
    rng = np.random.default_rng(6)
    other = RNG_VALUES - rng.normal(0.03, 0.1, 40)
    patients = np.repeat(np.arange(20), 2)
    found = paired_difference(RNG_VALUES, other, patients, seed=1)
    difference = RNG_VALUES - other
    assert found.difference.estimate == pytest.approx(difference.mean())
    assert found.difference.low < difference.mean() < found.difference.high
    assert found.wilcoxon_p == pytest.approx(stats.wilcoxon(difference.reshape(20, 2).mean(axis=1)).pvalue)
    assert (found.wins, found.ties, found.losses) == ((difference > 0).sum(), 0, (difference < 0).sum())


def test_pairing_narrows_the_interval():
    noisy = np.random.default_rng(2).uniform(0, 1, 60)
    found = paired_difference(noisy + 0.02, noisy, np.arange(60), seed=0)
    assert (found.difference.low, found.difference.high) == pytest.approx((0.02, 0.02))
    assert (found.wins, found.ties, found.losses) == (60, 0, 0)


def test_ties_survive_rounding_and_equal_models_do_not_differ():
    found = paired_difference([0.3, 0.4, 0.5], [0.2, 0.3, np.nan], [0, 1, 2], seed=0)
    assert found.difference.n == 2
    assert (found.difference.low, found.difference.high) == pytest.approx((0.1, 0.1))
    same = paired_difference(RNG_VALUES, RNG_VALUES, np.arange(40), seed=0)
    assert (same.wilcoxon_p, same.ties, same.difference.estimate) == (1.0, 40, 0.0)
    assert np.isnan(paired_difference([np.nan], [0.1], [0], seed=0).wilcoxon_p)


def test_holm_by_hand_and_statsmodels():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    p = np.random.default_rng(3).uniform(0, 0.3, 12)
    multitest = pytest.importorskip("statsmodels.stats.multitest")
    assert holm(p) == pytest.approx(multitest.multipletests(p, method="holm")[1])
    assert holm([np.nan, 0.02, 0.9]) == pytest.approx([np.nan, 0.04, 0.9], nan_ok=True)
    assert holm([]).tolist() == []


def test_mismatched_shapes_are_refused():
    with pytest.raises(ValueError, match="patients"):
        mean_ci([0.1, 0.2], ["a"], seed=0)
