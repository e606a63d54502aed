from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from iac_lightning.evaluation.statistics.agreement import (
    agreement_ci,
    bland_altman,
    ccc,
    icc_2_1,
    icc_3_1,
    rating_columns,
    volume_error,
)
from iac_lightning.evaluation.statistics.jackknife import degrees_of_freedom

# Shrout & Fleiss 1979, table 2: six targets, four judges.
SHROUT_FLEISS = [[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]]


def of(coefficient, ratings) -> float:
    return float(coefficient(rating_columns(np.asarray(ratings, dtype=float)).sum(axis=0)))


def pair(x, y) -> np.ndarray:
    return np.stack([np.asarray(v, dtype=float) for v in (x, y)], axis=-1)


def test_icc_of_shrout_and_fleiss():
    assert of(icc_2_1, SHROUT_FLEISS) == pytest.approx(0.29, abs=0.005)
    assert of(icc_3_1, SHROUT_FLEISS) == pytest.approx(0.71, abs=0.005)


def test_icc_agrees_with_pingouin():
    pingouin = pytest.importorskip("pingouin")
    rng = np.random.default_rng(0)
    truth = rng.gamma(1, 100, 25)
    ratings = np.stack([truth * 1.1 + rng.normal(0, 15, 25) + 12, truth], axis=1)
    long = pd.DataFrame(ratings).reset_index().melt("index", var_name="rater", value_name="volume")
    table = pingouin.intraclass_corr(long, targets="index", raters="rater", ratings="volume")
    reference = table.set_index("Type")["ICC"]  # newer versions name the types after McGraw & Wong 1996
    two, three = ("ICC(A,1)", "ICC(C,1)") if "ICC(A,1)" in reference else ("ICC2", "ICC3")
    assert of(icc_2_1, ratings) == pytest.approx(reference[two], abs=1e-9)
    assert of(icc_3_1, ratings) == pytest.approx(reference[three], abs=1e-9)


def test_an_offset_lowers_agreement_but_not_consistency():
    x = np.array([1.0, 2.0, 3.0, 4.0])
    ratings = np.stack([x + 1, x], axis=1)
    # rows 2*5/3 = 10/3, columns 4*2*0.25 = 2, error 0: ICC(2,1) = (10/3) / (10/3 + 2*2/4)
    assert of(icc_2_1, ratings) == pytest.approx((10 / 3) / (10 / 3 + 1))
    assert of(icc_3_1, ratings) == pytest.approx(1.0)


def test_two_subjects_are_enough():
    # [[1, 2], [3, 5]]: means 1.5 and 4, 2 and 3.5; rows 2*6.25/1/2 = 6.25, columns 2.25, error 0.25
    assert of(icc_2_1, [[1, 2], [3, 5]]) == pytest.approx((6.25 - 0.25) / (6.25 + 0.25 + 2 * (2.25 - 0.25) / 2))
    assert of(icc_3_1, [[1, 2], [3, 5]]) == pytest.approx((6.25 - 0.25) / (6.25 + 0.25))
    assert of(ccc, pair([1, 3], [1, 3])) == pytest.approx(1.0)
    found = bland_altman([1, 5], [0, 0])  # mean 3, standard deviation √8
    assert (found.bias, found.low, found.high) == pytest.approx((3, 3 - 1.96 * 8**0.5, 3 + 1.96 * 8**0.5))


def test_ccc_by_hand():
    # means 2 and 3, variances (over n) 2/3 and 2/3, covariance 2/3: 2*(2/3) / (4/3 + 1)
    assert of(ccc, pair([1, 2, 3], [2, 3, 4])) == pytest.approx((4 / 3) / (7 / 3))
    assert of(ccc, pair([1, 2, 3], [3, 2, 1])) == pytest.approx(-1.0)


def test_bland_altman_by_hand():
    found = bland_altman([3, 4, 8], [1, 4, 4])  # differences 2, 0, 4: mean 2, standard deviation 2
    assert (found.bias, found.low, found.high) == pytest.approx((2, 2 - 3.92, 2 + 3.92))


def test_volume_error_by_hand():
    found = volume_error([3, 4, 0], [1, 4, 4])
    assert (found.median_absolute, found.mean_signed) == pytest.approx((2, -2 / 3))


@pytest.mark.filterwarnings("error")
def test_what_is_undefined_is_nan():
    assert np.isnan(
        [of(icc_2_1, [[1, 2]]), of(icc_3_1, np.ones((5, 2))), of(ccc, pair([1, 1], [1, 1])), of(ccc, pair([1], [1]))]
    ).all()
    agreement, error = bland_altman([1], [2]), volume_error([], [])
    assert np.isnan([agreement.bias, agreement.low, agreement.high]).all()
    assert np.isnan([error.median_absolute, error.mean_signed]).all()


def test_the_interval_is_that_of_fishers_z_without_each_patient():
    rng = np.random.default_rng(2)
    truth = rng.gamma(2, 50, 24)
    ratings, patients = pair(truth * rng.lognormal(0, 0.2, 24), truth), np.arange(24) // 2
    for coefficient in (icc_2_1, icc_3_1, ccc):
        found = agreement_ci(ratings, patients, coefficient)
        value = of(coefficient, ratings)
        without = np.array([of(coefficient, ratings[patients != g]) for g in range(12)])
        se = np.sqrt(11 / 12 * ((without - value) ** 2).sum()) / (1 - value**2)
        spread = np.bincount(patients, weights=((ratings - ratings.mean(axis=0)) ** 2).sum(axis=1))
        reach = stats.t.isf(0.025, float(degrees_of_freedom(spread))) * se
        assert found.estimate == pytest.approx(value)
        assert [found.low, found.high] == pytest.approx(np.tanh(np.arctanh(value) + np.array([-1, 1]) * reach))
        assert (found.n, found.n_patients) == (24, 12)


def test_a_single_large_volume_decides_nothing():
    found = agreement_ci(pair([1.0, 2, 3, 4, 5, 5000], [2.0, 1, 4, 3, 5, 4000]), np.arange(6), icc_2_1)
    assert found.estimate > 0.95
    assert found.low < -0.99  # of six patients one: about one degree of freedom


@pytest.mark.filterwarnings("error")
def test_perfect_agreement_and_few_patients_have_no_interval():
    x = np.array([0.1, 0.2, 0.3, 0.5, 0.7, 1.1])
    for coefficient in (icc_2_1, icc_3_1, ccc):
        perfect = agreement_ci(pair(x, x), np.arange(6), coefficient)
        assert perfect.estimate == pytest.approx(1)
        assert np.isnan(perfect.low)
    few = agreement_ci(pair(x[:4], x[1:5]), np.arange(4), icc_2_1)
    assert np.isnan(few.low)
    assert few.remark == "4 patients: too few for an interval"
    nobody = agreement_ci(np.zeros((0, 2)), [], icc_2_1)
    assert np.isnan(nobody.estimate)


def test_wrong_shapes_are_refused():
    with pytest.raises(ValueError, match="shape"):
        bland_altman([1, 2], [1, 2, 3])
    with pytest.raises(ValueError, match="raters"):
        agreement_ci([1, 2, 3], ["a", "b", "c"], icc_2_1)
