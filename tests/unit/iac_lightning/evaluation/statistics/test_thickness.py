from __future__ import annotations

import numpy as np
import pytest

from iac_lightning.evaluation.statistics.bootstrap import mean_ci, statistic_ci
from iac_lightning.evaluation.statistics.strata import strata_from_edges
from iac_lightning.evaluation.statistics.thickness import by_stratum, line_band, slope_ci, within_patient_slope_ci

RNG = np.random.default_rng(0)
THICKNESS = RNG.choice([0.6, 1.0, 2.5, 5.0, 8.0], 70)
DICE = 0.8 - 0.03 * THICKNESS + RNG.normal(0, 0.1, 70)
PATIENTS = RNG.permutation(70) % 25


def test_strata_hold_their_scans():
    found = dict(by_stratum(DICE, THICKNESS, PATIENTS, seed=1, resamples=100))
    inside = THICKNESS == 5.0
    assert found["4–6 mm"] == mean_ci(DICE[inside], PATIENTS[inside], seed=1, resamples=100)
    assert sum(interval.n for interval in found.values()) == 70
    two = by_stratum(DICE, THICKNESS, PATIENTS, strata_from_edges([3]), seed=1, resamples=100)
    assert [(name, interval.n) for name, interval in two] == [
        ("≤ 3 mm", (THICKNESS <= 3).sum()),
        ("> 3 mm", (THICKNESS > 3).sum()),
    ]


def test_slope_is_polyfits_and_so_is_its_interval():
    found = slope_ci(DICE, THICKNESS, PATIENTS, seed=5, resamples=300)
    assert found.estimate == pytest.approx(np.polyfit(THICKNESS, DICE, 1)[0])
    slow = statistic_ci(
        lambda rows: float(np.polyfit(THICKNESS[rows], DICE[rows], 1)[0]), PATIENTS, seed=5, resamples=300
    )
    assert (found.low, found.high) == pytest.approx((slow.low, slow.high))
    assert (found.n, found.n_patients) == (70, 25)


def test_undefined_figures_are_left_out():
    with_nan = np.r_[DICE, np.nan]
    found = slope_ci(with_nan, np.r_[THICKNESS, 99.0], np.r_[PATIENTS, 0], seed=5, resamples=50)
    assert found == slope_ci(DICE, THICKNESS, PATIENTS, seed=5, resamples=50)


def test_difference_of_two_models_is_the_slope_of_their_difference():
    other = 0.9 - 0.05 * THICKNESS + RNG.normal(0, 0.1, 70)
    slopes = [slope_ci(v, THICKNESS, PATIENTS, seed=0, resamples=10).estimate for v in (DICE, other, DICE - other)]
    assert slopes[2] == pytest.approx(slopes[0] - slopes[1])


def test_one_thickness_has_no_slope():
    found = slope_ci([0.1, 0.2, 0.3], [5.1, 5.1, 5.1], ["a", "b", "c"], seed=0, resamples=20)
    assert np.isnan([found.estimate, found.low, found.high]).all()


def test_within_patients_the_confounding_is_gone():
    # Between patients thicker slices go with higher Dice, within each of them Dice falls by 0.1 a mm.
    patients = np.repeat(["a", "b", "c", "single"], [2, 2, 3, 1])
    thickness = np.array([1, 2, 3, 4, 5, 6, 7, 9.0])
    dice = np.array([0.3, 0.2, 0.6, 0.5, 0.9, 0.8, 0.7, 0.1])
    found = within_patient_slope_ci(dice, thickness, patients, seed=0, resamples=50)
    assert found.estimate == pytest.approx(-0.1)
    assert (found.low, found.high) == pytest.approx((-0.1, -0.1))
    assert (found.n, found.n_patients) == (7, 3)
    assert slope_ci(dice[:7], thickness[:7], patients[:7], seed=0, resamples=50).estimate > 0.05


def test_within_patients_with_dummy_variables():
    dummies = np.eye(25)[PATIENTS]
    expected = np.linalg.lstsq(np.c_[THICKNESS, dummies], DICE, rcond=None)[0][0]
    found = within_patient_slope_ci(DICE, THICKNESS, PATIENTS, seed=0, resamples=20)
    assert found.estimate == pytest.approx(expected)


def test_the_interval_within_patients_is_the_bootstrap_over_them():
    x, y = ((v - np.array([v[p == PATIENTS].mean() for p in PATIENTS])) for v in (THICKNESS, DICE))
    varied = np.array([np.ptp(THICKNESS[p == PATIENTS]) > 0 for p in PATIENTS])
    x, y, names = x[varied], y[varied], PATIENTS[varied]
    slow = statistic_ci(lambda r: float((x[r] * y[r]).sum() / (x[r] ** 2).sum()), names, seed=3, resamples=60)
    found = within_patient_slope_ci(DICE, THICKNESS, PATIENTS, seed=3, resamples=60)
    assert (found.low, found.high) == pytest.approx((slow.low, slow.high))


def test_nothing_within_patients():
    single = within_patient_slope_ci([0.1, 0.2], [1, 5], ["a", "b"], seed=0, resamples=5)
    undefined = within_patient_slope_ci([np.nan], [1], ["a"], seed=0, resamples=5)
    assert np.isnan([single.estimate, undefined.estimate]).all()
    assert single.n == undefined.n == 0


def test_thickness_must_be_known():
    with pytest.raises(ValueError, match="finite"):
        slope_ci([0.1, 0.2], [1, np.nan], ["a", "b"], seed=0)
    for values, thickness in (([0.1], [1.0, 2.0]), ([[0.1, 0.2]], [[1.0, 2.0]])):
        with pytest.raises(ValueError, match="as many finite thicknesses"):
            slope_ci(values, thickness, ["a", "b"], seed=0)


def test_the_band_is_that_of_lines_through_drawn_patients():
    grid = np.array([1.0, 4.0])
    line, low, high = line_band(THICKNESS, DICE, PATIENTS.astype(str), grid, seed=3, resamples=400)
    slope, constant = np.polyfit(THICKNESS, DICE, 1)
    assert line == pytest.approx(constant + slope * grid)
    rng, names = np.random.default_rng(5), np.unique(PATIENTS)
    lines = []
    for _ in range(400):
        rows = np.concatenate([np.flatnonzero(p == PATIENTS) for p in rng.choice(names, len(names))])
        lines.append(np.polyval(np.polyfit(THICKNESS[rows], DICE[rows], 1), grid))
    assert np.stack([low, high]) == pytest.approx(np.quantile(lines, [0.025, 0.975], axis=0), abs=0.01)


@pytest.mark.filterwarnings("error")
def test_scans_of_one_thickness_have_no_line_and_no_noise_of_numpy():
    line, *_ = line_band(
        np.array([2.0, 2.0]), np.array([0.5, 0.7]), np.array(["a", "b"]), np.array([3.0]), seed=0, resamples=9
    )
    assert not np.isfinite(line).any()


def test_one_patient_has_a_line_without_a_band():
    line, low, high = line_band(
        np.array([1.0, 2.0]), np.array([0.5, 0.7]), np.array(["a", "a"]), np.array([3.0]), seed=0, resamples=9
    )
    assert line == pytest.approx([0.9])
    assert np.isnan([low, high]).all()
