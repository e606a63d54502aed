"""A label through a coarser grid and back, worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from data_modules.scan.geometry import Grid, Volume
from iac_lightning.evaluation.calibration.threshold import RAW_GRID
from iac_lightning.evaluation.clinical.round_trip import RoundTrip, ceiling, lost, round_trip

GRID = Grid((4, 1, 1), np.eye(4))
COARSE = GRID.with_spacing((2.0, 1.0, 1.0), GRID.size_mm)


def trip(labelled: int, hu: float = 500.0, thickness_mm: float = 1.0) -> RoundTrip:
    """Of one labelled voxel of a row of four, 1 mm each, through voxels of 2 mm that cover two each.

    Voxel 0 or 1 fills half of the first coarse voxel. Back on the row, linear interpolation between the coarse centres
    at 1 and 3 mm gives 0.5, 0.375, 0.125, 0 in either case: which of the two it was, the grid has lost.
    """
    label = np.zeros(GRID.shape, dtype=bool)
    label[labelled] = True
    return round_trip(Volume(label, GRID), Volume(np.full(GRID.shape, hu), GRID), COARSE, thickness_mm)


def at(values: np.ndarray, threshold: float) -> float:
    return float(values[np.argmin(np.abs(RAW_GRID - threshold))])


def test_one_voxel_by_hand() -> None:
    first, second = trip(0), trip(1)
    assert (at(first.dice, 0.5), at(second.dice, 0.5)) == (1, 0)
    for one in (first, second):
        assert at(one.dice, 0.3) == pytest.approx(2 / 3)  # two voxels predicted, one of them right
        assert at(one.dice, 0.1) == pytest.approx(2 / 4)
        assert at(one.dice, 0.6) == 0
        assert one.lesion_mm3.tolist() == [1]
    assert first.reach.tolist() == [0.5]
    assert second.reach.tolist() == [0.375]
    # the protocol drops single voxels: from 0.375 on there is but one
    assert first.protocol_reach.tolist() == second.protocol_reach.tolist() == [0.375]
    assert at(first.protocol_dice, 0.5) == 0
    assert at(first.protocol_dice, 0.36) == pytest.approx(2 / 3)


def test_what_is_dark_is_not_reached_after_the_protocol() -> None:
    assert trip(0, hu=129.0).protocol_reach.tolist() == [0]


def test_the_scans_own_grid_loses_nothing() -> None:
    label = np.zeros((6, 5, 4), dtype=bool)
    label[1:3, 2, 1] = label[4, 4, 3] = True
    grid = Grid(label.shape, np.diag([0.5, 0.5, 2.0, 1.0]))
    back = round_trip(Volume(label, grid), Volume(np.full(label.shape, 300), grid), grid, 2.0)
    assert back.dice.tolist() == [1] * len(RAW_GRID)
    assert back.lesion_mm3.tolist() == [1, 0.5]
    assert back.reach.tolist() == [1, 1]
    assert back.protocol_reach.tolist() == [1, 0]  # the single voxel


def test_the_best_threshold_serves_all_scans() -> None:
    top = ceiling([trip(0), trip(1)])
    assert top.half == 0.5
    assert top.best == pytest.approx(2 / 3)
    assert 0.125 < top.best_threshold <= 0.375
    assert top.protocol == pytest.approx(2 / 3)
    assert 0.125 < top.protocol_threshold <= 0.375
    assert ceiling([trip(0), trip(1)], [trip(0)]).half == 1
    assert ceiling([trip(0), trip(1)], [trip(0)]).best == pytest.approx(2 / 3)  # by the threshold of both


def test_lost_lesions_are_counted_by_volume() -> None:
    trips = [trip(0), trip(1)]
    assert lost(trips, 0.5, 0, 5, protocol=False) == (1, 2)
    assert lost(trips, 0.5, 0, 5, protocol=True) == (2, 2)
    assert lost(trips, 0.3, 0, 5, protocol=True) == (0, 2)
    assert lost(trips, 0.5, 0, 0.9, protocol=False) == (0, 0)
    assert lost(trips, 0.5, 1, 5, protocol=False) == (0, 0)  # an edge belongs to the smaller class
