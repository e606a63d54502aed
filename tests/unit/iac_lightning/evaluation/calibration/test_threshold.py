from __future__ import annotations

import numpy as np
import pytest

from data_modules.errors import UserError
from data_modules.scan.geometry import Grid, Volume
from iac_lightning.evaluation.calibration.threshold import (
    CALIBRATED_GRID,
    RAW_GRID,
    choose_threshold,
    dice_at_thresholds,
)
from iac_lightning.evaluation.metrics.lesions import protocol_prior
from iac_lightning.evaluation.metrics.series import dice


def volume(data: np.ndarray) -> Volume:
    return Volume(data, Grid(data.shape, np.eye(4)))


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
def test_one_pass_equals_one_mask_per_threshold_on_the_thresholds_themselves(dtype):
    rng = np.random.default_rng(1)
    # probabilities that lie exactly on thresholds: `>=` must count them, in the probability's own type
    probability = rng.choice(np.concatenate([[0.0, 1.0, 0.013], RAW_GRID]), (15, 9, 8)).astype(dtype)
    label = rng.random(probability.shape) < 0.2
    expected = [dice(probability >= float(t), label) for t in RAW_GRID]
    assert dice_at_thresholds(probability, label) == pytest.approx(expected, abs=1e-15)


def test_dice_at_thresholds_by_hand():
    probability = np.array([0.1, 0.4, 0.6, 0.9]).reshape(4, 1, 1)
    label = np.array([0, 1, 0, 1], np.uint8).reshape(4, 1, 1)
    found = dice_at_thresholds(volume(probability), volume(label), [0.05, 0.4, 0.5, 0.95])
    assert found == pytest.approx([4 / 6, 4 / 5, 2 / 4, 0.0])


def test_empty_label_is_one_where_nothing_is_predicted():
    probability = np.full((2, 2, 2), 0.5)
    assert dice_at_thresholds(probability, np.zeros((2, 2, 2), bool), [0.4, 0.6]).tolist() == [0.0, 1.0]
    one = np.zeros((2, 2, 2), bool)
    one[0, 1, 0] = True
    assert dice_at_thresholds(probability, one, [0.4, 0.6]).tolist() == [2 / 9, 0.0]


def test_flat_voxels_count_like_those_of_a_volume():
    rng = np.random.default_rng(5)
    probability, label = rng.random((6, 5, 4)), rng.random((6, 5, 4)) < 0.3
    found = dice_at_thresholds(probability.ravel(), label.ravel())
    assert found == pytest.approx(dice_at_thresholds(probability, label), abs=1e-15)


def test_prior_is_applied_at_every_threshold():
    rng = np.random.default_rng(2)
    shape = (16, 14, 8)
    probability = volume(rng.random(shape).astype(np.float32))
    hu = volume(rng.integers(0, 250, shape).astype(np.int16))
    label = volume((rng.random(shape) < 0.3) & (hu.data >= 130))
    expected = [dice(protocol_prior(volume(probability.data >= float(t)), hu).data, label.data) for t in RAW_GRID]
    found = dice_at_thresholds(probability, label, hu=hu)
    assert found == pytest.approx(expected, abs=1e-15)
    assert not np.allclose(found, dice_at_thresholds(probability, label))
    stricter = dice(protocol_prior(volume(probability.data >= 0.5), hu, 200).data, label.data)
    assert dice_at_thresholds(probability, label, [0.5], hu, 200) == pytest.approx([stricter], abs=1e-15)


@pytest.mark.parametrize(
    ("probability", "thresholds", "match"),
    [
        (np.full((2, 2, 2), np.nan), [0.5], "finite"),
        (np.ones((2, 2, 2), np.uint8), [0.5], "floating"),
        (np.ones((2, 2, 2)), [0.5, 0.5], "rising"),
        (np.ones((2, 2, 2)), [[0.5, 0.6]], "rising"),
        (np.ones((2, 2, 2)), [], "rising"),
        (np.ones((2, 2, 1)), [0.5], "shape"),
    ],
)
def test_bad_input_is_refused(probability, thresholds, match):
    with pytest.raises(ValueError, match=match):
        dice_at_thresholds(probability, np.zeros((2, 2, 2), bool), thresholds)


def test_prior_needs_grids_and_positive_thresholds():
    probability, label = np.ones((2, 2, 2)), np.ones((2, 2, 2), bool)
    hu = volume(np.ones((2, 2, 2)))
    with pytest.raises(ValueError, match="Volume"):
        dice_at_thresholds(probability, label, hu=hu)
    with pytest.raises(ValueError, match="positive"):
        dice_at_thresholds(volume(probability), label, [0.0, 0.5], hu=hu)
    with pytest.raises(UserError, match="grid"):
        dice_at_thresholds(volume(probability), label, hu=volume(np.ones((2, 2, 3))))


def test_choose_threshold_averages_only_scans_with_lesions():
    matrix = np.array([[0.2, 0.6, 0.4], [0.6, 0.4, 0.2], [0.0, 0.0, 1.0]])
    threshold, mean = choose_threshold(matrix, [0.25, 0.5, 0.75], [True, True, False])
    assert (threshold, mean) == (0.5, pytest.approx(0.5))
    assert type(threshold) is float


@pytest.mark.parametrize(
    ("means", "expected"),
    [
        ([0.1, 0.7, 0.7, 0.7, 0.2], 3),  # middle of three
        ([0.7, 0.1, 0.7, 0.7, 0.7], 4),  # the longest plateau
        ([0.7, 0.7, 0.7 - 1e-9, 0.7, 0.1], 1),  # 1e-9 is not a tie: lower middle of two
        ([0.7 + 1e-14, 0.7, 0.7, 0.1, 0.1], 2),  # rounding is
        ([0.1, 0.1, 0.1, 0.1, 0.9], 5),  # an end
    ],
)
def test_choose_threshold_takes_the_middle_of_the_plateau(means, expected):
    threshold, mean = choose_threshold(np.array([means]), [1, 2, 3, 4, 5], [True])
    assert threshold == expected
    assert mean == pytest.approx(max(means))


def test_choose_threshold_needs_a_lesion():
    with pytest.raises(UserError, match="2 development scans"):
        choose_threshold(np.ones((2, 3)), [0.1, 0.2, 0.3], [False, False])
    with pytest.raises(ValueError, match="shape"):
        choose_threshold(np.ones((2, 3)), [0.1, 0.2], [True, True])


def test_thresholds_rise_and_reach_the_probabilities_of_a_weak_model():
    assert (np.diff(CALIBRATED_GRID) > 0).all()
    assert (CALIBRATED_GRID[0], CALIBRATED_GRID[-1]) == (1e-5, 0.998)
    assert CALIBRATED_GRID[CALIBRATED_GRID >= 0.002] == pytest.approx(np.arange(1, 500) / 500)


def test_voxels_outside_are_lesion_that_no_threshold_reaches():
    """As if the array went on with probability 0 and label 1."""
    probability = np.array([0.1, 0.4, 0.6, 0.9], np.float32).reshape(4, 1, 1)
    label = np.array([0, 1, 0, 1], bool).reshape(4, 1, 1)
    scores = dice_at_thresholds(probability, label, [0.05, 0.4, 0.5, 0.95], n_outside=3)
    assert scores == pytest.approx([2 * 2 / (4 + 5), 2 * 2 / (3 + 5), 2 * 1 / (2 + 5), 0.0])
    longer = np.append(probability, np.zeros(3, np.float32)), np.append(label, np.ones(3, bool))
    assert scores == pytest.approx(dice_at_thresholds(*longer, [0.05, 0.4, 0.5, 0.95]), abs=1e-15)
    with pytest.raises(ValueError, match="positive"):
        dice_at_thresholds(probability, label, [0.0, 0.5], n_outside=1)
