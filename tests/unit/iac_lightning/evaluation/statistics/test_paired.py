from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from iac_lightning.evaluation.statistics.intervals import mean_ci
from iac_lightning.evaluation.statistics.paired import effect_size, holm, paired_difference

VALUES = np.random.default_rng(0).beta(3, 2, 40)


def test_paired_difference_against_scipy():
    rng = np.random.default_rng(6)
    other = VALUES - rng.normal(0.03, 0.1, 40)
    patients = np.repeat(np.arange(20), 2)
    found = paired_difference(VALUES, other, patients)
    difference = VALUES - other
    assert found.difference.estimate == pytest.approx(difference.mean())
    assert found.difference.low < difference.mean() < found.difference.high
    assert found.wilcoxon_p == pytest.approx(stats.wilcoxon(difference.reshape(20, 2).mean(axis=1)).pvalue)
    assert (found.wins, found.ties, found.losses) == ((difference > 0).sum(), 0, (difference < 0).sum())


def test_pairing_narrows_the_interval():
    noisy = np.random.default_rng(2).uniform(0, 1, 60)
    found = paired_difference(noisy + 0.02, noisy, np.arange(60))
    assert (found.difference.low, found.difference.high) == pytest.approx((0.02, 0.02))
    assert (found.wins, found.ties, found.losses) == (60, 0, 0)


def test_a_patient_counts_once_in_the_test_and_by_scans_in_the_mean():
    # Patients differ by +0.15 (four scans), −0.1, −0.2, −0.3 (a scan each) and 0 (two scans).
    difference = np.array([0.15] * 4 + [-0.1, -0.2, -0.3, 0.1, -0.1])
    patients = np.array(list("aaaabcdee"))
    found = paired_difference(difference + 1, np.ones(9), patients)
    assert found.wilcoxon_p == pytest.approx(stats.wilcoxon([0.15, -0.1, -0.2, -0.3, 0.0]).pvalue)
    assert found.difference == mean_ci(np.round(difference, 12), patients, "difference")
    tied = paired_difference([1.0, 2.0, 3.0, 4.0], [1.0, 1.0, 3.0, 5.0], list("abcd"))
    assert (tied.wins, tied.ties, tied.losses) == (1, 2, 1)


def test_ties_survive_rounding_and_equal_models_do_not_differ():
    found = paired_difference([0.3, 0.4, 0.5], [0.2, 0.3, np.nan], [0, 1, 2])
    assert found.difference.n == 2
    assert found.difference.points == pytest.approx((0.1, 0.1))
    same = paired_difference(VALUES, VALUES, np.arange(40))
    assert (same.wilcoxon_p, same.ties, same.difference.estimate) == (1.0, 40, 0.0)
    assert np.isnan(paired_difference([np.nan], [0.1], [0]).wilcoxon_p)


def test_holm_by_hand_and_statsmodels():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    p = np.random.default_rng(3).uniform(0, 0.3, 12)
    multitest = pytest.importorskip("statsmodels.stats.multitest")
    assert holm(p) == pytest.approx(multitest.multipletests(p, method="holm")[1])
    assert holm([np.nan, 0.02, 0.9]) == pytest.approx([np.nan, 0.04, 0.9], nan_ok=True)
    assert holm([0.6, 0.7, 0.02]) == pytest.approx([1.0, 1.0, 0.06])  # 2 · 0.6 is no probability
    assert holm([]).tolist() == []


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
