from __future__ import annotations

import json
import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk

from data_modules.cohort.table import Series, write_cohort
from data_modules.errors import UserError
from data_modules.scan.geometry import Grid, Volume
from data_modules.scan.scan import write_nifti
from iac_lightning.cli import main
from iac_lightning.workflows.external import nnunet
from iac_lightning.workflows.external.nnunet import export_nnunet

SHAPE = (6, 5, 4)
SPLITS = {"a1": "pretrain", "b1": "finetune", "b2": "finetune", "c1": "dev", "d1": "test"}


def scan(seed: int) -> Volume:
    affine = np.diag([-0.5, -0.5, 2.0, 1.0])
    affine[:3, 3] = (7, -3, 11 + seed)
    hu = np.random.default_rng([seed]).integers(-900, 1200, SHAPE).astype(np.int16)
    return Volume(hu, Grid(SHAPE, affine))


@pytest.fixture
def cohort(tmp_path: Path) -> Path:
    """Five series of four patients; the label of c1 holds 255, the image of b2 is not compressed."""
    rows = []
    for seed, (series, split) in enumerate(SPLITS.items()):
        volume = scan(seed)
        image = f"images/{series}.nii" if series == "b2" else f"images/{series}.nii.gz"
        write_nifti(volume, tmp_path / image)
        label = f"labels/{series}.nii.gz" if split != "pretrain" else ""
        if label:
            mask = (volume.data > 900).astype(np.uint8) * (255 if series == "c1" else 1)
            write_nifti(volume.with_data(mask), tmp_path / label)
        rows.append((series[0], series, image, label, split, 2.0, 0.5, 0.5, 2.0, "", ""))
    columns = ["patient_id", "series_id", "image", "label", "split", "slice_thickness_mm"]
    columns += ["spacing_x_mm", "spacing_y_mm", "spacing_z_mm", "kernel", "manufacturer"]
    write_cohort(tmp_path / "cohort.csv", pd.DataFrame(rows, columns=columns))
    return tmp_path / "cohort.csv"


def contents(folder: Path) -> dict[str, list[str]]:
    return {name: sorted(p.name for p in (folder / name).iterdir()) for name in ("imagesTr", "labelsTr", "imagesTs")}


def test_structure_and_splits(cohort: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", "nnunet", str(cohort), str(tmp_path / "raw"), "--dataset-id", "7", "--name", "Tiny"]) == 0
    folder = tmp_path / "raw/Dataset007_Tiny"
    assert str(folder) in capsys.readouterr().out
    assert contents(folder) == {
        "imagesTr": ["b1_0000.nii.gz", "b2_0000.nii.gz", "c1_0000.nii.gz"],
        "labelsTr": ["b1.nii.gz", "b2.nii.gz", "c1.nii.gz"],
        "imagesTs": ["d1_0000.nii.gz"],
    }
    assert [p.name for p in (folder / "labelsTs").iterdir()] == ["d1.nii.gz"]
    assert json.loads((folder / "splits_final.json").read_text()) == [{"train": ["b1", "b2"], "val": ["c1"]}]
    described = json.loads((folder / "dataset.json").read_text())
    assert described["channel_names"] == {"0": "CT"}
    assert described["labels"] == {"background": 0, "calcification": 1}
    assert (described["numTraining"], described["file_ending"]) == (3, ".nii.gz")


@pytest.mark.parametrize("copy", [False, True])
def test_simpleitk_sees_the_same_voxels(cohort: Path, tmp_path: Path, copy: bool) -> None:
    folder = export_nnunet(cohort, tmp_path / "raw", copy=copy).directory
    assert folder.name == "Dataset501_IAC"
    for seed, (series, split) in enumerate(SPLITS.items()):
        if split == "pretrain":
            continue
        where = "Ts" if split == "test" else "Tr"
        path = folder / f"images{where}" / f"{series}_0000.nii.gz"
        assert path.is_symlink() == (series != "b2" and not copy)
        image = sitk.ReadImage(str(path))
        label = sitk.ReadImage(str(folder / f"labels{where}" / f"{series}.nii.gz"))
        expected = scan(seed)
        np.testing.assert_array_equal(sitk.GetArrayFromImage(image).T, expected.data)
        np.testing.assert_array_equal(sitk.GetArrayFromImage(label).T, (expected.data > 900).astype(np.uint8))
        for found in (image, label):
            np.testing.assert_allclose(found.GetSpacing(), (0.5, 0.5, 2.0))
            np.testing.assert_allclose(found.GetOrigin(), (-7, 3, 11 + seed))


def test_goes_on_where_it_was_stopped(cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = nnunet.read_series
    seen: list[str] = []

    def counted(series: Series) -> object:
        if len(seen) == 2:
            raise KeyboardInterrupt
        seen.append(series.image.name)
        return read(series)

    monkeypatch.setattr(nnunet, "read_series", counted)
    with pytest.raises(KeyboardInterrupt):
        export_nnunet(cohort, tmp_path / "raw")
    folder = tmp_path / "raw/Dataset501_IAC"
    assert not (folder / "dataset.json").exists()
    del seen[:]
    export_nnunet(cohort, tmp_path / "raw")
    assert seen == ["c1.nii.gz", "d1.nii.gz"]
    del seen[:]
    export_nnunet(cohort, tmp_path / "raw")
    assert seen == []
    later = (folder / "labelsTr/b1.nii.gz").stat().st_mtime_ns + 10**9
    os.utime(tmp_path / "labels/b1.nii.gz", ns=(later, later))
    export_nnunet(cohort, tmp_path / "raw")
    assert seen == ["b1.nii.gz"]


def test_a_patient_who_changed_the_split_does_not_stay_in_training(cohort: Path, tmp_path: Path) -> None:
    export_nnunet(cohort, tmp_path / "raw")
    table = pd.read_csv(cohort, dtype=str, keep_default_na=False)
    table.loc[table["patient_id"] == "d", "split"] = "dev"
    table.loc[table["patient_id"] == "c", "split"] = "test"
    write_cohort(cohort, table)
    with pytest.raises(UserError, match=r"4 files .*imagesTr/c1_0000\.nii\.gz"):
        export_nnunet(cohort, tmp_path / "raw")


def test_headers_that_simpleitk_reads_otherwise_are_written_anew(cohort: Path, tmp_path: Path) -> None:
    path = tmp_path / "images/b1.nii.gz"
    image = nib.load(path)
    other = image.affine.copy()
    other[:3, 3] += 40
    image.set_qform(other, code=1)  # SimpleITK may follow it; read_scan follows the sform
    nib.save(image, path)
    folder = export_nnunet(cohort, tmp_path / "raw").directory
    assert not (folder / "imagesTr/b1_0000.nii.gz").is_symlink()
    found = sitk.ReadImage(str(folder / "imagesTr/b1_0000.nii.gz"))
    np.testing.assert_allclose(found.GetOrigin(), (-7, 3, 12))


def test_what_cannot_be_exported(cohort: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="1 to 999"):
        export_nnunet(cohort, tmp_path / "raw", dataset_id=0)
    with pytest.raises(UserError, match="a-b"):
        export_nnunet(cohort, tmp_path / "raw", name="a-b")
    table = pd.read_csv(cohort, dtype=str, keep_default_na=False)
    table.loc[table["series_id"] == "b2", "label"] = ""
    write_cohort(cohort, table)
    with pytest.raises(UserError, match=r"without label \(b2\)"):
        export_nnunet(cohort, tmp_path / "raw")
