"""What headers say, and which files are left out for what they say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ImplicitVRLittleEndian

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
        "1 single images with a geometry of their own",
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
