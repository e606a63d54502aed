from __future__ import annotations

import numpy as np
import pytest

from data_modules.errors import UserError
from iac_lightning.evaluation.ablation.cells import Training, identity, measure_cells
from tests.unit.iac_lightning.evaluation.ablation.conftest import FACTORS, by_hand, trainings


def test_scans_where_the_metric_is_undefined_are_left_out_of_all():
    cells = trainings(seeds=(0,))
    cells[1].table.loc[cells[1].table["series_id"] == "p003_s0", "dice"] = np.nan
    sample = measure_cells(cells, FACTORS, seed=0, resamples=20)
    assert (sample.n_scans, sample.n_patients) == (2 * 11 - 1, 11)  # one of 12 patients has no lesion
    kept = cells[0].table.query("has_lesion and series_id != 'p003_s0'")
    assert sample.draws.estimate[0, 0] == pytest.approx(kept["dice"].mean())
    for cell in cells:
        cell.table["dice"] = np.nan
    with pytest.raises(UserError, match="defined dice in every cell"):
        measure_cells(cells, FACTORS, seed=0)


def test_identity_is_series_patient_and_label():
    table = by_hand([("1", "a", 0.5), ("2", "b", 0.6)])
    assert identity(table) == {("1", "a", 10.0), ("2", "b", 10.0)}
    assert identity(table.iloc[::-1].assign(dice=0.1)) == identity(table)
    assert identity(table.assign(label_volume_mm3=11.0)) != identity(table)


def test_the_same_draws_for_any_order_of_trainings():
    one = measure_cells(trainings(), FACTORS, seed=4, resamples=50)
    two = measure_cells(trainings()[::-1], FACTORS, seed=4, resamples=50)
    np.testing.assert_array_equal(one.draws.resampled, two.draws.resampled)


def test_refusals():
    cells = trainings(seeds=(0,))
    with pytest.raises(UserError, match="twice"):
        measure_cells([*cells, cells[0]], FACTORS, seed=0)
    with pytest.raises(UserError, match="large"):
        measure_cells(cells, {**FACTORS, "size": ("small", "middle")}, seed=0)
    other = Training(levels=cells[1].levels, seed=0, table=cells[1].table.iloc[1:])
    with pytest.raises(UserError, match="same scans"):
        measure_cells([cells[0], other], FACTORS, seed=0)
    with pytest.raises(UserError, match="nothing to compare"):
        measure_cells([], FACTORS, seed=0)
