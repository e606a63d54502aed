"""An export is read as the truth beside it says, holds every trouble, and is the same bytes each time."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pandas as pd
import pydicom
import pytest
from pydicom.errors import InvalidDicomError

from data_modules.errors import UserError
from data_modules.phantom import hospital
from data_modules.phantom.hospital import make_hospital_export, make_patient
from data_modules.phantom.hospital_files import image_files, series_uid
from data_modules.phantom.hospital_plan import TROUBLES, plan_hospital_patient
from data_modules.phantom.mark import MARK, is_phantom_image
from data_modules.phantom.patient import Patient, build_patient
from data_modules.phantom.stacks import image_stack
from data_modules.scan.reading import read_scan
from data_modules.scan.scan import Scan

SEED, MATRIX = 5, 64


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve patients: every trouble once. They share one head, which saves the time to paint twelve."""
    out = tmp_path_factory.mktemp("hospital") / "export"
    one = build_patient((SEED, 0), 100.0, 2.5, with_contrast=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hospital, "build_patient", lambda *_: one)
        assert make_hospital_export(out, len(TROUBLES), SEED, workers=1, matrix=MATRIX) == out / "expected.csv"
    return out


@pytest.fixture(scope="module")
def headers(export: Path) -> dict[str, list[tuple[Path, pydicom.Dataset]]]:
    """Files by SeriesInstanceUID."""
    found = defaultdict(list)
    for path in sorted((export / "dicom").rglob("*")):
        try:
            header = pydicom.dcmread(path, stop_before_pixels=True)
            found[str(header.SeriesInstanceUID)].append((path, header))
        except (InvalidDicomError, IsADirectoryError, AttributeError):
            continue
    return found


@pytest.fixture(scope="module")
def expected(export: Path) -> pd.DataFrame:
    return pd.read_csv(export / "expected.csv", dtype=str).set_index("series_uid")


def in_folder(files: list[tuple[Path, pydicom.Dataset]], folder: Path) -> Path:
    """The files of one series, linked into a folder of their own."""
    folder.mkdir()
    for k, (path, _) in enumerate(files):
        (folder / str(k)).symlink_to(path)
    return folder


def test_every_series_is_listed_once_with_every_code(
    headers: dict[str, list[tuple[Path, pydicom.Dataset]]], expected: pd.DataFrame
) -> None:
    assert set(headers) == set(expected.index)
    assert expected.index.is_unique
    assert set(expected["code"]) == {
        "ok", "joined", "localizer", "dose_report", "secondary_capture", "exam_summary", "not_ct", "not_head",
        "reformat", "contrast", "too_few_slices", "duplicate", "unreadable", "not_hu", "geometry",
    }  # fmt: skip
    assert set(expected.loc[expected["status"] == "accepted", "code"]) == {"ok", "joined"}
    assert expected["patient"].nunique() == len(TROUBLES)


def test_identifiers_are_made_up_and_unique(headers: dict[str, list[tuple[Path, pydicom.Dataset]]]) -> None:
    images = Counter(str(header.SOPInstanceUID) for files in headers.values() for _, header in files)
    assert set(images.values()) == {1, 2}  # those that were sent twice
    for files in headers.values():
        for _, header in files:
            assert header.ManufacturerModelName == MARK
            assert "PHANTOM" in str(header.PatientName)
            assert "PHANTOM" in header.PatientID
            assert int(header.StudyDate[:4]) > 2090
            assert len(header.AccessionNumber) <= 16


def test_what_is_no_scan_is_what_it_is_listed_as(
    headers: dict[str, list[tuple[Path, pydicom.Dataset]]], expected: pd.DataFrame
) -> None:
    for uid, files in headers.items():
        header, code = files[0][1], expected.loc[uid, "code"]
        assert (header.Modality == "MR") == (code == "not_ct")
        assert ("LOCALIZER" in header.ImageType) == (code == "localizer")
        assert ("REFORMATTED" in header.ImageType) == (code == "reformat")
        assert ("ContrastBolusAgent" in header) == (code == "contrast")
        assert (header.get("BurnedInAnnotation") == "YES") == (
            code in ("secondary_capture", "exam_summary", "dose_report") and header.Modality == "CT"
        )
        if code == "too_few_slices":
            assert len(files) in (1, 2)


def test_the_reader_takes_what_is_accepted_and_refuses_what_is_broken(
    headers: dict[str, list[tuple[Path, pydicom.Dataset]]], expected: pd.DataFrame, export: Path, tmp_path: Path
) -> None:
    heads = pd.read_csv(export / "heads.csv", dtype=str).set_index("study_uid")
    messages = {"unreadable": "truncated", "geometry": "missing", "not_hu": "RescaleSlope"}
    tilts = set()
    for k, (uid, row) in enumerate(expected.drop_duplicates(["patient", "code", "why"]).iterrows()):
        if row["code"] in messages:
            with pytest.raises(UserError, match=messages[row["code"]]):
                read_scan(in_folder(headers[str(uid)], tmp_path / str(k)))
        elif row["status"] == "accepted":
            scan = read_scan(in_folder(headers[str(uid)], tmp_path / str(k)))
            header = headers[str(uid)][0][1]
            tilts.add(abs(scan.gantry_tilt_deg) > 1)
            assert scan.kernel == header.ConvolutionKernel
            assert sum("duplicated" in w for w in scan.warnings) == ("twice" in row["why"])
            assert sum("1 slices missing" in w for w in scan.warnings) == ("interpolated" in row["why"])
            if row["code"] == "ok":
                sella = np.array(heads.loc[str(header.StudyInstanceUID), "sella_lps_mm"].split(), float)
                check_head(scan, sella * (-1, -1, 1))
    assert tilts == {True, False}


def check_head(scan: Scan, sella_ras_mm: np.ndarray) -> None:
    """Brain above the sella, bone at the vertex, air above it."""

    def hu_at(*offset: float) -> float:
        i, j, k = np.rint(scan.grid.to_index(sella_ras_mm + offset)).astype(int)
        return float(np.median(scan.hu[i - 1 : i + 2, j - 1 : j + 2, k]))

    assert 15 < hu_at(38, -25, 50) < 50
    middle = np.rint(scan.grid.to_index(sella_ras_mm + np.array([0, -25, 60]))).astype(int)
    top = scan.hu[middle[0], middle[1], middle[2] :]
    assert top.max() > 100  # 6 mm of bone in slices of 8 mm; no soft tissue is as bright
    assert scan.hu.min() == -1024 or scan.hu.min() < -950


@pytest.fixture(scope="module")
def with_and_without() -> tuple[Patient, Patient]:
    """One head without and with plaque, otherwise the same."""
    without, with_plaque = (build_patient((SEED, 0), volume, 2.5, with_contrast=False) for volume in (0.0, 300.0))
    return without, with_plaque


@pytest.mark.parametrize(
    ("number", "series_number"),
    [(0, 2), (0, 5), (1, 2), (2, 2), (6, 2), (3, 2)],
    ids=["helical", "coronal", "tilted", "two_thicknesses", "two_thicknesses_overlapping", "base"],
)
def test_plaque_lies_where_it_was_painted(
    number: int, series_number: int, tmp_path: Path, with_and_without: tuple[Patient, Patient]
) -> None:
    plan = plan_hospital_patient(SEED, number, 96)
    series = next(s for s in plan.exams[0].series if s.number == series_number)
    assert series.stack is not None
    scans = []
    for k, patient in enumerate(with_and_without):
        hu = np.rint(image_stack(patient.plain, series.stack) - 1000).astype(np.int16)
        folder = tmp_path / str(k)
        folder.mkdir()
        for n, content in enumerate(image_files(plan, 0, series, hu)):
            (folder / f"{n}.dcm").write_bytes(content)
        scans.append(read_scan(folder))
    grid, anatomy = scans[0].grid, with_and_without[1].anatomy
    plaque = scans[1].hu.astype(float) - scans[0].hu
    found = grid.to_ras_mm((np.argwhere(plaque != 0) * plaque[plaque != 0][:, None]).sum(0) / plaque.sum())
    truth = np.asarray(with_and_without[1].plaque_ras_mm[0]) + plan.exams[0].origin_ras_mm
    off = np.abs((found - truth) @ grid.directions) / grid.spacing_mm
    assert off.max() < 0.6, off
    painted = float(anatomy.plaque_signal.sum(dtype=np.float64)) * anatomy.grid.voxel_volume_mm3
    assert plaque.sum() * grid.voxel_volume_mm3 == pytest.approx(painted, rel=0.2)


def test_two_thicknesses_may_overlap_where_they_meet() -> None:
    steps = set()
    for number in (2, 6, 10, 14, 18):
        stack = plan_hospital_patient(SEED, number, 96).exams[0].series[1].stack
        assert stack is not None
        z = stack.centers_mm[:, 2]
        steps.add(round(float(np.diff(z)[np.diff(stack.thicknesses_mm) != 0].min(initial=9)), 2))
    assert 1.14 in steps
    assert len(steps) > 1


def test_a_patient_is_the_same_bytes_each_time(tmp_path: Path) -> None:
    def digests(folder: Path) -> dict[str, str]:
        files = [f for f in folder.rglob("*") if f.is_file()]
        return {str(f.relative_to(folder)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}

    rows = [make_patient(9, tmp_path / name, SEED, MATRIX) for name in ("a", "b")]
    assert rows[0] == rows[1]
    assert digests(tmp_path / "a") == digests(tmp_path / "b") != {}
    plans = [plan_hospital_patient(SEED, number, MATRIX) for number in (0, 1)]
    assert plans[0].exams[0].date != plans[1].exams[0].date


def test_a_finished_export_is_returned_and_another_refused(export: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hospital, "make_patient", None)
    assert make_hospital_export(export, len(TROUBLES), SEED, matrix=MATRIX) == export / "expected.csv"
    with pytest.raises(UserError, match="seed is 5 there and 6 here"):
        make_hospital_export(export, len(TROUBLES), 6, matrix=MATRIX)
    with pytest.raises(UserError, match="matrix is 12; expected from 64 to 1024"):
        make_hospital_export(export, len(TROUBLES), SEED, matrix=12)


def test_every_trouble_meets_every_protocol() -> None:
    met = set()
    for number in range(4 * len(TROUBLES)):
        plan = plan_hospital_patient(0, number, MATRIX)
        main = plan.exams[0].series
        parts = sum(s.code == "joined" for s in main)
        thicknesses = {len(set(s.stack.thicknesses_mm.tolist())) for s in main if s.stack is not None}
        protocol = "helical" if any(s.code == "reformat" for s in main) else (parts, max(thicknesses))
        met.add((TROUBLES[number % len(TROUBLES)], protocol))
    assert len(met) == 4 * len(TROUBLES)


def test_a_copy_comes_after_its_original() -> None:
    for seed in range(6):
        plan = plan_hospital_patient(seed, TROUBLES.index("twice"), MATRIX)
        original, copy = (s for s in plan.exams[0].series if s.number in (20, 21))
        assert copy.defect == "copied"
        assert series_uid(plan, 0, original) < series_uid(plan, 0, copy)


def test_a_folder_of_simulated_dicom_is_known_by_its_files(export: Path, tmp_path: Path) -> None:
    assert is_phantom_image(export / "dicom")
    file = next(f for f in (export / "dicom").rglob("*.dcm"))
    header = pydicom.dcmread(file, stop_before_pixels=True)
    assert not is_phantom_image(tmp_path)
    header.save_as(tmp_path / "a")
    assert is_phantom_image(tmp_path)
    header.ManufacturerModelName = "a real scanner"
    header.save_as(tmp_path / "b")
    assert not is_phantom_image(tmp_path)
