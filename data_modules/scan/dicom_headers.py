"""The headers of DICOM files: which hold a CT slice, and what they say of its place, its HU and its thickness.

Tags that tell about the patient are not read. SeriesDescription is read, for a list of series to choose from, but kept
out of everything that is written.
"""

from __future__ import annotations

import re
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

from data_modules.scan.dicom_files import files_below
from data_modules.scan.dicom_kinds import not_a_ct_slice, remarks_on_kind, storage_class
from data_modules.scan.dicom_tags import UnreadableTag, is_filled, number, numbers, raw_value, text, whole

_TAGS: list[Any] = [
    "SOPClassUID",
    "Modality",
    "ImageType",
    "SeriesInstanceUID",
    "SeriesNumber",
    "SeriesDescription",
    "AcquisitionNumber",
    "AcquisitionTime",
    "AcquisitionDateTime",
    "TemporalPositionIdentifier",
    "InstanceNumber",
    "FrameOfReferenceUID",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "SliceLocation",
    "PixelSpacing",
    "Rows",
    "Columns",
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "NumberOfFrames",
    "PixelRepresentation",
    "BitsAllocated",
    "RescaleSlope",
    "RescaleIntercept",
    "RescaleType",
    "PixelPaddingValue",
    "PixelPaddingRangeLimit",
    "SliceThickness",
    "ConvolutionKernel",
    "Manufacturer",
    "GantryDetectorTilt",
    "ContrastBolusAgent",
    "ContrastBolusAgentSequence",
    "ContrastBolusVolume",
    "ContrastBolusTotalDose",
    "LossyImageCompression",
    "LossyImageCompressionRatio",
]
_NO_CONTRAST = re.compile(
    r"|N|N/A|NA|NULL|0|-|(NONE|NO|NOT|NATIVE|WITHOUT|W/O|UNENHANCED|NON[ -]?(CONTRAST|ENHANCED))\b.*", re.DOTALL
)
_LOSSY_SYNTAXES = {"1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51", "1.2.840.10008.1.2.4.81"}
_PERHAPS_LOSSY_SYNTAXES = {"1.2.840.10008.1.2.4.91", "1.2.840.10008.1.2.4.93", "1.2.840.10008.1.2.4.203"}
NOT_DICOM = "not readable as DICOM"
"""Why a file is left out that is none of DICOM's, or damaged from its beginning."""
_CONTRAST = "contrast was given (ContrastBolusAgent is filled): bright arteries need not be calcium"


@dataclass(frozen=True, eq=False, kw_only=True)
class SliceHeader:
    """What the header of one CT slice says.

    Attributes:
        path: its file.
        series_uid: SeriesInstanceUID; empty where there is none.
        series_number: 0 where there is none; so are `acquisition`, `temporal_position` and `instance`.
        description: of the series; may hold anything, so it is shown and never kept.
        acquired_at: AcquisitionDateTime or AcquisitionTime; empty where there is neither.
        frame_of_reference: FrameOfReferenceUID; empty where there is none.
        position: `[3]`, centre of pixel (0, 0), LPS mm as in the header.
        x_direction: `[3]`, along a row, LPS; `y_direction` along a column.
        location_mm: SliceLocation, only to contradict `position`; NaN where unknown.
        shape: rows, columns.
        pixel_mm: spacing along x and y.
        slope: HU a stored unit; `intercept`: HU of a stored 0. NaN where the header has none.
        padding_hu: lowest and highest HU of what is no image; None: no padding.
        thickness_mm: NaN where unknown.
        kernel: values of a multi-valued tag joined by "/".
        tilt_deg: of the gantry; None where the header has none.
        contrast: whether contrast was given.
        remarks: what a reader of results should know, alike for slices alike.
    """

    path: Path
    series_uid: str
    series_number: int
    description: str
    frame_of_reference: str
    acquisition: int
    temporal_position: int
    acquired_at: str
    instance: int
    position: NDArray[np.float64]
    x_direction: NDArray[np.float64]
    y_direction: NDArray[np.float64]
    location_mm: float
    shape: tuple[int, int]
    pixel_mm: tuple[float, float]
    slope: float
    intercept: float
    padding_hu: tuple[float, float] | None
    thickness_mm: float
    kernel: str
    manufacturer: str
    tilt_deg: float | None
    contrast: bool
    remarks: tuple[str, ...]


def read_headers(folder: Path) -> tuple[list[SliceHeader], Counter[str]]:
    """All usable CT slices below a folder, and how many files were left out for which reason."""
    slices: list[SliceHeader] = []
    left_out: Counter[str] = Counter()
    files = [path for path in files_below(folder) if not is_set_aside(path.name)]
    for path in tqdm(files, desc="headers", unit="file", disable=None, leave=False):
        _, result = read_header(path)
        if isinstance(result, str):
            left_out[result] += 1
        else:
            slices.append(result)
    return slices, left_out


def is_set_aside(name: str) -> bool:
    """Whether a file is none of the images by its name: hidden, or the index of a medium."""
    return name.startswith(".") or name == "DICOMDIR"


def read_header(path: Path, more_tags: Sequence[str] = ()) -> tuple[pydicom.Dataset | None, SliceHeader | str]:
    """The header of a file, and the CT slice that it describes or the reason for which it describes none.

    Args:
        path: of any file.
        more_tags: keywords that the header shall hold beside those of a slice; nothing of them is in the slice.

    Returns:
        The header is None where the file cannot be read as DICOM.
    """
    try:
        header = _read_header(path, [*_TAGS, *more_tags])
    except OSError as error:
        return None, f"cannot be opened ({error.strerror})" if error.strerror else NOT_DICOM
    except Exception:  # pydicom's own, of many kinds
        return None, NOT_DICOM
    try:
        return header, not_a_ct_slice(header) or _slice(path, header)
    except UnreadableTag as error:
        return header, f"a header with unreadable numbers ({error})"


def _read_header(path: Path, tags: list[Any]) -> pydicom.Dataset:
    try:
        return pydicom.dcmread(path, stop_before_pixels=True, specific_tags=tags)
    except InvalidDicomError:  # old exports lack the preamble; what is DICOM all the same names its class
        header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=tags, force=True)
        if not storage_class(header) or not text(header, "Modality"):
            raise
        return header


def _slice(path: Path, header: pydicom.Dataset) -> SliceHeader | str:
    """What is needed of a header, or the reason for which the image is of no use.

    Raises:
        UnreadableTag: a number that is needed and cannot be read.
    """
    shape = (whole(header, "Rows"), whole(header, "Columns"))
    if min(shape) <= 0:
        unreadable = [
            key for key, n in zip(("Rows", "Columns"), shape, strict=True) if n <= 0 and is_filled(header, key)
        ]
        return f"a header with unreadable numbers ({' and '.join(unreadable)})" if unreadable else "no image"
    position = numbers(header, "ImagePositionPatient", comma=True)
    orientation = numbers(header, "ImageOrientationPatient", comma=True)
    pixel = numbers(header, "PixelSpacing", comma=True)
    if len(position) != 3 or len(orientation) != 6 or len(pixel) != 2 or min(pixel) <= 0:
        return "no position, orientation or pixel spacing"
    x, y = np.asarray(orientation[:3]), np.asarray(orientation[3:])
    if abs(np.linalg.norm(x) - 1) > 0.01 or abs(np.linalg.norm(y) - 1) > 0.01 or abs(x @ y) > 0.01:
        return "image orientation not of right-angled unit vectors"
    slope, intercept = number(header, "RescaleSlope", np.nan), number(header, "RescaleIntercept", np.nan)
    remarks = remarks_on_kind(header)
    thickness = _optional(header, "SliceThickness", remarks)
    tilt = _optional(header, "GantryDetectorTilt", remarks)
    contrast = _contrast(header)
    if contrast:
        remarks.append(_CONTRAST)
    return SliceHeader(
        path=path,
        series_uid=text(header, "SeriesInstanceUID"),
        series_number=whole(header, "SeriesNumber"),
        description=text(header, "SeriesDescription"),
        frame_of_reference=text(header, "FrameOfReferenceUID"),
        acquisition=whole(header, "AcquisitionNumber"),
        temporal_position=whole(header, "TemporalPositionIdentifier"),
        acquired_at=text(header, "AcquisitionDateTime") or text(header, "AcquisitionTime"),
        instance=whole(header, "InstanceNumber"),
        position=np.asarray(position),
        x_direction=x,
        y_direction=y,
        location_mm=_optional(header, "SliceLocation", []),
        shape=shape,
        pixel_mm=(pixel[1], pixel[0]),  # PixelSpacing is (between rows, between columns)
        slope=slope,
        intercept=intercept,
        padding_hu=_padding_hu(header, slope, intercept),
        thickness_mm=thickness if thickness > 0 else np.nan,
        kernel=text(header, "ConvolutionKernel"),
        manufacturer=text(header, "Manufacturer"),
        tilt_deg=None if np.isnan(tilt) else tilt,
        contrast=contrast,
        remarks=(*remarks, *_lossy(header)),
    )


def _optional(header: pydicom.Dataset, keyword: str, remarks: list[str]) -> float:
    """A number that a scan can do without: NaN, and a remark, where it cannot be read."""
    try:
        return number(header, keyword, np.nan, comma=True)
    except UnreadableTag as error:
        remarks.append(f"{error}: taken to be unknown")
        return np.nan


def _contrast(header: pydicom.Dataset) -> bool:
    agent = text(header, "ContrastBolusAgent").upper()
    if not _NO_CONTRAST.fullmatch(agent) or is_filled(header, "ContrastBolusAgentSequence"):
        return True
    return any(_optional(header, f"ContrastBolus{amount}", []) > 0 for amount in ("Volume", "TotalDose"))


def _lossy(header: pydicom.Dataset) -> list[str]:
    """A remark where pixels were compressed with loss, now or before (PS3.3 C.7.6.1.1.5)."""
    flag = text(header, "LossyImageCompression")
    meta = getattr(header, "file_meta", None)
    syntax = text(meta, "TransferSyntaxUID") if meta is not None else ""
    if flag != "01" and syntax not in _LOSSY_SYNTAXES and not (syntax in _PERHAPS_LOSSY_SYNTAXES and flag != "00"):
        return []
    try:
        ratios = numbers(header, "LossyImageCompressionRatio")
    except UnreadableTag:
        ratios = []
    ratio = f"{ratios[-1]:g} to 1" if ratios else "unknown"
    return [f"lossy compression (ratio {ratio}): small or faint calcium may be changed or lost"]


def _padding_hu(header: pydicom.Dataset, slope: float, intercept: float) -> tuple[float, float] | None:
    """HU range of the padding, None without one, or without one that can be read.

    Scanners have been seen to declare a padding value of 0 while 0 is water: what lies within the range of tissue is
    not taken for padding.
    """
    bits = 8 if whole(header, "BitsAllocated") == 8 else 16
    stored = []
    for keyword in ("PixelPaddingValue", "PixelPaddingRangeLimit"):
        for raw in _stored_numbers(header, keyword):
            wrapped = raw % (1 << bits)  # written as US where the pixels are SS, or the other way round
            if whole(header, "PixelRepresentation") == 1 and wrapped >= 1 << (bits - 1):
                wrapped -= 1 << bits
            stored.append(wrapped * slope + intercept)
        if not stored:
            return None
    low, high = min(stored), max(stored)
    return (low, high) if high <= -900 or low >= 3000 else None


def _stored_numbers(header: pydicom.Dataset, keyword: str) -> list[int]:
    """Pixel values that a tag holds, also as bytes, where the representation of pixels was not known to the reader."""
    try:
        return [int(n) for n in numbers(header, keyword)]
    except UnreadableTag:
        stored = raw_value(header, keyword)
        return [int.from_bytes(stored[i : i + 2], "little") for i in range(0, len(stored), 2)]
