from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from data_modules.errors import UserError
from data_modules.scan.geometry import Grid, Volume
from iac_lightning.evaluation.metrics.agatston import agatston

SHAPE = (12, 12, 4)


def volumes(hu: np.ndarray, spacing: tuple[float, float, float], axis_order: tuple[int, int, int] = (0, 1, 2)):
    data = hu.transpose(axis_order)
    affine = np.diag([*(spacing[a] for a in axis_order), 1.0])
    grid = Grid(data.shape, affine)
    return Volume(data > 0, grid), Volume(data, grid)


@pytest.mark.parametrize(
    ("peak", "factor"), [(129, 0), (130, 1), (199, 1), (200, 2), (299, 2), (300, 3), (399, 3), (400, 4), (1500, 4)]
)
def test_factor_of_the_brightest_voxel(peak, factor):
    hu = np.zeros(SHAPE, np.int16)
    hu[2:4, 2:4, 1] = min(peak, 130)
    hu[2, 2, 1] = peak
    area = 4.0
    assert agatston(*volumes(hu, (1.0, 1.0, 3.0))) == pytest.approx(area * factor if peak >= 130 else 0.0)


def test_worked_by_hand():
    hu = np.zeros(SHAPE, np.int16)
    hu[1:4, 1, 0] = [150, 250, 90]  # two voxels count (90 HU does not): 2 · 0.64 mm² · 2
    hu[6:8, 6, 0] = 410  # 2 · 0.64 · 4
    hu[8, 7, 0] = 140  # touches it at a corner: the same lesion, 3 · 0.64 · 4 in all
    hu[1:3, 1, 1] = 150  # a slice further it is a lesion of its own: 2 · 0.64 · 1
    hu[10, 1, 2] = 900  # 0.64 mm²: too small
    expected = (2 * 0.64 * 2 + 3 * 0.64 * 4 + 2 * 0.64 * 1) * 1.5 / 3
    assert agatston(*volumes(hu, (0.8, 0.8, 1.5))) == pytest.approx(expected)
    assert agatston(*volumes(hu, (0.8, 0.8, 1.5), (2, 0, 1)), slice_axis=0) == pytest.approx(expected)


def test_only_the_mask_counts_and_an_empty_one_scores_nothing():
    hu = np.full(SHAPE, 500, np.int16)
    mask, scan = volumes(hu, (1.0, 1.0, 3.0))
    inside = np.zeros(SHAPE, np.uint8)
    assert agatston(mask.with_data(inside), scan) == 0.0
    inside[3, 3, 3] = 1  # exactly 1 mm²
    assert agatston(mask.with_data(inside), scan) == pytest.approx(4.0)


def test_other_grids_are_refused():
    mask, scan = volumes(np.zeros(SHAPE, np.int16), (1.0, 1.0, 3.0))
    with pytest.raises(UserError, match="grids"):
        agatston(mask, volumes(np.zeros(SHAPE, np.int16), (1.0, 1.0, 2.0))[1])
    with pytest.raises(ValueError, match="threshold"):
        agatston(mask.with_data(scan.data.astype(np.float32)), scan)


def test_brightest_voxels_are_those_of_scipy():
    rng = np.random.default_rng([3])
    hu = rng.integers(0, 600, (20, 18, 9)).astype(np.int16)
    mask, scan = volumes(hu, (1.0, 1.0, 3.0))
    mask = mask.with_data(rng.random(hu.shape) < 0.2)
    expected = 0.0
    for k in range(hu.shape[2]):
        ids, n = ndimage.label(mask.data[..., k] & (hu[..., k] >= 130), structure=np.ones((3, 3)))
        peaks = ndimage.maximum(hu[..., k], ids, np.arange(1, n + 1))
        areas = ndimage.sum_labels(ids > 0, ids, np.arange(1, n + 1))
        expected += sum(area * min(4, peak // 100) for area, peak in zip(areas, peaks, strict=True) if peak >= 200)
        expected += sum(area for area, peak in zip(areas, peaks, strict=True) if peak < 200)
    assert expected > 100
    assert agatston(mask, scan) == pytest.approx(expected)
