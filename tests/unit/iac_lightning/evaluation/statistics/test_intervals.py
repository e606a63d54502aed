from __future__ import annotations

import numpy as np
import pytest
from scipy import special, stats

from iac_lightning.evaluation.statistics.intervals import mean_ci, missing_interval, ratio_ci, sums_ci
from iac_lightning.evaluation.statistics.jackknife import ratio

VALUES = np.random.default_rng(0).beta(3, 2, 40)


def test_one_scan_a_patient_is_students_interval():
    reference = stats.ttest_1samp(VALUES - 0.5, 0)
    found = mean_ci(VALUES - 0.5, np.arange(40), "difference")
    assert (found.low, found.high) == pytest.approx(tuple(reference.confidence_interval()))
    assert (found.estimate, found.p) == pytest.approx((VALUES.mean() - 0.5, reference.pvalue))
    assert (found.n, found.n_patients, found.remark, found.points) == (40, 40, "", ())
    narrow = mean_ci(VALUES - 0.5, np.arange(40), "difference", confidence=0.5)
    assert (narrow.low, narrow.high) == pytest.approx(tuple(reference.confidence_interval(0.5)))


def test_a_share_has_its_interval_on_the_logit_scale():
    found = mean_ci(VALUES, np.arange(40))
    m = VALUES.mean()
    reach = stats.t.isf(0.025, 39) * VALUES.std(ddof=1) / 40**0.5 / (m * (1 - m))
    expected = [special.expit(special.logit(m) + sign * reach) for sign in (-1, 1)]
    assert [found.low, found.high] == pytest.approx(expected)
    assert np.isnan(found.p)


def test_repeating_every_scan_of_a_patient_does_not_narrow_the_interval():
    once = mean_ci(VALUES, np.arange(40))
    fivefold = mean_ci(np.repeat(VALUES, 5), np.repeat(np.arange(40), 5))
    assert (fivefold.low, fivefold.high) == pytest.approx((once.low, once.high))
    assert (fivefold.n, fivefold.n_patients) == (200, 40)


def test_the_order_of_rows_and_the_names_of_patients_change_nothing():
    patients = np.array([f"p{i % 13}" for i in range(40)])
    shuffled = np.random.default_rng(9).permutation(40)
    first, again = mean_ci(VALUES, patients), mean_ci(VALUES[shuffled], patients[shuffled])
    assert (again.low, again.high) == pytest.approx((first.low, first.high))


@pytest.mark.parametrize("kind", ["share", "difference"])
def test_below_five_patients_their_points_stand_instead(kind):
    four = mean_ci([0.6, 0.2, 0.4, 0.1, 0.3], ["c", "a", "a", "b", "d"], kind)
    assert np.isnan([four.low, four.high, four.p]).all()
    assert four.points == pytest.approx((0.1, 0.3, 0.3, 0.6))
    assert four.remark == "4 patients: too few for an interval"
    five = mean_ci([0.6, 0.2, 0.4, 0.1, 0.3, 0.3], ["c", "a", "a", "b", "d", "e"], kind)
    assert five.low < five.estimate < five.high
    assert (five.points, five.remark) == ((), "")


@pytest.mark.filterwarnings("error")
def test_undefined_values_are_left_out():
    found = mean_ci([0.5, np.nan, 0.7, np.nan], ["a", "a", "b", "c"])
    assert (found.estimate, found.n, found.n_patients) == (pytest.approx(0.6), 2, 2)
    none = mean_ci([np.nan], ["a"])
    assert np.isnan([none.estimate, none.low, none.high]).all()
    assert (none.n, none.n_patients, none.remark, none.points) == (0, 0, "", ())


def test_shares_that_are_all_one_leave_room_for_patients_who_are_not():
    found = mean_ci(np.ones(12), np.repeat(np.arange(6), 2))
    assert (found.low, found.high) == pytest.approx(tuple(stats.binomtest(6, 6).proportion_ci(method="exact")))
    found = mean_ci(np.zeros(8), np.arange(8))
    assert (found.low, found.high) == pytest.approx(tuple(stats.binomtest(0, 8).proportion_ci(method="exact")))


def test_amounts_that_lie_with_a_few_patients_have_wide_intervals():
    even, uneven = np.linspace(9, 11, 12), np.r_[np.full(10, 0.5), 50, 65.0]
    narrow, wide = (mean_ci(x, np.arange(12), "positive") for x in (even, uneven))
    assert (narrow.estimate, wide.estimate) == pytest.approx((10, 10))
    assert 9 < narrow.low < narrow.high < 11
    # Two patients make up all of it: one degree of freedom, t = 12.7.
    assert 0 < wide.low < 0.01
    assert wide.high > 1000
    assert mean_ci(uneven, np.arange(12), "difference").high < 30
    signed = mean_ci(uneven - 10, np.arange(12), "signed")
    assert signed.high > mean_ci(uneven - 10, np.arange(12), "difference").high
    zero = mean_ci(np.zeros(6), np.arange(6), "signed")
    assert (zero.low, zero.high, zero.p) == (0, 0, 1)


def test_values_outside_of_what_their_kind_can_be_are_refused():
    with pytest.raises(ValueError, match="no share"):
        mean_ci([0.1, 1.2], ["a", "b"])
    with pytest.raises(ValueError, match="no positive"):
        mean_ci([0.1, -1.2], ["a", "b"], "positive")
    with pytest.raises(ValueError, match="patients"):
        mean_ci([0.1, 0.2], ["a"])
    with pytest.raises(ValueError, match="shape"):
        sums_ci([1.0, 2.0], lambda s: s, ["a", "b"])


def test_sums_leave_out_undefined_scans():
    columns = [[1.0, 2.0], [np.nan, 1.0], [0.0, 0.0], [1.0, np.nan]]
    found = sums_ci(columns, lambda s: ratio(s[..., 0], s[..., 1]), ["a", "a", "b", "c"])
    assert (found.estimate, found.n, found.n_patients, found.remark) == (0.5, 2, 2, missing_interval(2))
    nothing = sums_ci(np.zeros((0, 2)), lambda s: s[..., 0], np.zeros(0, dtype=str))
    assert np.isnan(nothing.estimate)
    assert (nothing.n_patients, nothing.remark) == (0, "")


def test_a_ratio_of_totals():
    rng = np.random.default_rng(1)
    volume = rng.lognormal(3, 0.2, 30)
    predicted = 0.9 * volume * rng.lognormal(0, 0.1, 30)
    found = ratio_ci([*predicted, np.nan], [*volume, 5.0], np.r_[np.arange(30) // 2, 99])
    assert found.estimate == pytest.approx(predicted.sum() / volume.sum())
    assert 0.8 < found.low < found.estimate < found.high < 1
    assert (found.n, found.n_patients) == (30, 15)
    none = ratio_ci(np.zeros(6), np.ones(6), np.arange(6))
    assert (none.estimate, none.remark) == (0, "no interval: all agree, or a single patient decides")
    assert np.isnan([none.low, none.high]).all()
