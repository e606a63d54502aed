from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from iac_lightning.evaluation.calibration.threshold import CALIBRATED_GRID, choose_threshold
from iac_lightning.evaluation.calibration.thresholds import (
    Thresholds,
    thresholds_by_thickness,
)
from iac_lightning.evaluation.statistics.intervals import mean_ci


def curves(best: np.ndarray) -> np.ndarray:
    """Dice over `CALIBRATED_GRID` with the top at each series' best threshold."""
    return 0.9 - np.abs(CALIBRATED_GRID[None] - best[:, None])


def stratified(difference: float, patients: int = 30) -> dict[str, Any]:
    rng = np.random.default_rng([5])
    thickness = np.tile([0.8, 5.0], patients)
    best = np.where(thickness < 1, 0.3, 0.3 + difference) + rng.normal(0, 0.05, 2 * patients)
    who = [f"p{i // 2}" for i in range(2 * patients)]
    return thresholds_by_thickness(curves(best), *[np.ones(2 * patients)] * 2, who, thickness, seed=0)


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
        thresholds_by_thickness(dice, lesion, lesion, who, thickness, seed),
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
    interval = mean_ci(np.round(gains, 12), who, "difference")
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
        return thresholds_by_thickness(curves(best), every, every, who, np.tile([0.8, 5.0], patients), seed)

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


def test_what_counts_more_decides_more():
    """Two scans of one patient count as one of another where every patient counts alike."""
    best = np.array([0.2, 0.2, 0.8, 0.8])
    weights = np.array([0.5, 0.5, 1.0, 1.0])
    assert choose_threshold(curves(best), CALIBRATED_GRID, weights)[0] == pytest.approx(0.8)
    free = np.concatenate([np.tile([0.8, 5.0], 9), [0.8, 5.0]])  # the tenth patient has no lesion
    who = [f"p{i // 2}" for i in range(20)]
    lesion = np.arange(20) < 18
    found = thresholds_by_thickness(curves(np.full(20, 0.5)), np.ones(20), lesion, who, free, 0)
    assert [s["n_patients"] for s in found["strata"]] == [9, 0, 0, 9, 0]
