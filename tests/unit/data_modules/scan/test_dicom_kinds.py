"""What is a CT slice in HU, and what else lies among them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest

from data_modules.errors import UserError
from data_modules.scan.reading import read_scan
from tests.dicom_series import COLUMNS, ROWS, START, field_errors, remarks, stepping, write_series, write_slice

STEPS = np.arange(6) * 3.0


@pytest.mark.parametrize(
    ("tags", "named"),
    [
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7"}, "Secondary Capture Image Storage (expected CT Image Storage)"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.128"}, "Positron Emission Tomography Image Storage"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.88.67"}, "X-Ray Radiation Dose SR Storage"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.2.1"}, "convert it with dcm2niix"),
        ({"SOPClassUID": "1.3.46.670589.1"}, "an unknown storage class (expected CT Image Storage)"),
        ({"Modality": "MR"}, "modality MR"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, "localizer"),
        ({"ImageType": ["DERIVED", "SECONDARY", "SCREEN SAVE"]}, "screen save, dose report or summary"),
        ({"ImageType": ["DERIVED", "SECONDARY", "OTHER", "CT_SOM5 PROT"]}, "screen save, dose report or summary"),
        ({"ImageType": ["DERIVED", "SECONDARY", "AXIAL", "CT_SOM7 MIP"]}, "projection or rendering"),
        ({"ImageType": ["DERIVED", "SECONDARY", "REFORMATTED", "MIN IP"]}, "projection or rendering"),
        ({"ImageType": ["DERIVED", "SECONDARY", "AXIAL", "IODINE"]}, "map of a material or a parameter"),
        ({"ImageType": None, "SeriesDescription": "Topogram 0.6 T20f"}, "localizer, screen save"),
        ({"ImageType": ["DERIVED", "SECONDARY", "SUBTRACTION"]}, "map of a material or a parameter"),
        ({"ImageType": ["DERIVED", "SECONDARY", "AXIAL", "BONE_REMOVAL"]}, "map of a material or a parameter"),
        ({"RescaleType": "MGML"}, "RescaleType MGML (expected HU)"),
        ({"RescaleType": "Z_EFF"}, "RescaleType Z_EFF (expected HU)"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "colour image"),
    ],
)
def test_what_is_no_ct_slice_is_named(tmp_path: Path, tags: dict[str, Any], named: str) -> None:
    write_series(tmp_path / "alone", stepping(START, STEPS), **{k: [v] * 6 for k, v in tags.items()})
    with pytest.raises(UserError) as caught:
        read_scan(tmp_path / "alone")
    assert "no CT slice to read (6 × " in str(caught.value)
    assert named in str(caught.value)
    write_series(tmp_path / "among", stepping(START, STEPS))
    write_slice(tmp_path / "among" / "x.dcm", np.full((ROWS, COLUMNS), 3000.0), (-14.0, -13.0, 45.0), **tags)
    scan = read_scan(tmp_path / "among")
    assert scan.hu.shape[2] == 6
    assert field_errors(scan).max() <= 0.51
    assert "1 files left out: " in remarks(scan)
    assert named in remarks(scan)


@pytest.mark.parametrize(
    ("tags", "remark"),
    [
        ({"RescaleType": "US"}, "RescaleType is US"),
        ({"ContrastBolusAgent": "non-ionic 350"}, "contrast was given"),
        ({"ContrastBolusVolume": 80}, "contrast was given"),
        ({"ContrastBolusAgent": "OMNIPAQUE 350"}, "contrast was given (ContrastBolusAgent is filled)"),
        ({"ImageType": [["DERIVED", "SECONDARY", "REFORMATTED"]] * 6}, "reformatted from other slices"),
        (
            {"LossyImageCompression": "01", "LossyImageCompressionRatio": 12.5},
            "lossy compression (ratio 12.5 to 1)",
        ),
        ({"LossyImageCompression": "01"}, "lossy compression (ratio unknown)"),
    ],
)
def test_what_a_reader_should_know_of_a_ct_slice(tmp_path: Path, tags: dict[str, Any], remark: str) -> None:
    write_series(tmp_path, stepping(START, STEPS), **tags)
    scan = read_scan(tmp_path)
    assert field_errors(scan).max() <= 0.51
    (warning,) = scan.warnings
    assert warning.startswith(remark)
    assert "OMNIPAQUE" not in warning


def test_a_remark_on_some_slices_counts_them(tmp_path: Path) -> None:
    write_series(tmp_path, stepping(START, STEPS), ContrastBolusAgent=["", "NONE", "Iomeron", "Iomeron", "", ""])
    (warning,) = read_scan(tmp_path).warnings
    assert warning.endswith("(2 of 6 slices)")


@pytest.mark.parametrize(
    "tags",
    [
        {"RescaleType": "HU"},
        {"RescaleType": ""},
        {"ContrastBolusAgent": "None"},
        {"ContrastBolusAgent": ""},
        {"ContrastBolusAgent": "without contrast", "ContrastBolusVolume": 0},
        {"ContrastBolusAgent": "NO IV CONTRAST"},
        {"RescaleType": "Hounsfield Units"},
        {"LossyImageCompression": "00"},
        {"SeriesDescription": "HEAD AFTER SCOUT"},
        {"ImageType": [["ORIGINAL", "PRIMARY", "AXIAL", "CT_SOM5 SPI"]] * 6},
    ],
)
def test_ordinary_headers_carry_no_remark(tmp_path: Path, tags: dict[str, Any]) -> None:
    write_series(tmp_path, stepping(START, STEPS), **tags)
    assert read_scan(tmp_path).warnings == ()


def test_without_storage_class_the_modality_is_believed(tmp_path: Path) -> None:
    write_series(tmp_path, stepping(START, STEPS))
    for path in tmp_path.glob("*.dcm"):
        header = pydicom.dcmread(path)
        del header.SOPClassUID, header.file_meta.MediaStorageSOPClassUID
        header.save_as(path)
    scan = read_scan(tmp_path)
    assert field_errors(scan).max() <= 0.51
    assert "no SOPClassUID: taken for CT images by their modality" in remarks(scan)
