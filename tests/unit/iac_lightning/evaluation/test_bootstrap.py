from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from iac_lightning.evaluation import bootstrap
from iac_lightning.evaluation.bootstrap import (
    effect_size,
    holm,
    mean_ci,
    paired_difference,
    ratio,
    statistic_ci,
    sums_ci,
)

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


@pytest.mark.filterwarnings("error")
def test_undefined_values_are_left_out():
    found = mean_ci([0.5, np.nan, 0.7, np.nan], ["a", "a", "b", "c"], seed=0)
    assert (found.estimate, found.n, found.n_patients) == (pytest.approx(0.6), 2, 2)
    one = mean_ci([0.5, 0.6], ["a", "a"], seed=0)
    assert one.estimate == pytest.approx(0.55)
    assert np.isnan([one.low, one.high]).all()
    assert (one.n, one.n_patients) == (2, 1)
    none = mean_ci([np.nan], ["a"], seed=0)
    assert np.isnan([none.estimate, none.low, none.high]).all()
    assert (none.n, none.n_patients) == (0, 0)


def test_statistic_of_rows_agrees_with_the_vectorised_mean():
    patients = np.array([i % 13 for i in range(40)])[::-1]
    mean = mean_ci(RNG_VALUES, patients, seed=3, resamples=3000)
    rows = statistic_ci(lambda index: float(RNG_VALUES[index].mean()), patients, seed=3, resamples=3000)
    assert (rows.estimate, rows.low, rows.high) == pytest.approx((mean.estimate, mean.low, mean.high))
    assert (rows.n, rows.n_patients) == (40, 13)
    narrow = statistic_ci(
        lambda index: float(RNG_VALUES[index].mean()), patients, seed=3, resamples=3000, confidence=0.5
    )
    assert rows.low < narrow.low < narrow.high < rows.high


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
    nothing = statistic_ci(lambda i: pytest.fail("nothing has no statistic"), [], seed=0)
    assert np.isnan([nothing.estimate, nothing.low, nothing.high]).all()
    assert (nothing.n, nothing.n_patients) == (0, 0)


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


def test_a_patient_counts_once_in_the_test_and_by_scans_in_the_mean():
    # Patients differ by +0.15 (four scans), −0.1, −0.2, −0.3 (a scan each) and 0 (two scans).
    difference = np.array([0.15] * 4 + [-0.1, -0.2, -0.3, 0.1, -0.1])
    patients = np.array(list("aaaabcdee"))
    found = paired_difference(difference + 1, np.ones(9), patients, seed=2, resamples=500, confidence=0.8)
    assert found.wilcoxon_p == pytest.approx(stats.wilcoxon([0.15, -0.1, -0.2, -0.3, 0.0]).pvalue)
    assert found.difference == mean_ci(np.round(difference, 12), patients, seed=2, resamples=500, confidence=0.8)
    tied = paired_difference([1.0, 2.0, 3.0, 4.0], [1.0, 1.0, 3.0, 5.0], list("abcd"), seed=0)
    assert (tied.wins, tied.ties, tied.losses) == (1, 2, 1)


def test_a_ratio_has_the_shape_of_both():
    found = ratio(np.array([[1.0], [2.0]]), np.array([2.0, 0.0, 4.0]))
    np.testing.assert_array_equal(found, [[0.5, np.nan, 0.25], [1.0, np.nan, 0.5]])
    np.testing.assert_array_equal(ratio(np.array([1.0, 2.0]), np.array(4.0)), [0.25, 0.5])
    assert ratio(np.array(1.0), np.array(4.0)) == 0.25


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
    assert holm([0.6, 0.7, 0.02]) == pytest.approx([1.0, 1.0, 0.06])  # 2 · 0.6 is no probability
    assert holm([]).tolist() == []


def test_mismatched_shapes_are_refused():
    with pytest.raises(ValueError, match="patients"):
        mean_ci([0.1, 0.2], ["a"], seed=0)


def test_sums_give_the_interval_of_any_statistic_of_rows(monkeypatch):
    rng = np.random.default_rng(4)
    errors, patients = rng.integers(0, 2, (60, 2)).astype(float), rng.permutation(60) % 17
    slow = statistic_ci(lambda r: errors[r, 0].sum() / errors[r, 1].sum(), patients, seed=2, resamples=500)
    monkeypatch.setattr(bootstrap, "_DRAWS_AT_ONCE", 17 * 120)
    fast = sums_ci(errors, lambda s: s[..., 0] / s[..., 1], patients, seed=2, resamples=500)
    assert (fast.estimate, fast.low, fast.high) == pytest.approx((slow.estimate, slow.low, slow.high))
    assert (fast.n, fast.n_patients) == (60, 17)


def test_sums_leave_out_undefined_scans_and_resamples():
    # Patient c has no defined scan; a resample of b alone divides by 0.
    columns = [[1.0, 2.0], [np.nan, 1.0], [0.0, 0.0], [1.0, np.nan]]
    found = sums_ci(columns, lambda s: ratio(s[..., 0], s[..., 1]), ["a", "a", "b", "c"], seed=0, resamples=50)
    assert (found.estimate, found.low, found.high, found.n, found.n_patients) == (0.5, 0.5, 0.5, 2, 2)
    nothing = sums_ci(np.zeros((0, 2)), lambda s: s[..., 0], np.zeros(0, dtype=str), seed=0)
    assert np.isnan(nothing.estimate)
    assert nothing.n_patients == 0
    with pytest.raises(ValueError, match="shape"):
        sums_ci([1.0, 2.0], lambda s: s, ["a", "b"], seed=0)


def test_effect_sizes_are_those_of_scipy_and_pingouin():
    pingouin = pytest.importorskip("pingouin")
    # In 64ths differences are exact, so that equal ones tie in both programs.
    a, b = np.random.default_rng(3).normal([[40.0], [32.0]], 13.0, (2, 30)).round() / 64
    b[:4] = a[:4]
    found = effect_size(a, b, np.arange(30))
    assert found.dz == pytest.approx(stats.ttest_rel(a, b).statistic / np.sqrt(30))
    assert found.rank_biserial == pytest.approx(float(pingouin.wilcoxon(a, b)["RBC"].iloc[0]))
    # Repeating every scan tells nothing new about the patients.
    assert effect_size(np.repeat(a, 3), np.repeat(b, 3), np.repeat(np.arange(30), 3)) == found


@pytest.mark.filterwarnings("error")
def test_effect_sizes_by_hand():
    # Differences of patients: 3, −1, 2; ranks 3, 1, 2 → (5 − 1) / 6; mean 4/3, SD √(13/3).
    found = effect_size([4, 2, 0, 3], [0, 0, 1, 1], ["p", "p", "q", "r"])
    assert (found.rank_biserial, found.dz) == pytest.approx((4 / 6, (4 / 3) / np.sqrt(13 / 3)))
    same = effect_size([1.0, 2.0], [1.0, 2.0], ["p", "q"])
    assert same.rank_biserial == 0
    assert np.isnan(same.dz)
    assert (found.n_patients, same.n_patients) == (3, 2)
    two = effect_size([3.0, 1.0], [0.0, 0.0], ["p", "q"])  # mean 2, SD √2
    assert (two.dz, two.rank_biserial) == pytest.approx((2**0.5, 1.0))
    one = effect_size([3.0, 1.0], [0.0, 0.0], ["p", "p"])
    assert np.isnan(one.dz)
    assert (one.rank_biserial, one.n_patients) == (1.0, 1)
    nobody = effect_size([np.nan], [1.0], ["p"])
    assert np.isnan([nobody.dz, nobody.rank_biserial]).all()
    assert nobody.n_patients == 0
