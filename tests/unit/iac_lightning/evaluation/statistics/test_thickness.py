from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from iac_lightning.evaluation.statistics.intervals import mean_ci
from iac_lightning.evaluation.statistics.jackknife import degrees_of_freedom
from iac_lightning.evaluation.statistics.paired import holm
from iac_lightning.evaluation.statistics.strata import strata_from_edges
from iac_lightning.evaluation.statistics.thickness import (
    by_stratum,
    line_band,
    slope_ci,
    stratum_contrasts,
    within_patient_slope_ci,
)

RNG = np.random.default_rng(0)
THICKNESS = RNG.choice([0.6, 1.0, 2.5, 5.0, 8.0], 70)
DICE = np.clip(0.8 - 0.03 * THICKNESS + RNG.normal(0, 0.1, 70), 0, 1)
PATIENTS = RNG.permutation(70) % 25


def test_strata_hold_their_scans():
    found = dict(by_stratum(DICE, THICKNESS, PATIENTS))
    inside = THICKNESS == 5.0
    expected = mean_ci(DICE[inside], PATIENTS[inside])
    assert (found["4–6 mm"].low, found["4–6 mm"].high) == (expected.low, expected.high)
    assert sum(interval.n for interval in found.values()) == 70
    two = by_stratum(DICE, THICKNESS, PATIENTS, strata_from_edges([3]))
    assert [(name, interval.n) for name, interval in two] == [
        ("≤ 3 mm", (THICKNESS <= 3).sum()),
        ("> 3 mm", (THICKNESS > 3).sum()),
    ]


def without_each(statistic, leverage: np.ndarray) -> tuple[float, float]:
    """Ends of an interval by leaving out each patient with a leverage, one after the other."""
    value = statistic(np.ones(70, dtype=bool))
    weights = np.bincount(PATIENTS, weights=leverage)
    parts = [(1 - w / weights.sum()) * (statistic(g != PATIENTS) - value) ** 2 for g, w in enumerate(weights) if w > 0]
    reach = stats.t.isf(0.025, float(degrees_of_freedom(weights))) * sum(parts) ** 0.5
    return value - reach, value + reach


def test_slope_is_polyfits_and_so_is_its_interval():
    found = slope_ci(DICE, THICKNESS, PATIENTS)
    assert found.estimate == pytest.approx(np.polyfit(THICKNESS, DICE, 1)[0])
    expected = without_each(
        lambda rows: float(np.polyfit(THICKNESS[rows], DICE[rows], 1)[0]), (THICKNESS - THICKNESS.mean()) ** 2
    )
    assert (found.low, found.high) == pytest.approx(expected)
    assert (found.n, found.n_patients) == (70, 25)
    assert found.p < 0.001  # Dice does fall


def test_undefined_figures_are_left_out():
    with_nan = np.r_[DICE, np.nan]
    found = slope_ci(with_nan, np.r_[THICKNESS, 99.0], np.r_[PATIENTS, 0])
    assert found == slope_ci(DICE, THICKNESS, PATIENTS)


def test_difference_of_two_models_is_the_slope_of_their_difference():
    other = 0.9 - 0.05 * THICKNESS + RNG.normal(0, 0.1, 70)
    slopes = [slope_ci(v, THICKNESS, PATIENTS).estimate for v in (DICE, other, DICE - other)]
    assert slopes[2] == pytest.approx(slopes[0] - slopes[1])


def test_one_thickness_has_no_slope():
    found = slope_ci([0.1, 0.2, 0.3], [5.1, 5.1, 5.1], ["a", "b", "c"])
    assert np.isnan([found.estimate, found.low, found.high]).all()


def test_within_patients_the_confounding_is_gone():
    # Between patients thicker slices go with higher Dice, within each of them Dice falls by 0.1 a mm.
    patients = np.repeat(["a", "b", "c", "single"], [2, 2, 3, 1])
    thickness = np.array([1, 2, 3, 4, 5, 6, 7, 9.0])
    dice = np.array([0.3, 0.2, 0.6, 0.5, 0.9, 0.8, 0.7, 0.1])
    found = within_patient_slope_ci(dice, thickness, patients)
    assert found.estimate == pytest.approx(-0.1)
    assert np.isnan([found.low, found.high]).all()
    assert found.points == pytest.approx((-0.1, -0.1, -0.1))
    assert (found.n, found.n_patients, found.remark) == (7, 3, "3 patients: too few for an interval")
    assert slope_ci(dice[:7], thickness[:7], patients[:7]).estimate > 0.05


def test_within_patients_with_dummy_variables():
    dummies = np.eye(25)[PATIENTS]
    expected = np.linalg.lstsq(np.c_[THICKNESS, dummies], DICE, rcond=None)[0][0]
    found = within_patient_slope_ci(DICE, THICKNESS, PATIENTS)
    assert found.estimate == pytest.approx(expected)


def test_the_interval_within_patients_leaves_out_each():
    x, y = ((v - np.array([v[p == PATIENTS].mean() for p in PATIENTS])) for v in (THICKNESS, DICE))
    found = within_patient_slope_ci(DICE, THICKNESS, PATIENTS)
    expected = without_each(lambda rows: float((x[rows] * y[rows]).sum() / (x[rows] ** 2).sum()), x**2)
    assert (found.low, found.high) == pytest.approx(expected)


def test_a_stratum_is_held_against_all_others_and_corrected_over_the_strata():
    worse = np.where(THICKNESS == 8.0, 0.2, 0.7) + np.random.default_rng(3).normal(0, 0.05, 70)
    found = stratum_contrasts(worse, THICKNESS, PATIENTS)
    assert [c.stratum for c in found] == ["≤ 1 mm", "2–4 mm", "4–6 mm", "> 6 mm"]  # no scan has 1 to 2 mm
    thick = found[-1]
    inside = THICKNESS == 8.0
    assert thick.difference.estimate == pytest.approx(worse[inside].mean() - worse[~inside].mean())
    assert thick.difference.high < -0.4
    assert thick.holm_p == pytest.approx(min(4 * c.difference.p for c in found))
    chance = np.random.default_rng(5).normal(0.6, 0.1, 70)
    raw = [c.difference.p for c in stratum_contrasts(chance, THICKNESS, PATIENTS)]
    assert [c.holm_p for c in stratum_contrasts(chance, THICKNESS, PATIENTS)] == pytest.approx(holm(raw))
    assert max(raw) < 1
    same = stratum_contrasts(DICE - DICE + 0.5, THICKNESS, PATIENTS)
    assert all(c.holm_p == 1 for c in same)


def test_a_stratum_of_four_patients_is_not_judged():
    thickness = np.r_[np.full(20, 1.0), np.full(4, 9.0)]
    dice = np.r_[np.full(20, 0.8), np.full(4, 0.1)]
    assert stratum_contrasts(dice, thickness, np.arange(24)) == []
    assert stratum_contrasts(np.r_[dice, 0.1, np.nan], np.r_[thickness, 9.0, 9.0], np.r_[np.arange(24), 0, 30]) != []


def test_nothing_within_patients():
    single = within_patient_slope_ci([0.1, 0.2], [1, 5], ["a", "b"])
    undefined = within_patient_slope_ci([np.nan], [1], ["a"])
    assert np.isnan([single.estimate, undefined.estimate]).all()
    assert single.n == undefined.n == 0


def test_thickness_must_be_known():
    with pytest.raises(ValueError, match="finite"):
        slope_ci([0.1, 0.2], [1, np.nan], ["a", "b"])
    for values, thickness in (([0.1], [1.0, 2.0]), ([[0.1, 0.2]], [[1.0, 2.0]])):
        with pytest.raises(ValueError, match="as many finite thicknesses"):
            slope_ci(values, thickness, ["a", "b"])


def test_the_band_leaves_out_each_patient_and_is_narrowest_in_the_middle():
    grid = np.array([1.0, THICKNESS.mean(), 8.0])
    line, low, high = line_band(THICKNESS, DICE, PATIENTS.astype(str), grid)
    slope, constant = np.polyfit(THICKNESS, DICE, 1)
    assert line == pytest.approx(constant + slope * grid)
    rows = [g != PATIENTS for g in range(25)]
    without = np.array([np.polyval(np.polyfit(THICKNESS[r], DICE[r], 1), grid) for r in rows])
    jackknife = 2 * stats.t.isf(0.025, 20) * np.sqrt(24 / 25 * ((without - line) ** 2).sum(axis=0))
    assert high - low == pytest.approx(jackknife, rel=0.08)
    assert (high - low)[1] < (high - low)[[0, 2]].min()


@pytest.mark.filterwarnings("error")
def test_scans_of_one_thickness_have_no_line_and_no_noise_of_numpy():
    line, *_ = line_band(np.array([2.0, 2.0]), np.array([0.5, 0.7]), np.array(["a", "b"]), np.array([3.0]))
    assert not np.isfinite(line).any()


def test_one_patient_has_a_line_without_a_band():
    line, low, high = line_band(np.array([1.0, 2.0]), np.array([0.5, 0.7]), np.array(["a", "a"]), np.array([3.0]))
    assert line == pytest.approx([0.9])
    assert np.isnan([low, high]).all()
