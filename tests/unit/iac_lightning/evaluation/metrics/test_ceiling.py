"""The protocol's label by hand, and the bound against every mask there is."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from data_modules.scan.geometry import Grid, Volume
from data_modules.scan.reimaging import on_thin_slices, thicker
from data_modules.scan.scan import Scan
from iac_lightning.evaluation.metrics.ceiling import bound_dice, protocol_label
from iac_lightning.evaluation.metrics.series import dice


def scan_of(hu: np.ndarray, spacing_mm: float = 1.0) -> Scan:
    return Scan(hu=hu, grid=Grid(hu.shape, np.diag([1.0, 1.0, spacing_mm, 1.0])), slice_thickness_mm=spacing_mm)


def test_the_protocol_keeps_what_is_bright_after_averaging_and_not_alone() -> None:
    hu = np.zeros((4, 1, 6), dtype=np.int16)
    label = np.zeros(hu.shape, dtype=bool)
    hu[0:2, 0, 0] = 260  # halved by slices of 2 mm: 130 HU, two neighbours
    hu[0:2, 0, 2] = 250  # 125 HU: lost
    hu[3, 0, 4:6] = 900  # bright, but alone
    hu[2, 0, 0] = 900  # bright, but no part of a lesion
    label[0:2, 0, 0] = label[0:2, 0, 2] = label[3, 0, 4:6] = True
    thin = scan_of(hu)
    thick = thicker(thin, 2.0)
    kept = protocol_label(thin.volume.with_data(label), thick.volume)
    assert np.argwhere(kept.data).tolist() == [[0, 0, 0], [1, 0, 0]]
    # 4 thin voxels brought back, of which 2 of the label's 6 are labelled
    back = on_thin_slices(kept, thin.grid, 2)
    assert dice(back.data, label) == pytest.approx(2 * 2 / (4 + 6))


@pytest.mark.parametrize(("spacing_mm", "thickness_mm"), [(1.0, 3.0), (1.0, 2.0), (2.0, 5.0)])
def test_no_mask_of_the_thick_voxels_exceeds_the_bound(spacing_mm: float, thickness_mm: float) -> None:
    rng = np.random.default_rng([int(thickness_mm)])
    thin = scan_of(np.zeros((2, 1, 7), dtype=np.int16), spacing_mm)
    thick = thicker(thin, thickness_mm)
    for share in (0.1, 0.3, 0.7):
        label = rng.random(thin.hu.shape) < share
        label[0, 0, 3] = True
        best = max(
            dice(on_thin_slices(Volume(np.reshape(mask, thick.hu.shape), thick.grid), thin.grid, 2).data, label)
            for mask in product((False, True), repeat=thick.hu.size)
        )
        assert bound_dice(thin.volume.with_data(label), thick.grid, 2) == pytest.approx(best)


def test_the_scan_itself_bounds_nothing_and_an_empty_label_is_reached() -> None:
    thin = scan_of(np.zeros((3, 3, 4), dtype=np.int16))
    label = np.random.default_rng(2).random(thin.hu.shape) < 0.3
    assert bound_dice(thin.volume.with_data(label), thin.grid, 2) == 1
    assert bound_dice(thin.volume.with_data(np.zeros_like(label)), thicker(thin, 2.0).grid, 2) == 1
