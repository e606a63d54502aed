from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from data_modules.phantom.anatomy import Anatomy, build_anatomy
from data_modules.phantom.cohort import make_phantom_cohort

SETTINGS = {"patients": 5, "seed": 3, "max_series": 1}
"""Of the cohort `made`."""


@pytest.fixture(scope="package")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("phantom") / "cohort"
    assert make_phantom_cohort(out, **SETTINGS, workers=1) == out / "cohort.csv"
    return out


@pytest.fixture(scope="package")
def painted() -> Anatomy:
    return build_anatomy(np.random.default_rng([5]), 80.0, (34.0, 34.0, 26.0))
