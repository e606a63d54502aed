"""Counts for every operating point at once are those of the masks, made one by one."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from data_modules.scan.geometry import Grid, Volume
from iac_lightning.evaluation.calibration import counts as module
from iac_lightning.evaluation.calibration.counts import (
    COMPONENTS,
    HIT_COMPONENTS,
    HIT_LESIONS,
    HIT_VOXELS,
    LEAST_LESIONS_MM3,
    VOXELS,
    mask_counts,
    scan_counts,
)
from iac_lightning.evaluation.calibration.operating_point import RULES, OperatingPoint
from iac_lightning.evaluation.calibration.scaling import Scaling, apply
from iac_lightning.evaluation.calibration.threshold import CALIBRATED_GRID
from iac_lightning.evaluation.calibration.thresholds import Thresholds
from iac_lightning.evaluation.metrics.lesions import components, lesion_counts, small_voxels

SHAPE = (14, 11, 7)
GRID = Grid(SHAPE, np.diag([0.5, 0.5, 2.0, 1.0]))  # voxels of 0.5 mm³
SCALING = Scaling(temperature=1.5, bias=-0.5)
NO_LESION = np.zeros(0, bool)


def head(seed: int) -> tuple[Volume, Volume, NDArray[np.bool_]]:
    """Raw probabilities in clumps, HU, and a label that follows them by half; edges of the array included."""
    rng = np.random.default_rng([seed])
    raw = np.where(rng.random(SHAPE) < 0.4, rng.choice([0.0, 0.2, 0.5, 0.7, 0.9, 0.97], SHAPE), 0).astype(np.float32)
    raw[0, :, 0] = raw[-1, 0, :] = 0.6
    hu = rng.integers(60, 400, SHAPE).astype(np.int16)
    label = (raw > 0.8) & (rng.random(SHAPE) < 0.5) | (rng.random(SHAPE) < 0.02)
    return Volume(raw, GRID), Volume(hu, GRID), label


def sizes(ids: NDArray[np.signedinteger]) -> NDArray[np.integer]:
    return np.bincount(ids.ravel())[1:]


def one_mask(mask: NDArray[np.bool_], label: NDArray[np.bool_]) -> list[int]:
    found = lesion_counts(mask, label, small_voxels(GRID.voxel_volume_mm3))
    hits = (found.n_predicted, found.n_predicted_hit, found.n_lesions_hit, found.n_small_lesions_hit)
    return [int(mask.sum()), int((mask & label).sum()), *hits]


@pytest.mark.parametrize("seed", range(4))
def test_all_at_once_as_one_by_one(seed: int) -> None:
    raw, hu, label = head(seed)
    ids, n = components(label)
    found = scan_counts(raw, ids, sizes(ids), hu, 2.0, SCALING)
    probability = raw.with_data(apply(raw.data, SCALING.temperature, SCALING.bias))
    compared = 0
    for r, rule in enumerate(RULES):
        for v, least_mm3 in enumerate(LEAST_LESIONS_MM3):
            for t in range(0, len(CALIBRATED_GRID), 37):
                thresholds = Thresholds(general=float(CALIBRATED_GRID[t]), by_thickness={"used": False})
                point = OperatingPoint(aim="dice", rule=rule, least_lesion_mm3=least_mm3, thresholds=thresholds)
                expected = one_mask(point.mask(probability, hu, 2.0).data, label)
                assert found.counts[r, v, t].tolist() == expected, (rule, least_mm3, t)
                compared += expected[COMPONENTS] > 0
    assert compared > 50
    assert found.uncalibrated.tolist() == one_mask(raw.data >= 0.5, label)
    assert (found.n_label_voxels, found.n_lesions, found.slice_thickness_mm) == (label.sum(), n, 2.0)


def test_by_hand() -> None:
    """Two lesions in a row; the mask joins them only at 0.2, and a false voxel lies apart."""
    p = np.array([0.9, 0.9, 0.2, 0.5, 0.0, 0.0, 0.5]).reshape(-1, 1, 1)
    lesions = np.array([1, 1, 0, 2, 0, 0, 0]).reshape(-1, 1, 1)
    found = mask_counts(p, lesions, np.array([False, True]), [0.2, 0.5, 0.9, 0.95], fewest=[1, 2])
    assert found[0].tolist() == [[5, 3, 2, 1, 2, 1], [4, 3, 3, 2, 2, 1], [2, 2, 1, 1, 1, 0], [0] * 6]
    assert found[1].tolist() == [[4, 3, 1, 1, 2, 1], [2, 2, 1, 1, 1, 0], [2, 2, 1, 1, 1, 0], [0] * 6]


def test_nothing_predicted_and_nothing_labelled() -> None:
    nothing = np.zeros((3, 3, 3))
    assert not mask_counts(nothing, nothing.astype(int), NO_LESION, [0.1, 0.5], fewest=[1]).any()
    everything = mask_counts(nothing + 1, nothing.astype(int), NO_LESION, [0.1, 0.5], fewest=[1, 28])
    assert everything[0].tolist() == [[27, 0, 1, 0, 0, 0]] * 2
    assert not everything[1].any()


def test_masks_of_too_many_voxels_are_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_VOXELS", 3)
    p = np.array([0.1, 0.2, 0.3, 0.4, 0.5]).reshape(-1, 1, 1)
    found = mask_counts(p, np.zeros(p.shape, int), NO_LESION, [0.1, 0.2, 0.3, 0.4], fewest=[1])
    assert (found[0, :2] == -1).all()
    assert found[0, 2:, VOXELS].tolist() == [3, 2]


def test_what_counts_as_unseen_and_what_lies_outside() -> None:
    raw, hu, _ = head(0)
    label = np.ones(SHAPE, bool)
    ids, _ = components(label)
    unseen = int((raw.data == 0).sum())
    assert scan_counts(raw, ids, sizes(ids), hu, 1.0, SCALING).n_unseen == unseen
    found = scan_counts(raw, ids, np.append(sizes(ids), 3), hu, 1.0, SCALING, n_outside=3, domain_hu=100.0)
    assert found.n_unseen == int(((raw.data == 0) | (hu.data < 100)).sum()) + 3
    assert (found.n_label_voxels, found.n_lesions, found.n_small) == (label.sum() + 3, 2, 1)  # one fills the box
    assert found.counts[..., [HIT_LESIONS, HIT_COMPONENTS]].max() >= 1
    assert (found.counts[..., HIT_VOXELS] == found.counts[..., VOXELS]).all()  # everything is labelled
