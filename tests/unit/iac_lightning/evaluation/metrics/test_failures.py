from __future__ import annotations

import numpy as np
import pytest

from data_modules.errors import UserError
from data_modules.scan.geometry import Grid, Volume
from iac_lightning.evaluation.metrics.failures import failures


def mask(*boxes, spacing=0.5):
    data = np.zeros((10, 10, 10), dtype=bool)
    for low, high in boxes:
        data[low:high, low:high, low:high] = True
    return Volume(data, Grid((10, 10, 10), np.diag([spacing, 1.0, 2.0, 1.0])))


def test_components_that_hit_nothing():
    found = failures(mask((0, 2), (8, 9)), mask((1, 2), (4, 6)))
    assert (found.n_lesions, found.n_missed, found.n_false) == (2, 1, 1)
    assert found.largest_missed_mm3 == 8.0  # 8 voxels of 1 mm³
    assert found.largest_false_mm3 == 1.0
    assert np.array_equal(found.missed, mask((4, 6)).data)
    assert np.array_equal(found.false, mask((8, 9)).data)


def test_without_failures_and_on_another_grid():
    found = failures(mask((0, 2)), mask((0, 2)))
    assert not found.missed.any()
    assert (found.largest_missed_mm3, found.n_missed, found.n_false) == (0.0, 0, 0)
    with pytest.raises(UserError, match="prediction"):
        failures(mask(spacing=0.5), mask(spacing=0.6))
