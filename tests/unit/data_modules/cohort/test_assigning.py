"""`split_cohort`: a table on disk, its masks, and what is written back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from data_modules.cohort import look
from data_modules.cohort.assigning import split_cohort
from data_modules.cohort.table import read_cohort
from data_modules.errors import UserError
from data_modules.scan.geometry import Grid, Volume
from data_modules.scan.nifti import read_mask
from tests.nifti_files import save

HEADER = ["patient_id", "series_id", "image", "label", "split", "slice_thickness_mm", "kernel", "manufacturer"]
HALVES = {"dev": 0.5, "test": 0.5}


def write(folder: Path, rows: list[list[str]], separator: str = ",", newline: str = "\n", bom: bool = False) -> Path:
    for row in rows:
        (folder / row[2]).touch()
    path = folder / "cohort.csv"
    text = "".join(separator.join(row) + newline for row in rows)
    path.write_bytes(text.encode("utf-8-sig" if bom else "utf-8"))
    return path


def labelled(folder: Path, voxels: list[int], split: str = "") -> list[list[str]]:
    """A header and a row a mask with so many voxels of 0.9 mm³."""
    rows = [HEADER]
    for k, n in enumerate(voxels):
        mask = np.zeros((6, 6, 6), np.uint8)
        mask.reshape(-1)[:n] = 1
        save(folder / f"m{k}.nii.gz", mask)
        rows.append([f"P{k}", f"S{k}", f"i{k}", f"m{k}.nii.gz", split, "5", "", ""])
    return rows


def burdens(path: Path, of: dict[str, list[int]], voxels: list[int]) -> dict[str, list[int]]:
    cohort = read_cohort(path)
    return {split: sorted(voxels[int(s.patient_id[1:])] for s in cohort.split(split)) for split in of}


def test_burden_is_measured_from_masks_where_the_table_gives_none(tmp_path: Path) -> None:
    voxels = [0] * 8 + [50] * 4 + [100] * 4 + [200] * 4
    path = write(tmp_path, labelled(tmp_path, voxels))
    for seed in range(3):
        write(tmp_path, labelled(tmp_path, voxels))
        split_cohort(path, HALVES, seed)
        half = [0] * 4 + [50] * 2 + [100] * 2 + [200] * 2
        assert burdens(path, {"dev": [], "test": []}, voxels) == {"dev": half, "test": half}


def test_a_volume_in_the_table_goes_before_the_mask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = labelled(tmp_path, [1, 2, 3, 4])
    rows = [[*row, volume] for row, volume in zip(rows, ["label_volume_mm3", "5", "", "0", "7.5"], strict=True)]
    read: list[str] = []
    monkeypatch.setattr(look, "read_mask", lambda path, like: read.append(path.name) or read_mask(path, like))
    path = write(tmp_path, rows)
    split_cohort(path, HALVES, 0)
    assert read == ["m1.nii.gz"]
    assert [s.extra["label_volume_mm3"] for s in read_cohort(path).series] == ["5", "", "0", "7.5"]


def test_masks_of_patients_with_a_split_stay_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fixed, free = labelled(tmp_path, [5] * 4, "test"), labelled(tmp_path, [5] * 8)[5:]
    second = ["P0", "P0_2", "j0", "m0.nii.gz", "", "5", "", ""]  # of a patient of the test split
    read: list[str] = []

    def recorded(path: Path, like: Grid | None) -> Volume:
        read.append(path.name)
        return read_mask(path, like)

    monkeypatch.setattr(look, "read_mask", recorded)
    cohort = split_cohort(write(tmp_path, [*fixed, *free, second]), HALVES, 0)
    assert read == ["m4.nii.gz", "m5.nii.gz", "m6.nii.gz", "m7.nii.gz"]
    assert cohort.patients("test") == ("P0", "P1", "P2", "P3")
    assert cohort.patients("dev") == ("P4", "P5", "P6", "P7")


def test_damaged_masks_are_named_and_nothing_is_written(tmp_path: Path) -> None:
    path = write(tmp_path, labelled(tmp_path, [1, 2, 3, 4]))
    for name in ("m1.nii.gz", "m3.nii.gz"):
        (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:50])
    before = path.read_bytes()
    with pytest.raises(UserError, match=r"2 problems (?s:.*)label of S1: .*m1.nii.gz(?s:.*)label of S3: .*m3.nii.gz"):
        split_cohort(path, HALVES, 0)
    assert path.read_bytes() == before


def test_all_but_the_split_stays_as_it_was(tmp_path: Path) -> None:
    header = [*HEADER, "site"]
    rows = [header, *([f"{k}A", f"s{k}", f"i{k}", "", "", "0,625", "", '"a;b"', "012"] for k in (7, 1, 3, 2))]
    path = write(tmp_path, rows, ";", "\r\n", bom=True)
    cohort = split_cohort(path, HALVES, 0)
    found = path.read_bytes().decode("utf-8-sig").split("\r\n")
    assert path.read_bytes().startswith(b"\xef\xbb\xbf")
    for line, row, series in zip(found[1:-1], rows[1:], cohort.series, strict=True):
        assert line == ";".join([*row[:4], series.split, *row[5:]])
        assert series.slice_thickness_mm == 0.625
    assert read_cohort(path) == cohort


def test_a_table_with_an_error_is_left_as_it_is(tmp_path: Path) -> None:
    rows = [HEADER, *([f"P{k}", f"s{k}", f"i{k}", "", "", "5", "", ""] for k in range(4))]
    rows[2][0] = "P0 "
    path = write(tmp_path, rows)
    before = path.read_bytes()
    with pytest.raises(UserError, match=r"'P0 ' is not an id(?s:.*)'P0' \(row 2\), 'P0 ' \(row 3\): are these one pat"):
        split_cohort(path, HALVES, 0)
    assert path.read_bytes() == before


def test_a_table_behind_a_link_is_written_where_it_lies(tmp_path: Path) -> None:
    rows = [HEADER, *([f"P{k}", f"s{k}", f"i{k}", "", "", "5", "", ""] for k in range(4))]
    path = write(tmp_path, rows)
    (tmp_path / "link.csv").symlink_to(path)
    split_cohort(tmp_path / "link.csv", HALVES, 0)
    assert (tmp_path / "link.csv").is_symlink()
    assert all(series.split for series in read_cohort(path).series)


def test_a_seed_below_zero_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, [HEADER, ["P", "s", "i", "", "", "5", "", ""]])
    with pytest.raises(UserError, match="the seed is -1"):
        split_cohort(path, HALVES, -1)


def test_folds_are_written_beside_the_splits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    voxels = [0] * 4 + [100] * 4
    path = write(tmp_path, labelled(tmp_path, voxels, "finetune"))
    held = path.read_text()
    cohort = split_cohort(path, HALVES, 0, folds=2)
    for fold in (0, 1):
        assert sorted(voxels[int(s.patient_id[1:])] for s in cohort.series if s.fold == fold) == [0, 0, 100, 100]
    assert cohort == read_cohort(path)
    assert path.read_text().splitlines()[0] == held.splitlines()[0] + ",fold"
    written = path.read_bytes()
    monkeypatch.setattr("data_modules.cohort.assigning.write_cohort", lambda *_: pytest.fail("written again"))
    assert split_cohort(path, HALVES, 1, folds=2) == cohort
    assert path.read_bytes() == written


def test_folds_open_no_mask_of_the_test_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = labelled(tmp_path, [10, 20, 30, 40], "finetune")
    rows[4][4] = "test"
    path = write(tmp_path, rows)
    read: list[str] = []
    monkeypatch.setattr(look, "read_mask", lambda label, like=None: read.append(label.name) or read_mask(label))
    cohort = split_cohort(path, HALVES, 0, folds=3)
    assert sorted(read) == ["m0.nii.gz", "m1.nii.gz", "m2.nii.gz"]
    assert [s.fold for s in cohort.series][3] is None
