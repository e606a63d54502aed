"""One CT series from a folder of DICOM files: which files belong together, their pixels in HU and their places.

Geometry comes from each slice's own ImagePositionPatient and ImageOrientationPatient (DICOM PS3.3 C.7.6.2), never
from slice numbers, SliceLocation or a constant spacing. Header tags that tell about the patient are not read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import SimpleITK as sitk
from numpy.typing import NDArray
from pydicom.errors import InvalidDicomError
from tqdm import tqdm

from data_modules.errors import UserError
from data_modules.scan.geometry import AIR_HU
from data_modules.scan.slices import SAME_PLACE_MM, SliceStack

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
_SAME_DIRECTION = 0.005  # largest difference of direction cosines within a stack, about 0.3°
_LONGEST_SCAN_MM = 2500.0


@dataclass(frozen=True, eq=False, kw_only=True)
class DicomSeries:
    """The slices of one series.

    Attributes:
        stack: its slices, each at its place.
        kernel: convolution kernel (values of a multi-valued tag joined by "/").
        manufacturer: of the scanner.
        gantry_tilt_deg: as the header has it; None where it has none.
        warnings: what was left out and why.
    """

    stack: SliceStack
    kernel: str
    manufacturer: str
    gantry_tilt_deg: float | None
    warnings: tuple[str, ...]


@dataclass(frozen=True, eq=False, kw_only=True)
class _Slice:
    path: Path
    series_uid: str
    series_number: int
    acquisition: int
    instance: int
    position: NDArray[np.float64]  # LPS, as in the header
    x_direction: NDArray[np.float64]
    y_direction: NDArray[np.float64]
    shape: tuple[int, int]  # rows, columns
    pixel_mm: tuple[float, float]  # x, y
    slope: float
    intercept: float
    padding_hu: tuple[float, float] | None
    thickness_mm: float
    kernel: str
    manufacturer: str
    tilt_deg: float | None


def read_dicom(folder: Path, series: str | None = None) -> DicomSeries:
    """The CT series in a folder (searched with its sub-folders).

    Localizers, other modalities, colour images and images without a place in space are left out. Slices of one
    series that differ in orientation, matrix or pixel spacing count as separate series, for they make no volume.

    Args:
        folder: where the files are.
        series: which series, where there are several: its number in the list that the error shows (from 1), or the
            end of its SeriesInstanceUID.

    Raises:
        UserError: no CT slice; several series and none chosen; a slice that cannot be decoded.
    """
    slices, left_out = _read_headers(folder)
    if not slices:
        found = ", ".join(f"{count} × {reason}" for reason, count in sorted(left_out.items())) or "no file at all"
        raise UserError(
            f"{folder}: no CT slice to read ({found}). Expected a folder of DICOM files of one CT series "
            "(Modality CT, one grey image a file, with ImagePositionPatient, ImageOrientationPatient, PixelSpacing)."
        )
    warnings = [f"{count} files left out: {reason}" for reason, count in sorted(left_out.items())]
    stacks = _group(slices)
    whole = [stack for stack in stacks if len(stack) > 1]
    if whole and len(whole) < len(stacks):
        warnings.append(f"{len(stacks) - len(whole)} single images with a geometry of their own left out")
        stacks = whole
    chosen = _choose(stacks, series, folder)
    kernels = Counter(s.kernel for s in chosen)
    kernel = kernels.most_common(1)[0][0]
    if len(kernels) > 1:
        warnings.append(f"several kernels in one series: {', '.join(sorted(k or 'unnamed' for k in kernels))}")
    stack = _stack(chosen, kernel, warnings)
    return DicomSeries(
        stack=stack,
        kernel=kernel,
        manufacturer=chosen[0].manufacturer,
        gantry_tilt_deg=chosen[0].tilt_deg,
        warnings=tuple(warnings),
    )


def _read_headers(folder: Path) -> tuple[list[_Slice], Counter[str]]:
    """All usable CT slices below a folder, and how many files were left out for which reason."""
    slices: list[_Slice] = []
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
            found = _slice(path, header)
        except (ValueError, TypeError, AttributeError, IndexError):
            found = "a header with unreadable numbers"
        if isinstance(found, str):
            left_out[found] += 1
        else:
            slices.append(found)
    return slices, left_out


def _read_header(path: Path) -> pydicom.Dataset:
    try:
        return pydicom.dcmread(path, stop_before_pixels=True, specific_tags=_TAGS)
    except InvalidDicomError:  # old exports lack the preamble; what is DICOM all the same names its class
        header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=_TAGS, force=True)
        if "SOPClassUID" not in header or "Modality" not in header:
            raise
        return header


def _slice(path: Path, header: pydicom.Dataset) -> _Slice | str:
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
    return _Slice(
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


def _group(slices: list[_Slice]) -> list[list[_Slice]]:
    """Slices that can make one volume: same series, matrix, pixel spacing and orientation."""
    stacks: list[list[_Slice]] = []
    for item in slices:
        for stack in stacks:
            first = stack[0]
            if (
                (item.series_uid, item.shape) == (first.series_uid, first.shape)
                and np.allclose(item.pixel_mm, first.pixel_mm, rtol=1e-3)
                and np.abs(item.x_direction - first.x_direction).max() <= _SAME_DIRECTION
                and np.abs(item.y_direction - first.y_direction).max() <= _SAME_DIRECTION
            ):
                stack.append(item)
                break
        else:
            stacks.append([item])
    return sorted(stacks, key=lambda stack: (stack[0].series_number, stack[0].series_uid, -len(stack)))


def _choose(stacks: list[list[_Slice]], series: str | None, folder: Path) -> list[_Slice]:
    """The stack that `series` names, or the only one."""
    if series is None:
        matches = stacks
    elif series.isdecimal() and 1 <= int(series) <= len(stacks):
        matches = [stacks[int(series) - 1]]
    else:
        matches = [stack for stack in stacks if series and stack[0].series_uid.endswith(series)]
    if len(matches) == 1:
        return matches[0]
    listed = "\n".join(f"  {i}: {_describe(stack)}" for i, stack in enumerate(stacks, start=1))
    finding = f"{len(stacks)} CT series" if series is None else f"series {series!r} fits {len(matches)} CT series"
    raise UserError(
        f"{folder}: {finding}, expected one. Choose with series=NUMBER from this list "
        f"(or the end of a SeriesInstanceUID):\n{listed}"
    )


def _describe(stack: list[_Slice]) -> str:
    thicknesses = sorted({s.thickness_mm for s in stack if np.isfinite(s.thickness_mm)})
    thickness = " and ".join(f"{t:g}" for t in thicknesses) + " mm" if thicknesses else "unknown thickness"
    normal = np.abs(np.cross(stack[0].x_direction, stack[0].y_direction))
    plane = ("sagittal", "coronal", "axial")[int(normal.argmax())]
    return f"{len(stack)} slices, {plane}, {thickness}, kernel {stack[0].kernel or 'unknown'}"


def _stack(slices: list[_Slice], kernel: str, warnings: list[str]) -> SliceStack:
    """Pixels of each position once, in order along the normal. Adds to `warnings`."""
    x = np.mean([s.x_direction for s in slices], axis=0)
    x /= np.linalg.norm(x)
    y = np.mean([s.y_direction for s in slices], axis=0)
    y -= (y @ x) * x
    y /= np.linalg.norm(y)
    normal = np.cross(x, y)
    height = {id(s): float(s.position @ normal) for s in slices}
    ordered = sorted(slices, key=lambda s: height[id(s)])
    if height[id(ordered[-1])] - height[id(ordered[0])] > _LONGEST_SCAN_MM:
        raise UserError(
            f"{ordered[-1].path}: slice positions span "
            f"{height[id(ordered[-1])] - height[id(ordered[0])]:.0f} mm, more than any scanner's table; "
            "ImagePositionPatient of some slice is wrong. Remove that slice."
        )
    places: list[list[_Slice]] = []
    for item in ordered:
        if places and height[id(item)] - height[id(places[-1][0])] <= SAME_PLACE_MM:
            places[-1].append(item)
        else:
            places.append([item])
    planes: NDArray[Any] = np.empty((len(places), *slices[0].shape), dtype=np.int16)
    kept: list[_Slice] = []
    copies = conflicts = 0
    for k, place in enumerate(tqdm(places, desc="slices", unit="slice", disable=None, leave=False)):
        place.sort(
            key=lambda s: (
                np.nan_to_num(s.thickness_mm, nan=np.inf),
                s.kernel != kernel,
                s.acquisition,
                s.instance,
                str(s.path),
            )
        )
        hu = _read_hu(place[0])
        for other in place[1:]:
            if np.array_equal(_read_hu(other), hu):
                copies += 1
            else:
                conflicts += 1
        if hu.dtype != np.int16 and planes.dtype == np.int16:
            planes = planes.astype(np.float32)
        planes[k] = hu
        kept.append(place[0])
    if copies:
        warnings.append(f"{copies} duplicated slices left out")
    if conflicts:
        warnings.append(
            f"{conflicts} slices left out that differ from another at the same position "
            "(kept: the thinnest, then of the main kernel, then the first acquired)"
        )
    if len(kept) == 1:
        warnings.append("the series has only one slice")
    to_ras = np.array([-1.0, -1.0, 1.0])
    return SliceStack(
        planes=planes,
        positions_mm=np.stack([s.position for s in kept]) * to_ras,
        x_direction=x * to_ras,
        y_direction=y * to_ras,
        pixel_mm=slices[0].pixel_mm,
        thicknesses_mm=np.array([s.thickness_mm for s in kept]),
    )


def _read_hu(item: _Slice) -> NDArray[Any]:
    """`[rows, columns]` HU, int16 where they are whole numbers, else float32; padding and anything lower is air."""
    try:
        hu = pydicom.dcmread(item.path, force=True).pixel_array * np.float64(item.slope) + item.intercept
    except Exception as first_error:  # decoders raise what they like; GDCM knows more compressions than pydicom
        try:
            hu = sitk.GetArrayFromImage(sitk.ReadImage(str(item.path)))[0].astype(np.float64)  # rescaled already
        except RuntimeError:
            reason = str(first_error).splitlines()[0] if str(first_error) else type(first_error).__name__
            raise UserError(
                f"{item.path}: the pixels cannot be decoded ({reason}). The file is truncated or damaged, or "
                "compressed in an unknown way: copy it again, or remove it to go on without this slice."
            ) from first_error
    if item.padding_hu is not None:
        low, high = item.padding_hu
        hu[(hu >= low - 1e-3) & (hu <= high + 1e-3)] = AIR_HU
    return whole_hu(hu)


def whole_hu(hu: NDArray[np.float64]) -> NDArray[Any]:
    """HU kept within [−1024, 32767], as int16 where all are whole numbers, else float32."""
    hu = np.clip(hu, AIR_HU, np.iinfo(np.int16).max)
    rounded = np.rint(hu)
    return rounded.astype(np.int16) if np.abs(hu - rounded).max(initial=0) <= 1e-3 else hu.astype(np.float32)
