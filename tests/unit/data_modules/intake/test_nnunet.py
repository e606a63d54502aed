from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from data_modules.cohort.table import read_cohort, write_cohort
from data_modules.errors import UserError
from data_modules.intake.nnunet import nnunet_rows
from data_modules.scan.geometry import Grid, Volume
from data_modules.scan.nifti import read_mask, write_nifti
from data_modules.scan.reading import read_scan
from iac_lightning.cli import main

SHAPE = (6, 5, 4)
SPLITS = {"P1_a": "finetune", "P1_b": "finetune", "P2_a": "dev", "P3_a": "test"}


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """A data set made by `iac export nnunet` of four series of three patients."""
    rows = []
    for seed, (name, split) in enumerate(SPLITS.items()):
        hu = np.random.default_rng([seed]).integers(-900, 1200, SHAPE).astype(np.int16)
        volume = Volume(hu, Grid(SHAPE, np.diag([-0.5, -0.5, 2.0, 1.0])))
        write_nifti(volume, tmp_path / f"{name}.nii.gz")
        write_nifti(volume.with_data((hu > 900).astype(np.uint8)), tmp_path / f"{name}_label.nii.gz")
        rows.append((name[:2], name, f"{name}.nii.gz", f"{name}_label.nii.gz", split, 2.0, "", ""))
    columns = ["patient_id", "series_id", "image", "label", "split", "slice_thickness_mm", "kernel", "manufacturer"]
    write_cohort(tmp_path / "cohort.csv", pd.DataFrame(rows, columns=columns))
    assert main(["export", "nnunet", str(tmp_path / "cohort.csv"), str(tmp_path / "raw")]) == 0
    return tmp_path / "raw/Dataset501_IAC"


def test_comes_back_as_it_was_exported(raw: Path, tmp_path: Path) -> None:
    assert main(["import", "nnunet", str(raw), str(tmp_path / "back"), "--patient-pattern", "^(P[0-9])_"]) == 0
    there, back = read_cohort(tmp_path / "cohort.csv"), read_cohort(tmp_path / "back/cohort.csv")
    assert [(s.patient_id, s.series_id, s.split) for s in back.series] == [
        (s.patient_id, s.series_id, s.split) for s in there.series
    ]
    for old, new in zip(there.series, back.series, strict=True):
        assert old.label is not None
        assert new.label is not None
        np.testing.assert_array_equal(read_scan(new.image).hu, read_scan(old.image).hu)
        mask = read_mask(old.label)
        np.testing.assert_array_equal(read_mask(new.label).data, mask.data)
        volume = "" if old.split == "test" else repr(float(mask.data.sum() * 0.5))
        assert new.extra["label_volume_mm3"] == volume


def test_a_bad_case_costs_that_case_only(raw: Path, tmp_path: Path) -> None:
    (raw / "imagesTr/P1_a_0000.nii.gz").unlink()
    (raw / "imagesTr/P1_a_0000.nii.gz").write_bytes(b"nothing")
    write_nifti(Volume(np.ones((2, 2, 2), np.uint8), Grid((2, 2, 2), np.eye(4))), raw / "labelsTr/P1_b.nii.gz")
    assert main(["import", "nnunet", str(raw), str(tmp_path / "back"), "--patient-pattern", "^(P[0-9])_"]) == 1
    assert [s.series_id for s in read_cohort(tmp_path / "back/cohort.csv").series] == ["P2_a", "P3_a"]
    told = pd.read_csv(tmp_path / "back/inventory.csv").set_index("series_id")
    assert told.loc["P1_b", "code"] == "bad_label"
    assert told.loc["P1_a", "code"] != "ok"
    assert str(tmp_path) not in (tmp_path / "back/inventory.csv").read_text()


def test_folds_and_pattern(raw: Path) -> None:
    folds = [{"train": ["P2_a"], "val": ["P1_a", "P1_b"]}, {"train": ["P1_a", "P1_b"], "val": ["P2_a"]}]
    (raw / "splits_final.json").write_text(json.dumps(folds))
    found = {row.series_id: (row.split, row.fold) for row in nnunet_rows(raw)}
    expected = {"P1_a": ("dev", "0"), "P1_b": ("dev", "0"), "P2_a": ("finetune", "1"), "P3_a": ("test", "")}
    assert found == expected
    with pytest.raises(UserError, match="expected one"):
        nnunet_rows(raw, patient_pattern="P1")
    assert [row.series_id for row in nnunet_rows(raw, patient_pattern="^(P[12])_") if row.problem] == ["P3_a"]
