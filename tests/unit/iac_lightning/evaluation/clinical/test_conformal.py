from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from data_modules.errors import UserError
from iac_lightning.evaluation.clinical.conformal import (
    clopper_pearson,
    conformal_radius,
    fit_conformal,
    measured_coverage,
    volume_intervals,
)
from iac_lightning.evaluation.clinical.risk import RiskCutoffs

CUTOFFS = RiskCutoffs(low_mm3=10, medium_mm3=100, source="fixed")
THIN, THICK = 0.8, 5.0


def simulated(patients: int, rng: np.random.Generator, noise: dict[float, float], max_series: int = 1) -> pd.DataFrame:
    """Skewed volumes with empty ones, errors that grow with the volume and the patient, and with thick slices."""
    series = rng.integers(1, max_series + 1, patients)
    names = np.repeat([f"p{i:05d}" for i in range(patients)], series)
    label = np.repeat(rng.lognormal(3.5, 1.2, patients) * (rng.random(patients) > 0.2), series)
    thickness = rng.choice(list(noise), len(names))
    sloppy = np.repeat(rng.lognormal(0, 0.5, patients), series)
    spread = np.array([noise[t] for t in thickness]) * sloppy
    root = np.sqrt(label) * (1 + 0.1 * rng.normal(size=len(names))) + spread * rng.normal(size=len(names))
    return pd.DataFrame(
        {
            "series_id": [f"s{i:05d}" for i in range(len(names))],
            "patient_id": names,
            "slice_thickness_mm": thickness,
            "volume_mm3": np.maximum(root, 0) ** 2,
            "label_volume_mm3": label,
        }
    )


@pytest.mark.parametrize(("n", "coverage", "rank"), [(9, 0.9, 9), (19, 0.9, 18), (20, 0.9, 19), (99, 0.95, 95)])
def test_radius_is_the_finite_sample_quantile(n, coverage, rank):
    # ⌈(n + 1)(1 − α)⌉-th smallest; scores are 1 … n in random order.
    scores = np.random.default_rng(n).permutation(n) + 1
    assert conformal_radius(scores, np.arange(n), coverage) == rank


def test_too_few_patients_have_no_radius():
    assert conformal_radius(np.arange(8), np.arange(8), 0.9) == np.inf
    # Many scans of few patients are few patients.
    assert conformal_radius(np.arange(80), np.arange(80) // 10, 0.9) == np.inf


def test_weight_of_a_patient_is_spread_over_the_scans():
    # Coverage 0.5 of K = 3 needs weight 2: scores 1, 2, 3 of c weigh 1/3 each, 4 of a 1 → reached at 4.
    assert conformal_radius([4, 5, 1, 2, 3], list("abccc"), 0.5) == 4
    assert conformal_radius([4, 5, 1, 2, 3], list("abccc"), 0.4) == 4  # the third of five scans weighs 1 of 1.6
    repeated = conformal_radius(np.repeat(np.arange(19.0), 4), np.repeat(np.arange(19), 4), 0.9)
    assert repeated == conformal_radius(np.arange(19.0), np.arange(19), 0.9) == 17


@pytest.mark.parametrize("max_series", [1, 3])
def test_intervals_cover_new_patients_in_every_stratum(max_series):
    found, all_scans = {"all": [], "≤ 1 mm": [], "4–6 mm": []}, []
    for repetition in range(100):
        rng = np.random.default_rng([repetition, max_series])
        dev, test = (simulated(300, rng, {THIN: 0.3, THICK: 1.5}, max_series) for _ in range(2))
        fit = fit_conformal(dev, 0.9)
        for row in measured_coverage(fit, volume_intervals(fit, test, CUTOFFS)):
            found[row.stratum].append(row.coverage)
        all_scans.append(row.n_unbounded)
    for coverages in found.values():
        # Standard error over repetitions about 0.003; the promise exceeds 0.9 by less than 1/100 patients a stratum.
        assert 0.892 < np.mean(coverages) < 0.915
    assert np.mean([0.86 <= c <= 0.94 for c in found["all"]]) > 0.85
    assert sum(all_scans) == 0


def test_one_radius_for_all_fails_the_thick_slices_and_merged_strata_do_not():
    # What conditioning on the stratum is for: the same data with one radius.
    rng = np.random.default_rng(0)
    dev, test = (simulated(3000, rng, {THIN: 0.3, THICK: 1.5}) for _ in range(2))
    thick = test["slice_thickness_mm"] == THICK
    one = fit_conformal(dev, 0.9, strata=(("all", 0, float("inf")),))
    covered = volume_intervals(one, test, CUTOFFS)["covered"].astype(float)
    assert covered.mean() == pytest.approx(0.9, abs=0.02)
    assert covered[thick].mean() < 0.86
    merged = fit_conformal(dev, 0.9, min_patients=10_000)
    by_stratum = {row.stratum: row for row in measured_coverage(merged, volume_intervals(merged, test, CUTOFFS))}
    assert by_stratum["4–6 mm"].coverage == pytest.approx(0.9, abs=0.02)
    assert by_stratum["4–6 mm"].calibrated_in == ("≤ 1 mm", "1–2 mm", "2–4 mm", "4–6 mm", "> 6 mm")


@pytest.mark.parametrize(("patients", "promised"), [(4, 0.8), (14, 0.9)])
def test_a_stratum_of_few_patients_keeps_what_is_promised_for_it(patients, promised):
    covered = []
    for repetition in range(300):
        rng = np.random.default_rng([repetition, patients])
        thin, thick = simulated(40, rng, {THIN: 0.3}), simulated(patients, rng, {THICK: 1.5})
        dev = pd.concat([thin, thick.assign(patient_id="thick " + thick["patient_id"])])
        fit = fit_conformal(dev, 0.9)
        radius = next(part for part in fit.radii if part.stratum == "4–6 mm")
        assert radius.promised == pytest.approx(promised)
        found = volume_intervals(fit, simulated(40, rng, {THICK: 1.5}), CUTOFFS)
        covered.append(found["covered"].astype(float).mean())
    assert np.mean(covered) > promised - 0.015  # standard error over repetitions about 0.007
    assert f"4–6 mm: {promised:.0%} by {patients}" in fit.remarks[0]
    assert "on average" in fit.remarks[0]


def _scans(thickness: list[float], score: float = 1.0) -> pd.DataFrame:
    """A patient a scan: predicted 9 mm³, labelled (3 + score)²."""
    n = len(thickness)
    return pd.DataFrame(
        {
            "series_id": [f"s{i}" for i in range(n)],
            "patient_id": [f"p{i}" for i in range(n)],
            "slice_thickness_mm": thickness,
            "volume_mm3": 9.0,
            "label_volume_mm3": (3.0 + score) ** 2,
        }
    )


def test_small_strata_join_their_smaller_neighbour_and_say_so():
    # Patients a stratum: 20, 3, 12, 9, 0. The empty one joins 9; 3 joins 12 (not 20); 9 joins 15.
    dev = _scans([0.5] * 20 + [1.5] * 3 + [3.0] * 12 + [5.0] * 9)
    fit = fit_conformal(dev, 0.9, min_patients=10)
    thick = ("1–2 mm", "2–4 mm", "4–6 mm", "> 6 mm")
    assert [(part.stratum, part.merged) for part in fit.radii] == [
        ("≤ 1 mm", ("≤ 1 mm",)),
        *((name, thick) for name in thick),
    ]
    assert [part.n_patients for part in fit.radii] == [20, 3, 12, 9, 0]
    assert [part.promised for part in fit.radii] == pytest.approx([0.9, 0.75, 0.9, 0.9, 0])
    (remark,) = fit.remarks
    assert "1–2 mm: 75% by 3, 2–4 mm: 90% by 12, 4–6 mm: 90% by 9, > 6 mm: 0% by 0" in remark
    kept = fit_conformal(dev, 0.9, min_patients=9)
    assert [part.merged for part in kept.radii[1:]] == [("1–2 mm", "2–4 mm")] * 2 + [("4–6 mm", "> 6 mm")] * 2


def test_a_merged_stratum_takes_its_own_radius_where_that_is_larger():
    # 12 thin patients with scores 1 … 12, two thick ones with 30 and 20: together 14, the largest score but one.
    dev = pd.concat([_scans([0.5], k) for k in range(1, 13)] + [_scans([9.0], 30), _scans([9.0], 20)])
    fit = fit_conformal(
        dev.assign(patient_id=[f"p{i}" for i in range(14)]), 0.8, strata=(("thin", 0, 2), ("thick", 2, 99))
    )
    assert [(part.radius, part.promised) for part in fit.radii] == [(12, 0.8), (30, pytest.approx(2 / 3))]


def test_intervals_by_hand():
    dev = pd.concat([_scans([0.5] * 20, 1.0), _scans([5.0] * 20, 2.0).assign(patient_id=[f"q{i}" for i in range(20)])])
    fit = fit_conformal(dev, 0.9, strata=(("thin", 0, 2), ("thick", 2, float("inf"))))
    assert [part.radius for part in fit.radii] == [1, 2]
    test = _scans([0.5, 8.0, 0.5, 0.5])
    test["volume_mm3"] = [9.0, 9.0, 0.25, 9.0]
    test["label_volume_mm3"] = [16.0, 26.0, 0.0, np.nan]
    found = volume_intervals(fit, test, CUTOFFS)
    columns = ["series_id", "patient_id", "stratum", "volume_mm3", "low_mm3", "high_mm3", "groups"]
    assert list(found.columns) == [*columns, "label_volume_mm3", "covered"]
    assert found["stratum"].tolist() == ["thin", "thick", "thin", "thin"]
    assert found["low_mm3"].tolist() == [4, 1, 0, 4]
    assert found["high_mm3"].tolist() == [16, 25, 2.25, 16]
    assert found["groups"].tolist() == ["low|medium", "low|medium", "none|low", "low|medium"]
    assert found["covered"].tolist()[:3] == [True, False, True]
    assert pd.isna(found["covered"].iloc[3])
    everything, thin, thick = measured_coverage(fit, found)
    assert (everything.n, everything.coverage, everything.mean_width_mm3) == (
        3,
        pytest.approx(2 / 3),
        (12 + 24 + 2.25) / 3,
    )
    assert (thin.coverage, thick.coverage) == (1, 0)
    assert "covered" not in volume_intervals(fit, test.drop(columns="label_volume_mm3"), CUTOFFS)


def test_coverage_counts_patients_once():
    fit = fit_conformal(_scans([0.5] * 20), 0.9)
    test = _scans([0.5] * 4)
    test["patient_id"] = ["a", "a", "a", "b"]
    test["label_volume_mm3"] = [9.0, 9.0, 100.0, 100.0]
    everything = measured_coverage(fit, volume_intervals(fit, test, CUTOFFS))[0]
    assert everything.coverage == pytest.approx((2 / 3 + 0) / 2)
    assert (everything.scan_coverage, everything.n, everything.n_patients) == (0.5, 4, 2)


def test_too_few_development_patients_give_intervals_without_end():
    fit = fit_conformal(_scans([0.5] * 8), 0.9)
    assert "at least 9 are needed" in fit.remarks[-1]
    found = volume_intervals(fit, _scans([0.5]), CUTOFFS)
    assert (found["low_mm3"].iloc[0], found["high_mm3"].iloc[0]) == (0, np.inf)
    assert found["groups"].iloc[0] == "none|low|medium|high"
    row = measured_coverage(fit, found)[0]
    assert (row.n_unbounded, row.coverage) == (1, 1)
    assert np.isnan(row.mean_width_mm3)


@pytest.mark.parametrize(("k", "n"), [(0, 12), (270, 300), (12, 12), (1, 1)])
def test_exact_interval_is_scipys(k, n):
    expected = stats.binomtest(k, n).proportion_ci(method="exact")
    assert clopper_pearson(k, n) == pytest.approx((expected.low, expected.high))


def test_wrong_input():
    with pytest.raises(UserError, match="between 0 and 1"):
        fit_conformal(_scans([1.0]), 90)
    with pytest.raises(UserError, match="no evaluated series"):
        fit_conformal(_scans([1.0])[:0])
    with pytest.raises(ValueError, match="not negative"):
        fit_conformal(_scans([1.0]).assign(volume_mm3=-1.0))
