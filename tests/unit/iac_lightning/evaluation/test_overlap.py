from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import f1_score, precision_score, recall_score

from data_modules.ct import Scan
from data_modules.errors import UserError
from data_modules.geometry import Grid, Volume
from iac_lightning.evaluation.overlap import dice, series_metrics


def volume(data: np.ndarray, spacing: tuple[float, float, float] = (0.5, 0.5, 5.0)) -> Volume:
    return Volume(data, Grid(data.shape, np.diag([*spacing, 1.0])))


def test_series_metrics_by_hand():
    label, prediction = np.zeros((2, 10, 4, 4), np.uint8)
    label[0:3, 0, 0] = 1
    label[8, 3, 3] = 1
    prediction[1:6, 0, 0] = 1
    metrics = series_metrics(volume(prediction), volume(label))
    assert metrics.dice == pytest.approx(2 * 2 / (5 + 4))
    assert metrics.sensitivity == pytest.approx(2 / 4)
    assert metrics.ppv == pytest.approx(2 / 5)
    assert (metrics.n_lesions, metrics.n_lesions_hit, metrics.n_predicted, metrics.n_predicted_hit) == (2, 1, 1, 1)
    assert (metrics.lesion_sensitivity, metrics.lesion_ppv) == (0.5, 1.0)
    assert metrics.lesion_f1 == pytest.approx(2 * 0.5 * 1 / 1.5)
    assert metrics.volume_mm3 == pytest.approx(5 * 1.25)
    assert metrics.label_volume_mm3 == pytest.approx(4 * 1.25)
    assert metrics.has_lesion
    assert not metrics.both_empty


def test_a_lesion_of_ten_cubic_millimetres_is_small_and_one_voxel_more_is_not():
    label, prediction = np.zeros((2, 40, 8, 4), bool)  # 1.25 mm³ a voxel: eight voxels are 10 mm³
    label[0:8, 0, 0] = label[10:18, 0, 0] = label[20, 0, 0] = True
    label[0:9, 6, 0] = label[10:19, 6, 0] = True
    prediction[0, 0, 0] = prediction[20, 0, 0] = prediction[0, 6, 0] = True
    metrics = series_metrics(volume(prediction), volume(label))
    assert (metrics.n_lesions, metrics.n_small_lesions, metrics.n_small_lesions_hit) == (5, 3, 2)


def test_one_voxel_is_a_lesion():
    mask = np.zeros((3, 3, 3), bool)
    mask[1, 1, 1] = True
    metrics = series_metrics(volume(mask), volume(mask))
    assert (metrics.has_lesion, metrics.both_empty, metrics.dice, metrics.n_lesions) == (True, False, 1.0, 1)


def test_the_score_is_taken_across_the_scans_own_slices():
    hu = np.full((4, 4, 4), 450, np.int16)
    hu[1] = 250
    mask = np.zeros((4, 4, 4), bool)
    mask[0:2, 1, 1] = True
    grid = volume(hu, (6.0, 1.0, 1.0)).grid
    scan = Scan(hu=hu, grid=grid, slice_thickness_mm=6.0, slice_axis=0)
    metrics = series_metrics(Volume(mask, grid), Volume(mask, grid), scan)
    assert metrics.agatston == metrics.label_agatston == pytest.approx((1 * 4 + 1 * 2) * 6 / 3)  # two slices of 1 mm²


def test_volume_on_a_tilted_grid_is_the_determinant():
    affine = np.diag([0.5, 0.5, 5.0, 1.0])
    affine[1, 2] = 1.7  # gantry tilt: slices shift along y; spacing grows, the voxel's volume does not
    ones = Volume(np.ones((2, 2, 2), bool), Grid((2, 2, 2), affine))
    assert series_metrics(ones, ones).volume_mm3 == pytest.approx(8 * 1.25)


def test_overlap_agrees_with_scikit_learn():
    rng = np.random.default_rng(0)
    prediction, label = rng.random((2, 12, 11, 10)) < 0.2
    metrics = series_metrics(volume(prediction), volume(label))
    assert metrics.dice == pytest.approx(f1_score(label.ravel(), prediction.ravel()))
    assert metrics.sensitivity == pytest.approx(recall_score(label.ravel(), prediction.ravel()))
    assert metrics.ppv == pytest.approx(precision_score(label.ravel(), prediction.ravel()))


def test_empty_masks():
    empty, one = volume(np.zeros((3, 3, 3), bool)), volume(np.eye(3, dtype=bool)[None].repeat(3, 0))
    both = series_metrics(empty, empty)
    assert (both.dice, both.both_empty, both.has_lesion, both.volume_mm3) == (1.0, True, False, 0.0)
    assert np.isnan([both.sensitivity, both.ppv, both.lesion_f1]).all()
    missed = series_metrics(empty, one)
    assert (missed.dice, missed.both_empty, missed.has_lesion, missed.sensitivity) == (0.0, False, True, 0.0)
    assert np.isnan(missed.ppv)
    alarm = series_metrics(one, empty)
    assert (alarm.dice, alarm.both_empty, alarm.has_lesion, alarm.ppv) == (0.0, False, False, 0.0)
    assert np.isnan(alarm.sensitivity)


def test_grids_that_differ_are_refused_even_when_shapes_agree():
    mask = np.zeros((3, 3, 3), bool)
    with pytest.raises(UserError, match=r"of prediction and label .*\(prediction:.*5\.0.*; label:.*2\.5"):
        series_metrics(volume(mask), volume(mask, (0.5, 0.5, 2.5)))


def test_probability_and_other_shape_are_refused():
    mask = np.zeros((3, 3, 3), bool)
    with pytest.raises(ValueError, match="threshold the probability"):
        dice(np.zeros((3, 3, 3), np.float32), mask)
    with pytest.raises(ValueError, match="shape"):
        dice(np.zeros((3, 1, 3), bool), mask)


def test_surfaces_and_scores_on_the_native_grid():
    hu = np.full((10, 4, 4), 450, np.int16)
    hu[5] = 250
    label, prediction = np.zeros((2, 10, 4, 4), np.uint8)
    label[0:3, 0, 0] = 1
    prediction[0:3, 0, 1] = 1
    prediction[5:9, 2, 2] = 1
    scan = Scan(hu=hu, grid=volume(hu, (1.0, 1.0, 5.0)).grid, slice_thickness_mm=5.0)
    metrics = series_metrics(volume(prediction, (1.0, 1.0, 5.0)), volume(label, (1.0, 1.0, 5.0)), scan)
    assert metrics.nsd_1mm == 0.0  # a slice apart
    to_label = [5.0] * 3 + [float(np.sqrt(x**2 + 2**2 + 10**2)) for x in (3, 4, 5, 6)]
    assert metrics.hd95_mm == pytest.approx(np.percentile(to_label, 95))
    assert metrics.label_agatston == pytest.approx(3 * 4 * 5 / 3)
    assert metrics.agatston == pytest.approx((3 * 4 + 4 * 4) * 5 / 3)
    assert np.isnan(series_metrics(volume(prediction), volume(label)).agatston)
