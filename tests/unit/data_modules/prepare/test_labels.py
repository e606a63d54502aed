"""Labels that cannot be calcification are refused where a label meets its scan."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from data_modules.config import DataConfig
from data_modules.errors import UserError
from data_modules.prepare.labels import check_label
from data_modules.prepare.listings import read_failed
from data_modules.prepare.preparation import prepare_cohort
from tests.unit.data_modules.prepare.conftest import LESIONS, save

PATH = Path("label.nii.gz")


def head() -> np.ndarray:
    hu = np.full((20, 20, 10), 40, dtype=np.int16)
    hu[:8] = -1000
    hu[12, 12, 4:8] = 900
    return hu


def test_calcium_and_its_edge_pass() -> None:
    label = head() > 130
    check_label(label, head(), PATH)
    label[7, 10, :3] = True  # three of seven voxels: less than half is air
    check_label(label, head(), PATH)
    check_label(np.zeros(label.shape, dtype=bool), head(), PATH)


def test_an_inverted_label_is_refused() -> None:
    with pytest.raises(UserError, match=r"label.nii.gz: 100% of the voxels are labelled \(40% of these are air\)"):
        check_label(head() < 130, head(), PATH)


def test_more_than_a_tenth_is_refused() -> None:
    label = np.zeros((20, 20, 10), dtype=bool)
    label[10:12] = True
    check_label(label, head(), PATH)
    label[12, 0, 0] = True
    with pytest.raises(UserError, match="expected at most 10%: background and lesion look swapped"):
        check_label(label, head(), PATH)


def test_a_label_in_air_is_refused() -> None:
    label = np.zeros((20, 20, 10), dtype=bool)
    label[6:10, 5, 5] = True
    check_label(label, head(), PATH)
    label[5, 5, 5] = True
    with pytest.raises(UserError, match="60% of the 5 labelled voxels are air"):
        check_label(label, head(), PATH)


def test_its_series_is_listed_and_the_others_go_on(config: DataConfig, tmp_path: Path) -> None:
    save(tmp_path / "labels" / "a.nii.gz", 1 - LESIONS)
    store = prepare_cohort(config)
    assert "a" not in {p.series.series_id for p in store.series}
    reason = read_failed(store.directory)["a"][0]
    assert "a.nii.gz: 100% of the voxels are labelled" in reason
    assert len(store.series) == 2
