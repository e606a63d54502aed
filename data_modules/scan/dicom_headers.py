"""The headers of DICOM files: which hold a CT slice, and what they say of its place, its HU and its thickness.

Tags that tell about the patient are not read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.errors import InvalidDicomError
from tqdm import tqdm

_TAGS: list[Any] = [
    "SOPClassUID",
    "Modality",
    "ImageType",
    "SeriesInstanceUID",
    "SeriesNumber",
    "AcquisitionNumber",
    "InstanceNumber",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
    "Rows",
    "Columns",
    "SamplesPerPixel",
    "NumberOfFrames",
    "PixelRepresentation",
    "BitsAllocated",
    "RescaleSlope",
    "RescaleIntercept",
    "PixelPaddingValue",
    "PixelPaddingRangeLimit",
    "SliceThickness",
    "ConvolutionKernel",
    "Manufacturer",
    "GantryDetectorTilt",
]


@dataclass(frozen=True, eq=False, kw_only=True)
class SliceHeader:
    """What the header of one CT slice says.

    Attributes:
        path: its file.
        series_uid: SeriesInstanceUID; empty where there is none.
        series_number: 0 where there is none; so are `acquisition` and `instance`.
        position: `[3]`, centre of pixel (0, 0), LPS mm as in the header.
        x_direction: `[3]`, along a row, LPS; `y_direction` along a column.
        shape: rows, columns.
        pixel_mm: spacing along x and y.
        slope: HU a stored unit; `intercept`: HU of a stored 0.
        padding_hu: lowest and highest HU of what is no image; None: no padding.
        thickness_mm: NaN where unknown.
        kernel: values of a multi-valued tag joined by "/".
        tilt_deg: of the gantry; None where the header has none.
    """

    path: Path
    series_uid: str
    series_number: int
    acquisition: int
    instance: int
    position: NDArray[np.float64]
    x_direction: NDArray[np.float64]
    y_direction: NDArray[np.float64]
    shape: tuple[int, int]
    pixel_mm: tuple[float, float]
    slope: float
    intercept: float
    padding_hu: tuple[float, float] | None
    thickness_mm: float
    kernel: str
    manufacturer: str
    tilt_deg: float | None


def read_headers(folder: Path) -> tuple[list[SliceHeader], Counter[str]]:
    """All usable CT slices below a folder, and how many files were left out for which reason."""
    slices: list[SliceHeader] = []
    left_out: Counter[str] = Counter()
    files = sorted(p for p in folder.rglob("*") if p.is_file() and not p.name.startswith("."))
    for path in tqdm(files, desc="headers", unit="file", disable=None, leave=False):
        if path.name == "DICOMDIR":
            continue
        try:
            header = _read_header(path)
        except (InvalidDicomError, OSError, EOFError, ValueError, TypeError, KeyError, AttributeError):
            left_out["not readable as DICOM"] += 1
            continue
        try:
            result = _slice(path, header)
        except (ValueError, TypeError, AttributeError, IndexError):
            result = "a header with unreadable numbers"
        if isinstance(result, str):
            left_out[result] += 1
        else:
            slices.append(result)
    return slices, left_out


def _read_header(path: Path) -> pydicom.Dataset:
    try:
        return pydicom.dcmread(path, stop_before_pixels=True, specific_tags=_TAGS)
    except InvalidDicomError:  # old exports lack the preamble; what is DICOM all the same names its class
        header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=_TAGS, force=True)
        if "SOPClassUID" not in header or "Modality" not in header:
            raise
        return header


def _slice(path: Path, header: pydicom.Dataset) -> SliceHeader | str:
    """What is needed of a header, or the reason for which the image is of no use."""
    modality = str(header.get("Modality", "") or "none")
    if modality != "CT":
        return f"modality {modality} (expected CT)"
    if any(str(part).upper() in ("LOCALIZER", "SCOUT") for part in _values(header.get("ImageType"))):
        return "localizer"
    if not header.get("Rows"):
        return "no image"
    if int(header.get("SamplesPerPixel", 1)) != 1:
        return "colour image (expected one grey value a pixel)"
    if int(header.get("NumberOfFrames", None) or 1) > 1:
        return "multi-frame image (expected one slice a file; convert it with dcm2niix)"
    position = _numbers(header.get("ImagePositionPatient"))
    orientation = _numbers(header.get("ImageOrientationPatient"))
    pixel = _numbers(header.get("PixelSpacing"))
    if len(position) != 3 or len(orientation) != 6 or len(pixel) != 2 or min(pixel) <= 0:
        return "no position, orientation or pixel spacing"
    x, y = np.asarray(orientation[:3]), np.asarray(orientation[3:])
    if abs(np.linalg.norm(x) - 1) > 0.01 or abs(np.linalg.norm(y) - 1) > 0.01 or abs(x @ y) > 0.01:
        return "image orientation not of right-angled unit vectors"
    slope, intercept = _number(header, "RescaleSlope", 1.0), _number(header, "RescaleIntercept", 0.0)
    thickness = _number(header, "SliceThickness", np.nan)
    tilt = _number(header, "GantryDetectorTilt", np.nan)
    return SliceHeader(
        path=path,
        series_uid=str(header.get("SeriesInstanceUID", "")),
        series_number=int(_number(header, "SeriesNumber", 0)),
        acquisition=int(_number(header, "AcquisitionNumber", 0)),
        instance=int(_number(header, "InstanceNumber", 0)),
        position=np.asarray(position),
        x_direction=x,
        y_direction=y,
        shape=(int(header.Rows), int(header.Columns)),
        pixel_mm=(pixel[1], pixel[0]),  # PixelSpacing is (between rows, between columns)
        slope=slope,
        intercept=intercept,
        padding_hu=_padding_hu(header, slope, intercept),
        thickness_mm=thickness if thickness > 0 else np.nan,
        kernel="/".join(str(part) for part in _values(header.get("ConvolutionKernel"))),
        manufacturer=str(header.get("Manufacturer", "") or "").strip(),
        tilt_deg=None if np.isnan(tilt) else tilt,
    )


def _values(value: Any) -> Sequence[Any]:
    """A DICOM value as a sequence: empty, single or multi-valued."""
    if value is None or value == "":
        return []
    return [value] if isinstance(value, str) or not isinstance(value, Sequence) else value


def _numbers(value: Any) -> list[float]:
    numbers = [float(v) for v in _values(value)]
    return numbers if np.isfinite(numbers).all() else []


def _number(header: pydicom.Dataset, keyword: str, default: float) -> float:
    values = _values(header.get(keyword))
    return float(values[0]) if len(values) else default


def _padding_hu(header: pydicom.Dataset, slope: float, intercept: float) -> tuple[float, float] | None:
    """HU range of the padding, None without one.

    Scanners have been seen to declare a padding value of 0 while 0 is water: what lies within the range of tissue is
    not taken for padding.
    """
    value = header.get("PixelPaddingValue")
    if value is None or value == "":
        return None
    stored = []
    for number in (value, header.get("PixelPaddingRangeLimit", value)):
        raw = int.from_bytes(number, "little") if isinstance(number, bytes) else int(number)
        bits = int(header.get("BitsAllocated", 16))
        raw %= 1 << bits  # written as US where the pixels are SS, or the other way round
        if int(header.get("PixelRepresentation", 0)) == 1 and raw >= 1 << (bits - 1):
            raw -= 1 << bits
        stored.append(raw * slope + intercept)
    low, high = min(stored), max(stored)
    return (low, high) if high <= -900 or low >= 3000 else None
