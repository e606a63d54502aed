from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from data_modules.scan.geometry import Grid, Volume
from iac_lightning.evaluation.metrics.series import series_metrics
from iac_lightning.evaluation.tables.series_table import series_row, series_table


def mask(n: int, first: int = 0) -> Volume:
    data = np.zeros((10, 1, 1), bool)
    data[first : first + n] = True
    return Volume(data, Grid(data.shape, np.diag([1.0, 1.0, 2.0, 1.0])))


@pytest.fixture
def table() -> pd.DataFrame:
    """Four scans of three patients; Dice 1, 0.5, 0 (false alarm) and 1 (both empty)."""
    pairs = [
        ("b1", "b", 1.0, mask(4), mask(4)),
        ("a1", "a", 1.1, mask(2), mask(2, first=1)),
        ("c1", "c", 6.0, mask(3), mask(0)),
        ("c2", "c", 6.1, mask(0), mask(0)),
    ]
    plain = series_metrics(mask(0), mask(0))
    return series_table([series_row(s, p, t, series_metrics(x, y), plain, 1.0) for s, p, t, x, y in pairs])
