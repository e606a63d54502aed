"""Cohorts, splits, prepared volumes."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from iac_lightning.cli import main
from tests.unit.iac_lightning.commands.recorder import MAE, Recorder


def test_phantom(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make = Recorder(tmp_path / "cohort.csv")
    monkeypatch.setattr("data_modules.phantom.cohort.make_phantom_cohort", make)
    assert (
        main(["phantom", str(tmp_path), "--patients", "5", "--seed", "9", "--workers", "1", "--max-series", "2"]) == 0
    )
    assert make.calls == [(tmp_path, 5, 9, 1, 2)]
    assert capsys.readouterr().out == f"{tmp_path / 'cohort.csv'}\n{tmp_path / 'contact_sheet.png'}\n"


def test_impossible_phantoms_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["phantom", str(tmp_path / "a"), "--max-series", "4"]) == 2
    assert "max_series is 4; expected from 1 to 3" in capsys.readouterr().err
    assert not (tmp_path / "a").exists()


def cohort_without_splits(folder: Path, patients: int) -> Path:
    rows = ["patient_id,series_id,image,label,split,slice_thickness_mm,spacing_x_mm,spacing_y_mm,spacing_z_mm,kernel"]
    rows[0] += ",manufacturer,true_volume_mm3"
    for k in range(patients):
        for s in range(2):
            rows.append(f"P{k:02d},P{k:02d}_{s},P{k}_{s}.nii.gz,,,{1 + 4 * s},0.5,0.5,{1 + 4 * s},soft,X,{10 * k}")
            (folder / f"P{k}_{s}.nii.gz").touch()
    path = folder / "cohort.csv"
    path.write_text("\n".join(rows) + "\n")
    return path


def test_split_fills_empty_splits_by_patient(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = cohort_without_splits(tmp_path, 10)
    shares = ["pretrain=0.4", "finetune=0.3", "dev=0.1", "test=0.2"]
    assert main(["split", str(path), "--seed", "1", "--fractions", *shares]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "pretrain: 4 patients, 8 series",
        "finetune: 3 patients, 6 series",
        "dev: 1 patients, 2 series",
        "test: 2 patients, 4 series",
    ]
    once = path.read_bytes()
    assert main(["split", str(path), "--seed", "2", "--fractions", *shares]) == 0  # what is assigned stays
    assert path.read_bytes() == once


@pytest.mark.parametrize(
    ("shares", "complaint"),
    [
        (["dev"], "'dev' is not split=share"),
        (["dev=many"], "'dev=many' is not split=share"),
        (["dve=1"], "unknown split 'dve'"),
        (["dev=0.5", "test=0.2"], "sum to 0.7"),
    ],
)
def test_split_refuses_shares_and_leaves_the_table(
    shares: list[str], complaint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = cohort_without_splits(tmp_path, 4)
    before = path.read_bytes()
    assert main(["split", str(path), "--fractions", *shares]) == 2
    assert complaint in capsys.readouterr().err
    assert path.read_bytes() == before


def test_split_refuses_a_share_that_is_given_twice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = cohort_without_splits(tmp_path, 4)
    assert main(["split", str(path), "--fractions", "dev=0.5", "dev=0.5", "test=0.5"]) == 2
    assert "'dev' is given twice" in capsys.readouterr().err


def test_split_leaves_a_table_with_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = cohort_without_splits(tmp_path, 4)
    path.write_text(path.read_text().replace("P00,", "P1,"))
    before = path.read_bytes()
    assert main(["split", str(path)]) == 2
    assert "are these one patient?" in capsys.readouterr().err
    assert path.read_bytes() == before


def test_prepare_prepares_the_experiments_cohort(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    store = SimpleNamespace(series=(1, 2), n_withheld=1, directory=Path("prepared/abc"), failed={"d": "damaged"})
    store.warnings = {"a": ("odd", "tilted"), "b": ("odd",)}
    prepare, listed = Recorder(store), Recorder(Path("prepared/abc/warnings.csv"))
    monkeypatch.setattr("data_modules.prepare.preparation.prepare_cohort", prepare)
    monkeypatch.setattr("data_modules.prepare.preparation.list_warnings", listed)
    assert main(["prepare", MAE, "data.cohort=mine.csv"]) == 0
    assert prepare.calls[0][0].cohort == "mine.csv"
    assert capsys.readouterr().out.splitlines() == [
        "3 series in prepared/abc",
        "2 of them carry warnings: prepared/abc/warnings.csv",
        "1 more could not be prepared: prepared/abc/failed.csv",
    ]
    assert listed.calls == [(store,)]
