from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from data_modules.errors import UserError
from data_modules.geometry import Grid, Volume
from iac_lightning.evaluation.lesions import (
    bounding_box,
    components,
    lesion_counts,
    protocol_prior,
    protocol_prior_probability,
)


def volume(data: np.ndarray, spacing: tuple[float, float, float] = (0.5, 0.5, 5.0)) -> Volume:
    return Volume(data, Grid(data.shape, np.diag([*spacing, 1.0])))


def test_voxels_that_touch_at_a_corner_are_one_lesion():
    mask = np.zeros((6, 6, 6), bool)
    mask[1, 1, 1] = mask[2, 2, 2] = True
    mask[5, 5, 5] = True
    ids, n = components(mask)
    assert n == 2
    assert ids[1, 1, 1] == ids[2, 2, 2] != ids[5, 5, 5]


def test_bounding_box_by_hand():
    mask = np.zeros((6, 5, 4), bool)
    assert bounding_box(mask) is None
    mask[2, 1, 3] = mask[4, 0, 3] = True
    assert bounding_box(mask) == (slice(2, 5), slice(0, 2), slice(3, 4))


def test_lesion_counts_by_hand():
    label = np.zeros((20, 4, 4), bool)
    prediction = np.zeros_like(label)
    label[0:2, 0, 0] = True  # hit by one voxel
    label[5:8, 0, 0] = True  # hit by two predicted components
    label[12, 0, 0] = True  # missed
    prediction[1:3, 0, 0] = True
    prediction[5, 0, 0] = prediction[7, 0, 0] = True
    prediction[16:18, 3, 3] = True  # false alarm
    prediction[19, 0, 0] = True  # false alarm
    counts = lesion_counts(prediction, label)
    assert (counts.n_lesions, counts.n_lesions_hit, counts.n_predicted, counts.n_predicted_hit) == (3, 2, 5, 3)
    assert (counts.n_small_lesions, counts.n_small_lesions_hit) == (0, 0)
    small = lesion_counts(prediction, label, small_voxels=2)  # of 2 voxels, hit, and of 1, missed; not that of 3
    assert (small.n_small_lesions, small.n_small_lesions_hit) == (2, 1)
    assert counts.sensitivity == pytest.approx(2 / 3)
    assert counts.ppv == pytest.approx(3 / 5)
    assert counts.f1 == pytest.approx(2 * (2 / 3) * (3 / 5) / (2 / 3 + 3 / 5))


@pytest.mark.parametrize(
    ("predicted", "labelled", "sensitivity", "ppv", "f1"),
    [
        (False, False, np.nan, np.nan, np.nan),
        (False, True, 0.0, np.nan, 0.0),
        (True, False, np.nan, 0.0, 0.0),
    ],
)
def test_lesion_figures_of_empty_masks(predicted, labelled, sensitivity, ppv, f1):
    label, prediction = np.zeros((2, 3, 3, 3), bool)
    prediction[0, 0, 0], label[1, 1, 1] = predicted, labelled
    counts = lesion_counts(prediction, label)
    np.testing.assert_equal([counts.sensitivity, counts.ppv, counts.f1], [sensitivity, ppv, f1])


def test_protocol_prior_by_hand():
    hu = np.full((8, 3, 3), 50, np.int16)
    hu[0:2, 0, 0] = 130  # a pair at the very limit: kept
    hu[3, 1, 1] = 129  # too dark, and the only neighbour of the next voxel
    hu[4, 1, 1] = 900
    hu[7, 2, 2] = 900  # bright, not in the mask
    mask = np.zeros(hu.shape, bool)
    mask[[0, 1, 3, 4], [0, 0, 1, 1], [0, 0, 1, 1]] = True
    kept = protocol_prior(volume(mask), volume(hu))
    assert kept.data.dtype == bool
    assert np.argwhere(kept.data).tolist() == [[0, 0, 0], [1, 0, 0]]


def test_protocol_prior_drops_exactly_the_components_of_one_voxel():
    rng = np.random.default_rng(3)
    mask = rng.random((30, 30, 12)) < 0.03
    hu = rng.integers(0, 400, mask.shape).astype(np.int16)
    ids, _ = ndimage.label(mask & (hu >= 130), np.ones((3, 3, 3)))
    sizes = np.bincount(ids.ravel())
    expected = (sizes[ids] >= 2) & (ids > 0)
    assert 0 < expected.sum() < mask.sum()
    kept = protocol_prior(volume(mask), volume(hu))
    assert np.array_equal(kept.data, expected)
    assert np.array_equal(protocol_prior(kept, volume(hu)).data, kept.data)


def test_prior_probability_gives_the_prior_mask_at_every_threshold():
    rng = np.random.default_rng(4)
    probability = volume(np.round(rng.random((14, 13, 9)), 2).astype(np.float32))
    hu = volume(rng.integers(0, 250, (14, 13, 9)).astype(np.int16))
    restricted = protocol_prior_probability(probability, hu)
    assert restricted.data.dtype == np.float32
    removed = 0
    for threshold in (0.02, 0.3, 0.5, 0.9, 0.97):
        raw = probability.with_data(probability.data >= threshold)
        expected = protocol_prior(raw, hu).data
        assert np.array_equal(restricted.data >= threshold, expected)
        removed += int((raw.data & (hu.data >= 130)).sum() - expected.sum())
    assert removed > 0  # single bright voxels occurred


@pytest.mark.parametrize("density", [0.002, 0.05, 0.6])
def test_looking_only_where_voxels_are_bright_changes_nothing(density: float) -> None:
    others = np.ones((3, 3, 3), bool)
    others[1, 1, 1] = False
    rng = np.random.default_rng([7])
    for _ in range(6):
        shape = tuple(int(n) for n in rng.integers(3, 24, 3))
        hu = volume(np.where(rng.random(shape) < density, 300, 0).astype(np.int16))
        probability = volume(np.round(rng.random(shape), 1).astype(np.float32))  # many ties
        bright = np.where(hu.data >= 130, probability.data, 0)
        largest = ndimage.maximum_filter(bright, footprint=others, mode="constant", cval=0)
        np.testing.assert_array_equal(
            protocol_prior_probability(probability, hu).data, np.minimum(bright, largest), strict=True
        )
        mask = volume(probability.data >= 0.3)
        kept = mask.data & (hu.data >= 130)
        before = mask.data.copy()
        np.testing.assert_array_equal(
            protocol_prior(mask, hu).data, kept & ndimage.binary_dilation(kept, structure=others), strict=True
        )
        np.testing.assert_array_equal(mask.data, before)


def test_other_grid_and_probability_as_mask_are_refused():
    mask = volume(np.zeros((4, 4, 4), bool))
    other = volume(np.zeros((4, 4, 4), np.int16), (0.5, 0.5, 4.0))
    with pytest.raises(UserError, match=r"of mask and scan differ \(mask: .*; scan: .*native"):
        protocol_prior(mask, other)
    with pytest.raises(UserError, match=r"of probability and scan differ \(probability: .*; scan: .*native"):
        protocol_prior_probability(volume(np.zeros((4, 4, 4), np.float32)), other)
    with pytest.raises(ValueError, match="threshold"):
        components(np.zeros((2, 2, 2), np.float32))
