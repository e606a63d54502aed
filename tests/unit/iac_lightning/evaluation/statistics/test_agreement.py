from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from iac_lightning.evaluation.statistics.agreement import bland_altman, ccc, ccc_ci, icc_2_1, icc_3_1, volume_error
from iac_lightning.evaluation.statistics.bootstrap import statistic_ci

# Shrout & Fleiss 1979, table 2: six targets, four judges.
SHROUT_FLEISS = [[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]]


def test_icc_of_shrout_and_fleiss():
    assert icc_2_1(SHROUT_FLEISS) == pytest.approx(0.29, abs=0.005)
    assert icc_3_1(SHROUT_FLEISS) == pytest.approx(0.71, abs=0.005)


def test_icc_agrees_with_pingouin():
    pingouin = pytest.importorskip("pingouin")
    rng = np.random.default_rng(0)
    truth = rng.gamma(1, 100, 25)
    ratings = np.stack([truth * 1.1 + rng.normal(0, 15, 25) + 12, truth], axis=1)
    long = pd.DataFrame(ratings).reset_index().melt("index", var_name="rater", value_name="volume")
    table = pingouin.intraclass_corr(long, targets="index", raters="rater", ratings="volume")
    reference = table.set_index("Type")["ICC"]  # newer versions name the types after McGraw & Wong 1996
    two, three = ("ICC(A,1)", "ICC(C,1)") if "ICC(A,1)" in reference else ("ICC2", "ICC3")
    assert icc_2_1(ratings) == pytest.approx(reference[two], abs=1e-9)
    assert icc_3_1(ratings) == pytest.approx(reference[three], abs=1e-9)


def test_an_offset_lowers_agreement_but_not_consistency():
    x = np.array([1.0, 2.0, 3.0, 4.0])
    ratings = np.stack([x + 1, x], axis=1)
    # rows 2*5/3 = 10/3, columns 4*2*0.25 = 2, error 0: ICC(2,1) = (10/3) / (10/3 + 2*2/4)
    assert icc_2_1(ratings) == pytest.approx((10 / 3) / (10 / 3 + 1))
    assert icc_3_1(ratings) == pytest.approx(1.0)


def test_two_subjects_are_enough():
    # [[1, 2], [3, 5]]: means 1.5 and 4, 2 and 3.5; rows 2*6.25/1/2 = 6.25, columns 2.25, error 0.25
    assert icc_2_1([[1, 2], [3, 5]]) == pytest.approx((6.25 - 0.25) / (6.25 + 0.25 + 2 * (2.25 - 0.25) / 2))
    assert icc_3_1([[1, 2], [3, 5]]) == pytest.approx((6.25 - 0.25) / (6.25 + 0.25))
    assert ccc([1, 3], [1, 3]) == pytest.approx(1.0)
    found = bland_altman([1, 5], [0, 0])  # mean 3, standard deviation √8
    assert (found.bias, found.low, found.high) == pytest.approx((3, 3 - 1.96 * 8**0.5, 3 + 1.96 * 8**0.5))


def test_ccc_by_hand():
    # means 2 and 3, variances (over n) 2/3 and 2/3, covariance 2/3: 2*(2/3) / (4/3 + 1)
    assert ccc([1, 2, 3], [2, 3, 4]) == pytest.approx((4 / 3) / (7 / 3))
    assert ccc([1, 2, 3], [3, 2, 1]) == pytest.approx(-1.0)


def test_bland_altman_by_hand():
    found = bland_altman([3, 4, 8], [1, 4, 4])  # differences 2, 0, 4: mean 2, standard deviation 2
    assert (found.bias, found.low, found.high) == pytest.approx((2, 2 - 3.92, 2 + 3.92))


def test_volume_error_by_hand():
    found = volume_error([3, 4, 0], [1, 4, 4])
    assert (found.median_absolute, found.mean_signed) == pytest.approx((2, -2 / 3))


@pytest.mark.filterwarnings("error")
def test_what_is_undefined_is_nan():
    assert np.isnan([icc_2_1([[1, 2]]), icc_3_1(np.ones((5, 2))), ccc([1, 1], [1, 1]), ccc([1], [1])]).all()
    agreement, error = bland_altman([1], [2]), volume_error([], [])
    assert np.isnan([agreement.bias, agreement.low, agreement.high]).all()
    assert np.isnan([error.median_absolute, error.mean_signed]).all()


def test_wrong_shapes_are_refused():
    with pytest.raises(ValueError, match="shape"):
        ccc([1, 2], [1, 2, 3])
    with pytest.raises(ValueError, match="shape"):
        ccc([[1, 2]], [[1, 2]])
    with pytest.raises(ValueError, match="raters"):
        icc_2_1([1, 2, 3])


def test_interval_of_ccc_is_the_bootstrap_of_ccc():
    rng = np.random.default_rng(6)
    reference = 1000 + rng.lognormal(3, 1, 50)
    measurement, patients = reference * rng.normal(0.9, 0.2, 50), rng.integers(0, 20, 50)
    found = ccc_ci(measurement, reference, patients, seed=1, resamples=400)
    slow = statistic_ci(lambda rows: ccc(measurement[rows], reference[rows]), patients, seed=1, resamples=400)
    assert (found.estimate, found.low, found.high) == pytest.approx((slow.estimate, slow.low, slow.high), rel=1e-9)
    assert np.isnan(ccc_ci([2.0, 2.0], [2.0, 2.0], ["a", "b"], seed=0, resamples=10).estimate)
    nothing = ccc_ci([], [], [], seed=0, resamples=10)
    assert np.isnan(nothing.estimate)
    assert nothing.n == 0


@pytest.mark.parametrize(("scale", "shift"), [(1.0, 1e8), (1e-9, 0.0), (1e9, 0.0)])
def test_the_unit_does_not_change_the_interval_of_ccc(scale: float, shift: float):
    rng = np.random.default_rng(8)
    x, y = rng.normal([[1.0], [0.7]], 1.0, (2, 30))
    patients = np.arange(30)
    plain = ccc_ci(x, y, patients, seed=1, resamples=50)
    other = ccc_ci(scale * x + shift, scale * y + shift, patients, seed=1, resamples=50)
    assert (other.estimate, other.low, other.high) == pytest.approx((plain.estimate, plain.low, plain.high), abs=1e-5)
