"""Named regions: beside the sella where the arteries run, carried over by the registration's matrix."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from data_modules.prepare.named_regions import REACH_MM, REGIONS, named_regions, region_of
from data_modules.prepare.registration import SELLA_MNI_MM
from data_modules.scan.geometry import Grid

POINTS = {  # MNI mm
    "carotid_siphon_left": (-12, 3, -32),
    "carotid_siphon_right": (12, 3, -32),
    "basilar": (0, -16, -42),
    "vertebral_left": (-13, -34, -67),
    "vertebral_right": (13, -34, -67),
    "middle_cerebral_left": (-30, 10, -16),
    "middle_cerebral_right": (30, 10, -16),
}


def turned() -> np.ndarray:
    """A matrix that turns, shrinks and shifts."""
    matrix = np.eye(4)
    a = np.deg2rad(20)
    matrix[:3, :3] = 0.8 * np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    matrix[:3, 3] = 30, -60, 12
    return matrix


@pytest.mark.parametrize("matrix", [np.eye(4), turned()], ids=["as it is", "turned"])
def test_points_of_arteries_have_their_names(matrix: np.ndarray) -> None:
    places = np.array(list(POINTS.values()), dtype=float) @ matrix[:3, :3].T + matrix[:3, 3]
    assert [REGIONS[int(value)] for value in region_of(matrix, places)] == list(POINTS)
    away = np.array([(0, 40, 20), (60, -20, 0), SELLA_MNI_MM + np.array([0, 0, 30])])
    assert not region_of(matrix, away @ matrix[:3, :3].T + matrix[:3, 3]).any()


def test_a_region_reaches_so_far_and_no_farther() -> None:
    below = np.array([(12.0, 3.0, -32.0 - d) for d in (0, REACH_MM - 0.5, 25)])
    assert region_of(np.eye(4), below).tolist() == [2, 2, 0]


def test_the_mask_is_whole_and_symmetric_on_a_grid() -> None:
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    affine[:3, 3] = -49, -50, -80
    labels = named_regions(Grid((50, 45, 36), affine), np.eye(4))
    assert labels.data.dtype == np.uint8
    assert set(np.unique(labels.data)) == {0, *REGIONS}
    for value, name in REGIONS.items():
        _, parts = ndimage.label(labels.data == value, np.ones((3, 3, 3)))
        assert parts == 1, name
        assert REGIONS[int(labels.data[tuple(np.rint(labels.grid.to_index(POINTS[name])).astype(int))])] == name
    mirror = np.array([0, 2, 1, 3, 5, 4, 7, 6], dtype=np.uint8)[labels.data[::-1]]
    assert (mirror == labels.data).mean() > 0.999  # what lies in the middle of two sides belongs to either
