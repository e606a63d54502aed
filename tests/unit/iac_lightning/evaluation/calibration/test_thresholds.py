from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from data_modules.scan.geometry import Grid, Volume
from iac_lightning.evaluation.calibration.scaling import Scaling
from iac_lightning.evaluation.calibration.threshold import CALIBRATED_GRID
from iac_lightning.evaluation.calibration.thresholds import (
    Thresholds,
    ThresholdScores,
    choose_thresholds,
    threshold_scores,
    thresholds_by_thickness,
)
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


def test_strata_that_do_not_differ_share_one():
    found = stratified(0.0)
    assert not found["used"]
    assert abs(found["gain"]["mean"]) < 0.01
    assert Thresholds(general=0.5, by_thickness=found).at(0.8) == 0.5


def test_few_patients_support_no_strata():
    found = stratified(0.4, patients=9)
    assert not found["used"]
    assert found["gain"] is None
    assert "have 10 patients with lesions (≤ 1 mm: 9" in found["why"]


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
    assert threshold_scores(raw, nowhere, hu, 1.0, scaling, n_outside=3).has_lesion
    assert not threshold_scores(raw, nowhere, hu, 1.0, scaling).has_lesion


def scored(best: float, prior_best: float, thickness_mm: float, has_lesion: bool = True) -> ThresholdScores:
    dice, prior_dice = curves(np.array([best, prior_best]))
    return ThresholdScores(
        dice=dice, prior_dice=prior_dice, has_lesion=has_lesion, n_unseen=1, slice_thickness_mm=thickness_mm
    )


def test_both_masks_get_the_threshold_of_their_own_best_mean_dice():
    scores = [scored(0.4, 0.2, 1.0), scored(0.4, 0.2, 3.0), scored(0.9, 0.9, 1.0, has_lesion=False)]
    chosen = choose_thresholds(scores, ["a", "b", "c"], 0, strata_from_edges([2.0]))
    assert (chosen["threshold"], chosen["prior_threshold"]) == (0.4, 0.2)
    assert (chosen["dice"], chosen["prior_dice"]) == (pytest.approx(0.9), pytest.approx(0.9))
    assert (chosen["n_with_lesion"], chosen["n_lesion_voxels_unseen"]) == (2, 3)
    for name in ("thickness", "prior_thickness"):
        assert [(s["stratum"], s["n_patients"]) for s in chosen[name]["strata"]] == [("≤ 2 mm", 1), ("> 2 mm", 1)]
    assert list(chosen)[:3] == ["threshold", "dice", "thickness"]  # as calibration.json has them


def test_the_strata_of_each_mask_are_its_own():
    """Thick slices want another threshold for the plain mask, but not under the protocol."""
    scores = [scored(0.3, 0.5, 1.0) if k % 2 else scored(0.7, 0.5, 5.0) for k in range(40)]
    chosen = choose_thresholds(scores, [f"p{k // 2}" for k in range(40)], 0, strata_from_edges([2.0]))
    assert chosen["thickness"]["used"]
    assert [s["threshold"] for s in chosen["thickness"]["strata"]] == [0.3, 0.7]
    assert not chosen["prior_thickness"]["used"]
