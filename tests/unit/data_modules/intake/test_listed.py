from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from data_modules.cohort.table import read_cohort
from data_modules.scan.geometry import Grid, Volume
from data_modules.scan.nifti import write_nifti
from iac_lightning.cli import main


def write_scan(image: Path, label: Path) -> None:
    hu = np.random.default_rng([1]).integers(-900, 1200, (6, 5, 4)).astype(np.int16)
    volume = Volume(hu, Grid(hu.shape, np.diag([-0.5, -0.5, 2.0, 1.0])))
    write_nifti(volume, image)
    write_nifti(volume.with_data((hu > 900).astype(np.uint8)), label)
    stem = image.name.removesuffix(".nii.gz")
    image.with_name(f"{stem}.json").write_text(json.dumps({"SliceThickness": 2.5, "ConvolutionKernel": "H30"}))


def test_bids(tmp_path: Path) -> None:
    data = tmp_path / "bids"
    write_scan(
        data / "sub-01/ses-1/ct/sub-01_ses-1_ct.nii.gz",
        data / "derivatives/hand/sub-01/ses-1/ct/sub-01_ses-1_desc-calc_mask.nii.gz",
    )
    (data / "participants.tsv").write_text("participant_id\tage\tname\nsub-01\t71\tX\n")
    assert main(["import", "bids", str(data), str(tmp_path / "out")]) == 0
    (found,) = read_cohort(tmp_path / "out/cohort.csv").series
    assert (found.patient_id, found.series_id) == ("01", "sub-01_ses-1")
    assert (found.slice_thickness_mm, found.kernel, found.extra["age"]) == (2.5, "H30", "71")
    assert float(found.extra["label_volume_mm3"]) > 0
    assert "name" not in found.extra


def test_table_maps_columns_and_loses_bad_rows_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_scan(tmp_path / "a.nii.gz", tmp_path / "m.nii.gz")
    table = tmp_path / "t.tsv"
    table.write_text("SubjectID\tpath\tmask\nA1\ta.nii.gz\tm.nii.gz\nA2\tgone.nii.gz\t\n")
    call = ["import", "table", str(table), str(tmp_path / "out"), "--map", "image=path", "label=mask"]
    assert main([*call, "patient_id=SubjctID"]) == 2
    assert "did you mean 'SubjectID'?" in capsys.readouterr().err
    assert main([*call, "patient_id=SubjectID"]) == 1
    assert [s.patient_id for s in read_cohort(tmp_path / "out/cohort.csv").series] == ["A1"]
    told = pd.read_csv(tmp_path / "out/inventory.csv").set_index("series_id")
    assert told.loc["A2", "code"] == "bad_row"
