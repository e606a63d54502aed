"""What headers say, and which files are left out for what they say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ImplicitVRLittleEndian

from data_modules.errors import UserError
from data_modules.scan.reading import read_scan
from tests.dicom_series import (
    AXIAL,
    COLUMNS,
    ROWS,
    START,
    field,
    field_errors,
    remarks,
    stepping,
    write_series,
    write_slice,
)


def test_padding_written_unsigned_though_pixels_are_signed(tmp_path: Path) -> None:
    def scene(p: np.ndarray) -> np.ndarray:
        hu = field(p)
        hu[:3] = -950.0
        return hu

    write_series(tmp_path, stepping(START, np.arange(3) * 3.0), scene=scene, RescaleIntercept=0)
    for path in tmp_path.glob("*.dcm"):
        header = pydicom.dcmread(path)
        header.add_new("PixelPaddingValue", "US", 65536 - 950)
        header.save_as(path)
    hu = read_scan(tmp_path).hu
    assert (hu[:, :3] == -1024).all()
    assert (hu[:, 3:] > -950).all()


def test_padding_range_and_padding_of_zero(tmp_path: Path) -> None:
    def scene(p: np.ndarray) -> np.ndarray:
        hu = np.zeros(p.shape[:2])
        hu[:6] = np.linspace(3050, 3060, 6)[:, None]
        hu[6:8] = -900.0
        return hu

    write_series(
        tmp_path / "range",
        stepping(START, np.arange(3) * 3.0),
        scene=scene,
        RescaleIntercept=0,
        PixelPaddingValue=3050,
        PixelPaddingRangeLimit=3060,
    )
    hu = read_scan(tmp_path / "range").hu
    assert (hu[:, :6] == -1024).all()
    assert (hu[:, 8:] == 0).all()
    # water is stored as 0 and the header calls 0 padding: water stays
    write_series(
        tmp_path / "zero", stepping(START, np.arange(3) * 3.0), scene=scene, RescaleIntercept=0, PixelPaddingValue=0
    )
    hu = read_scan(tmp_path / "zero").hu
    assert (hu[:, 8:] == 0).all()
    assert (hu[:, 6:8] == -900).all()


def test_what_is_no_ct_slice_is_left_out_and_counted(tmp_path: Path) -> None:
    write_series(tmp_path, stepping(START, np.arange(4) * 3.0))
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "notes.txt").write_text("not DICOM")
    (tmp_path / "DICOMDIR").write_text("index")
    one = stepping(START, [50.0])
    others: dict[str, dict[str, Any]] = {
        "localizer": {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]},
        "mr": {"Modality": "MR"},
        "rgb": {"SamplesPerPixel": 3},
        "frames": {"NumberOfFrames": 4},
        "nowhere": {"ImagePositionPatient": None},
        "empty": {"Rows": None},
        "skewed": {},
    }
    for name, tags in others.items():
        orientation = (1, 0, 0, 0.5, 0.5, 0) if name == "skewed" else AXIAL
        position, hu = one[0], np.zeros((ROWS, COLUMNS))
        write_slice(tmp_path / f"{name}.dcm", hu, position, orientation, **{"SeriesInstanceUID": "1.9", **tags})
    write_slice(tmp_path / "single.dcm", np.zeros((ROWS, COLUMNS)), START, (0, 1, 0, 0, 0, -1), SeriesInstanceUID="1.8")
    scan = read_scan(tmp_path)
    assert scan.hu.shape[2] == 4
    text = remarks(scan)
    for reason in (
        "localizer",
        "modality MR",
        "colour image",
        "multi-frame",
        "no position",
        "no image",
        "right-angled unit vectors",
        "not readable as DICOM",
        "1 single images with a geometry or an acquisition of their own",
    ):
        assert reason in text


def test_file_without_preamble_is_read(tmp_path: Path) -> None:
    write_series(tmp_path, stepping(START, np.arange(3) * 3.0))
    for path in tmp_path.glob("*.dcm"):
        header = pydicom.dcmread(path)
        header.file_meta = FileMetaDataset()
        header.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
        header.preamble = None
        pydicom.dcmwrite(path, header, enforce_file_format=False, implicit_vr=True, little_endian=True)
        content = path.read_bytes()
        assert content[128:132] != b"DICM"
    scan = read_scan(tmp_path)
    assert field_errors(scan).max() <= 0.51


def change_value(folder: Path, tag: bytes, value: bytes) -> None:
    """Put `value` behind a tag and its VR in every file, as careless software writes it."""
    for path in folder.glob("*.dcm"):
        content = path.read_bytes()
        at = content.index(tag) + 6
        length = int.from_bytes(content[at : at + 2], "little")
        value += b" " * (len(value) % 2)
        path.write_bytes(content[:at] + len(value).to_bytes(2, "little") + value + content[at + 2 + length :])


THICKNESS = b"\x18\x00\x50\x00DS"


@pytest.mark.parametrize("value", [b"4,0", b"4,000", b" 4.0 "])
def test_decimal_comma_in_a_thickness(tmp_path: Path, value: bytes) -> None:
    write_series(tmp_path, stepping(START, np.arange(3) * 3.0))
    change_value(tmp_path, THICKNESS, value)
    scan = read_scan(tmp_path)
    assert (scan.slice_thickness_mm, scan.thickness_from) == (4.0, "file")
    assert scan.warnings == ()


@pytest.mark.parametrize("value", [b"thick", b"nan", b"4,0,0", b"4\\5"])
def test_thickness_that_is_no_number_is_unknown_and_named(tmp_path: Path, value: bytes) -> None:
    write_series(tmp_path, stepping(START, np.arange(3) * 3.0))
    change_value(tmp_path, THICKNESS, value)
    scan = read_scan(tmp_path)
    assert scan.slice_thickness_mm == pytest.approx(3.0)
    assert "SliceThickness is not " in remarks(scan)
    assert "slice thickness unknown" in remarks(scan)
    assert read_scan(tmp_path, slice_thickness_mm=5.0).slice_thickness_mm == 5.0


@pytest.mark.parametrize(
    ("tag", "value", "named"),
    [
        (b"\x28\x00\x30\x00DS", b"wide\\0.7", "PixelSpacing is not a number"),
        (b"\x20\x00\x32\x00DS", b"1\\2\\x", "ImagePositionPatient is not a number"),
        (b"\x28\x00\x52\x10DS", b"-1,024", "RescaleIntercept is not a number"),  # a comma may part thousands
        (b"\x28\x00\x53\x10DS", b"inf", "RescaleSlope is not a finite number"),
    ],
)
def test_unreadable_numbers_are_named(tmp_path: Path, tag: bytes, value: bytes, named: str) -> None:
    write_series(tmp_path, stepping(START, np.arange(3) * 3.0))
    change_value(tmp_path, tag, value)
    with pytest.raises(UserError, match=rf"3 × a header with unreadable numbers \({named}\)"):
        read_scan(tmp_path)


def test_decimal_comma_in_positions(tmp_path: Path) -> None:
    write_series(tmp_path, stepping(START, np.arange(3) * 3.0))
    for path, height in zip(sorted(tmp_path.glob("*.dcm")), pydicom_heights(tmp_path), strict=True):
        content = path.read_bytes()
        position = f"-14,0\\-13,0\\{height:.1f}".replace(".", ",").encode()
        at = content.index(b"\x20\x00\x32\x00DS") + 6
        length = int.from_bytes(content[at : at + 2], "little")
        position += b" " * (len(position) % 2)
        path.write_bytes(content[:at] + len(position).to_bytes(2, "little") + position + content[at + 2 + length :])
    assert field_errors(read_scan(tmp_path)).max() <= 0.51


def pydicom_heights(folder: Path) -> list[float]:
    return [float(pydicom.dcmread(path).ImagePositionPatient[2]) for path in sorted(folder.glob("*.dcm"))]


def test_padding_of_two_values_does_not_spoil_the_header(tmp_path: Path) -> None:
    write_series(tmp_path, stepping(START, np.arange(3) * 3.0), PixelPaddingValue=[[-2000, -1999]] * 3)
    assert field_errors(read_scan(tmp_path)).max() <= 0.51


def test_a_file_that_may_not_be_opened_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_series(tmp_path, stepping(START, np.arange(8) * 3.0))
    dcmread = pydicom.dcmread

    def guarded(path: Path, **options: Any) -> Any:
        if path.name == "s003.dcm":
            raise PermissionError(13, "Permission denied")
        return dcmread(path, **options)

    monkeypatch.setattr(pydicom, "dcmread", guarded)
    assert "1 files left out: cannot be opened (Permission denied)" in remarks(read_scan(tmp_path))
