"""Leave one patient out: held against textbooks, cluster-robust regression by matrices, and hand-worked numbers."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import linalg, stats

from iac_lightning.evaluation.statistics.jackknife import (
    CORRELATION,
    POSITIVE,
    REAL,
    SHARE,
    Spread,
    degrees_of_freedom,
    leave_one_out,
    ratio,
    student_interval,
    student_p,
)

RNG = np.random.default_rng(0)
PATIENTS = np.repeat(np.arange(9), [1, 2, 3, 1, 2, 3, 4, 1, 2])


def quotient(sums: np.ndarray) -> np.ndarray:
    return ratio(sums[..., 0], sums[..., 1])


def bell_mccaffrey(x: np.ndarray, y: np.ndarray) -> tuple[float, float, float]:
    """Slope through the origin, its CR2 standard error and Satterthwaite's degrees of freedom, all by matrices."""
    n, design = len(x), x[:, None]
    bread = np.linalg.inv(design.T @ design)
    hat = design @ bread @ design.T
    slope = float((bread @ design.T @ y).item())
    scores, rows = [], []
    for g in np.unique(PATIENTS):
        at = np.flatnonzero(g == PATIENTS)
        root = linalg.inv(linalg.sqrtm(np.eye(len(at)) - hat[np.ix_(at, at)]).real)
        scores.append(float(design[at].T[0] @ root @ (y - design[:, 0] * slope)[at]))
        rows.append((np.eye(n) - hat)[at].T @ root @ design[at, 0])
    products = np.array(rows) @ np.array(rows).T
    se = float(bread[0, 0] * np.sqrt(np.square(scores).sum()))
    return slope, se, float(np.trace(products) ** 2 / np.square(products).sum())


def by_patient(*columns: np.ndarray) -> np.ndarray:
    return np.stack([np.bincount(PATIENTS, weights=c) for c in columns], axis=-1)


def test_one_scan_a_patient_is_the_t_interval_of_a_mean():
    x = RNG.normal(size=12)
    found = leave_one_out(np.stack([x, np.ones(12)], -1), quotient, np.ones(12))
    assert (found.estimate, found.se, found.df) == pytest.approx((x.mean(), x.std(ddof=1) / 12**0.5, 11))
    reference = stats.ttest_1samp(x, 0)
    assert student_p(found) == pytest.approx(reference.pvalue)
    assert student_interval(found) == pytest.approx(tuple(reference.confidence_interval()))


def test_a_slope_and_a_mean_over_scans_are_cluster_robust_regressions():
    y = RNG.normal(size=len(PATIENTS)) + RNG.normal(size=9)[PATIENTS]
    for x in (RNG.normal(size=len(PATIENTS)), np.ones(len(PATIENTS))):
        sums = by_patient(x * y, x**2)
        found = leave_one_out(sums, quotient, sums[:, 1])
        assert (found.estimate, found.se, found.df) == pytest.approx(bell_mccaffrey(x, y))


def test_leading_dimensions_are_samples():
    x = RNG.normal(size=(4, 3, 8))
    sums = np.stack([x, np.ones_like(x)], -1)
    found = leave_one_out(sums, quotient, np.ones_like(x))
    one = leave_one_out(sums[2, 1], quotient, np.ones(8))
    for of_all, alone in ((found.estimate, one.estimate), (found.se, one.se), (found.df, one.df)):
        assert of_all.shape in ((4, 3), ())
        assert np.broadcast_to(of_all, (4, 3))[2, 1] == pytest.approx(float(alone))
    assert student_interval(found)[0].shape == student_p(found).shape == (4, 3)


def test_few_patients_who_decide_leave_few_degrees_of_freedom():
    assert degrees_of_freedom(np.ones(10)) == pytest.approx(9)
    assert 1 < degrees_of_freedom(np.r_[[10.0] * 3, [0.01] * 20]) < 2.2
    assert degrees_of_freedom(np.r_[1.0, np.zeros(8)]) == 0
    assert degrees_of_freedom(np.zeros(5)) == 0
    size = leave_one_out(np.ones((6, 2)), quotient, np.ones(6), size=np.r_[[5.0] * 3, [1e-9] * 3])
    assert size.df == pytest.approx(2, abs=1e-6)


@pytest.mark.parametrize(
    ("scale", "estimate", "limits"), [(SHARE, 0.9, (0, 1)), (POSITIVE, 0.5, (0, np.inf)), (CORRELATION, 0.8, (-1, 1))]
)
def test_intervals_stay_within_limits_and_agree_with_the_plain_one_where_they_are_short(scale, estimate, limits):
    wide = Spread(estimate=np.array(estimate), se=np.array(0.5), df=np.array(4.0))
    low, high = student_interval(wide, scale)
    assert limits[0] < low < estimate < high < limits[1]
    short = Spread(estimate=np.array(estimate), se=np.array(1e-5), df=np.array(4.0))
    np.testing.assert_allclose(student_interval(short, scale), student_interval(short, REAL), atol=1e-8)


def test_a_scale_by_hand():
    # logit 0.9 = ln 9, its standard error 0.02 / 0.09; t of 4 degrees of freedom 2.7764.
    found = Spread(estimate=np.array(0.9), se=np.array(0.02), df=np.array(4.0))
    reach = 2.776445 * 0.02 / 0.09
    expected = [1 / (1 + np.exp(-(np.log(9) + sign * reach))) for sign in (-1, 1)]
    assert student_interval(found, SHARE) == pytest.approx(tuple(expected), abs=1e-6)


@pytest.mark.filterwarnings("error")
def test_no_interval_where_nothing_tells_how_far_the_value_may_be_off():
    one = {"estimate": np.array(1.0), "se": np.array(0.1), "df": np.array(4.0)}
    assert np.isnan(student_interval(Spread(**one), CORRELATION)).all()  # perfect agreement
    assert np.isnan(student_interval(Spread(**{**one, "df": np.array(0.9)}))).all()  # a single patient decides
    undefined = leave_one_out(np.array([[1.0, 0], [1, 0], [2, 3]]), quotient, np.ones(3))
    assert np.isnan(undefined.se)
    assert np.isnan(student_p(undefined))
    equal = leave_one_out(np.stack([np.zeros(6), np.ones(6)], -1), quotient, np.ones(6))
    assert (float(student_p(equal)), *map(float, student_interval(equal))) == (1.0, 0.0, 0.0)


def test_a_ratio_has_the_shape_of_both():
    found = ratio(np.array([[1.0], [2.0]]), np.array([2.0, 0.0, 4.0]))
    np.testing.assert_array_equal(found, [[0.5, np.nan, 0.25], [1.0, np.nan, 0.5]])
    np.testing.assert_array_equal(ratio(np.array([1.0, 2.0]), np.array(4.0)), [0.25, 0.5])
    assert ratio(np.array(1.0), np.array(4.0)) == 0.25
