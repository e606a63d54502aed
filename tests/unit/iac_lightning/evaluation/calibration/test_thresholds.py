from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from data_modules.scan.geometry import Grid, Volume
from iac_lightning.evaluation.calibration.scaling import Scaling
from iac_lightning.evaluation.calibration.threshold import CALIBRATED_GRID, choose_threshold
from iac_lightning.evaluation.calibration.thresholds import (
    Thresholds,
    ThresholdScores,
    choose_thresholds,
    threshold_scores,
    thresholds_by_thickness,
)
from iac_lightning.evaluation.statistics.bootstrap import mean_ci
from iac_lightning.evaluation.statistics.strata import strata_from_edges


def curves(best: np.ndarray) -> np.ndarray:
    """Dice over `CALIBRATED_GRID` with the top at each series' best threshold."""
    return 0.9 - np.abs(CALIBRATED_GRID[None] - best[:, None])


def stratified(difference: float, patients: int = 30) -> dict[str, Any]:
    rng = np.random.default_rng([5])
    thickness = np.tile([0.8, 5.0], patients)
    best = np.where(thickness < 1, 0.3, 0.3 + difference) + rng.normal(0, 0.05, 2 * patients)
    who = [f"p{i // 2}" for i in range(2 * patients)]
    return thresholds_by_thickness(curves(best), np.ones(2 * patients), who, thickness, seed=0)


def test_strata_that_differ_get_their_own_thresholds():
    found = stratified(0.4)
    assert found["used"]
    assert found["gain"]["ci95"][0] > 0.1
    assert "5-fold cross-validation" in found["why"]
    thresholds = Thresholds(general=0.5, by_thickness=found)
    assert thresholds.at(0.8) == pytest.approx(0.3, abs=0.05)
    assert thresholds.at(6.0) == pytest.approx(0.7, abs=0.05)
    assert thresholds.at(6.01) == 0.5  # nobody taught this stratum
    assert thresholds.at(1.5) == 0.5


def tried(spread: float, best_mm: dict[float, float], patients: dict[float, int], seed: int = 3) -> tuple:
    """Scans of each thickness (two a patient), each with a best threshold around its thickness' own."""
    rng = np.random.default_rng([6])
    thickness = np.repeat(list(patients), [2 * n for n in patients.values()])
    who = np.concatenate([np.repeat([f"{mm}-{i}" for i in range(n)], 2) for mm, n in patients.items()])
    best = np.clip([best_mm[mm] for mm in thickness] + rng.normal(0, spread, len(thickness)), 0.01, 0.99)
    order = rng.permutation(len(who))
    dice, who, thickness = curves(best)[order], who[order], thickness[order]
    lesion = rng.random(len(who)) < 0.9
    return (
        thresholds_by_thickness(dice, lesion, who, thickness, seed),
        dice[lesion],
        who[lesion],
        thickness[lesion],
    )


def test_the_gain_is_that_of_scans_that_taught_nothing():
    """Against a plain loop over folds: each scan's thresholds come from patients of the other folds alone."""
    # An edge belongs to the thinner stratum; eleven and twelve patients are enough, seven are not.
    best, patients = {1.0: 0.3, 2.0: 0.7, 5.0: 0.1}, {1.0: 11, 2.0: 12, 5.0: 7}
    found, dice, who, thickness = tried(0.1, best, patients)
    names = sorted(set(who))
    fold = dict(zip(names, np.random.default_rng([3, 2]).permutation(len(names)) % 5, strict=True))
    folds = np.array([fold[name] for name in who])

    def best_of(rows: np.ndarray) -> int:
        return list(CALIBRATED_GRID).index(
            choose_threshold(dice[rows], CALIBRATED_GRID, np.ones(rows.sum(), dtype=bool))[0]
        )

    gains = []
    for scan in range(len(who)):
        others = folds != folds[scan]
        alike = others & (thickness == thickness[scan])
        own = best_of(others if thickness[scan] == 5.0 else alike)
        gains.append(dice[scan, own] - dice[scan, best_of(others)])
    assert found["gain"]["mean"] == pytest.approx(np.mean(gains), abs=1e-9)
    interval = mean_ci(np.round(gains, 12), who, seed=3, resamples=2_000)
    assert found["gain"]["ci95"] == pytest.approx([interval.low, interval.high], abs=1e-9)
    assert found["gain"]["n_patients"] == len(names)
    assert found["used"]
    assert found["why"].startswith("thresholds by stratum gain +0.")
    limits = [(0, 1), (1, 2), (2, 4), (4, 6), (6, None)]
    assert [(s["above_mm"], s["up_to_mm"]) for s in found["strata"]] == limits
    counts = [len(set(who[thickness == mm])) for mm in patients]
    assert [s["n_patients"] for s in found["strata"]] == [counts[0], counts[1], 0, counts[2], 0]
    for k, mm in ((0, 1.0), (1, 2.0)):
        assert found["strata"][k]["threshold"] == CALIBRATED_GRID[best_of(thickness == mm)]
    assert [s["threshold"] for s in found["strata"][2:]] == [None, None, None]


def test_noise_gains_nothing():
    """Thresholds fitted to the scans that they are judged on would always gain."""
    found, *_ = tried(0.4, {0.8: 0.5, 5.0: 0.5}, {0.8: 12, 5.0: 12})
    assert found["gain"]["mean"] < 0
    assert not found["used"]
    assert found["why"].startswith("one threshold for all: strata change -0.")
    alike, *_ = tried(0.0, {0.8: 0.5, 5.0: 0.5}, {0.8: 12, 5.0: 12})
    assert alike["gain"]["ci95"] == [0, 0]
    assert not alike["used"]


def test_ten_patients_are_enough_and_the_seed_decides_the_folds():
    def scans(patients: int, seed: int) -> dict:
        best = np.tile([0.3, 0.6], patients) + np.random.default_rng([7]).normal(0, 0.1, 2 * patients)
        who = [f"p{i // 2}" for i in range(2 * patients)]
        every = np.ones(2 * patients)
        return thresholds_by_thickness(curves(best), every, who, np.tile([0.8, 5.0], patients), seed)

    assert scans(10, 0)["gain"] is not None
    assert scans(9, 0)["gain"] is None
    assert scans(10, 0) == scans(10, 0)
    assert scans(10, 0)["gain"]["mean"] != scans(10, 1)["gain"]["mean"]


def test_strata_that_do_not_differ_share_one():
    found = stratified(0.0)
    assert not found["used"]
    assert abs(found["gain"]["mean"]) < 0.01
    assert Thresholds(general=0.5, by_thickness=found).at(0.8) == 0.5


def test_few_patients_support_no_strata():
    found = stratified(0.4, patients=9)
    assert not found["used"]
    assert found["gain"] is None
    assert "have 10 patients with lesions (≤ 1 mm: 9, 1–2 mm: 0, 2–4 mm: 0, 4–6 mm: 9, > 6 mm: 0)" in found["why"]


# --- one scan, and all ------------------------------------------------------------------------------------------------


def row(values: list[Any], dtype: type) -> Volume:
    data = np.array(values, dtype).reshape(-1, 1, 1)
    return Volume(data, Grid(data.shape, np.eye(4)))


def test_a_scan_is_scored_at_each_threshold_of_calibrated_probability():
    """Bias of logit(0.8): raw 0.5 becomes 0.8, raw 0.2 becomes 0.5. Four voxels are labelled, one of them outside."""
    raw = row([0.5, 0.5, 0.2, 0.0, 0.5], np.float32)
    label = np.array([1, 1, 0, 1, 0], bool).reshape(-1, 1, 1)
    hu = row([300, 300, 300, 90, 90], np.int16)
    scaling = Scaling(temperature=1.0, bias=float(np.log(4)))
    scores = threshold_scores(raw, label, hu, 2.5, scaling, n_outside=1, domain_hu=100.0)
    at = {t: int(np.searchsorted(CALIBRATED_GRID, t)) for t in (0.4, 0.6, 0.9)}
    assert [scores.dice[k] for k in at.values()] == pytest.approx([2 * 2 / (4 + 4), 2 * 2 / (3 + 4), 0.0])
    assert [scores.prior_dice[k] for k in at.values()] == pytest.approx([2 * 2 / (3 + 4), 2 * 2 / (2 + 4), 0.0])
    assert scores.dice.shape == scores.prior_dice.shape == CALIBRATED_GRID.shape
    assert (scores.has_lesion, scores.n_unseen, scores.slice_thickness_mm) == (True, 2, 2.5)


def test_what_counts_as_unseen():
    raw = row([0.5, 0.0, 0.5], np.float32)
    hu = row([90, 200, 100], np.int16)
    everywhere, nowhere = np.ones((3, 1, 1), bool), np.zeros((3, 1, 1), bool)
    scaling = Scaling(temperature=1.0, bias=0.0)
    assert threshold_scores(raw, everywhere, hu, 1.0, scaling).n_unseen == 1  # probability 0
    assert threshold_scores(raw, everywhere, hu, 1.0, scaling, domain_hu=100.0).n_unseen == 2  # and the dark one
    assert threshold_scores(raw, nowhere, hu, 1.0, scaling, n_outside=3).n_unseen == 3
    assert threshold_scores(raw, everywhere, hu, 1.0, scaling).has_lesion
    assert threshold_scores(raw, nowhere, hu, 1.0, scaling, n_outside=1).has_lesion
    assert not threshold_scores(raw, nowhere, hu, 1.0, scaling).has_lesion


def scored(best: float, prior_best: float, thickness_mm: float, has_lesion: bool = True) -> ThresholdScores:
    dice, prior_dice = curves(np.array([best, prior_best]))
    return ThresholdScores(
        dice=dice, prior_dice=prior_dice, has_lesion=has_lesion, n_unseen=1, slice_thickness_mm=thickness_mm
    )


def test_both_masks_get_the_threshold_of_their_own_best_mean_dice():
    scores = [scored(0.4, 0.2, 1.0), scored(0.4, 0.2, 3.0), scored(0.9, 0.9, 1.0, has_lesion=False)]
    chosen = choose_thresholds(scores, ["a", "b", "c"], 0, strata_from_edges([2.0]))
    assert (chosen["plain_threshold"], chosen["operating_point"]["threshold"]) == (0.4, 0.2)
    assert chosen["plain_score"] == pytest.approx(0.9)
    assert (chosen["n_with_lesion"], chosen["n_lesion_voxels_unseen"]) == (2, 3)
    for found in (chosen["plain_thickness"], chosen["operating_point"]["thickness"]):
        assert [(s["stratum"], s["n_patients"]) for s in found["strata"]] == [("≤ 2 mm", 1), ("> 2 mm", 1)]


def test_the_strata_of_each_mask_are_its_own():
    """Thick slices want another threshold for the plain mask, but not under the protocol."""
    scores = [scored(0.3, 0.5, 1.0) if k % 2 else scored(0.7, 0.5, 5.0) for k in range(40)]
    chosen = choose_thresholds(scores, [f"p{k // 2}" for k in range(40)], 0, strata_from_edges([2.0]))
    assert chosen["plain_thickness"]["used"]
    assert [s["threshold"] for s in chosen["plain_thickness"]["strata"]] == [0.3, 0.7]
    assert not chosen["operating_point"]["thickness"]["used"]
