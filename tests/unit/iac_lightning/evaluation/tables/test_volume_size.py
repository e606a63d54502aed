from __future__ import annotations

from math import isnan

import numpy as np
import pandas as pd
import pytest

from iac_lightning.evaluation.tables.volume_size import by_size, volume_ratios


def test_ratios_on_a_logarithmic_scale():
    labelled = np.array([10.0, 10.0, 100.0, 100.0, 5.0, 0.0, 0.0])
    predicted = np.array([20.0, 5.0, 200.0, 50.0, 0.0, 3.0, 0.0])
    found = volume_ratios(predicted, labelled)
    assert found.ratio == pytest.approx(1.0)
    assert found.high == pytest.approx(np.exp(1.96 * np.log(2) * np.sqrt(4 / 3)))
    assert found.low == pytest.approx(1 / found.high)
    assert (found.n, found.n_missed, found.n_false) == (4, 1, 1)
    alone = volume_ratios(predicted[:1], labelled[:1])
    assert alone.ratio == pytest.approx(2.0)
    assert isnan(alone.low)
    assert isnan(volume_ratios(predicted[4:5], labelled[4:5]).ratio)


def test_errors_by_size():
    table = pd.DataFrame(
        {
            "patient_id": ["a", "a", "b", "c"],
            "label_volume_mm3": [0.0, 10.0, 11.0, 300.0],
            "volume_mm3": [4.0, 5.0, 22.0, 300.0],
        }
    )
    rows = {row.size: row for row in by_size(table)}
    assert list(rows) == ["all", "none", "up to 10 mm³", "10–50 mm³", "above 200 mm³"]
    assert (rows["all"].n, rows["all"].n_patients) == (4, 3)
    assert rows["all"].bias_mm3 == pytest.approx((4 - 5 + 11 + 0) / 4)
    assert isnan(rows["none"].median_relative)
    assert rows["none"].ratios.n_false == 1
    assert rows["up to 10 mm³"].median_relative == 0.5
    assert rows["10–50 mm³"].ratios.ratio == pytest.approx(2.0)
