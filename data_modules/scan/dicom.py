"""One CT series from a folder of DICOM files: which files belong together, their pixels in HU and their places.

Geometry comes from each slice's own ImagePositionPatient and ImageOrientationPatient (DICOM PS3.3 C.7.6.2), never
from slice numbers, SliceLocation or a constant spacing. Header tags that tell about the patient are not read.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import SimpleITK as sitk
from numpy.typing import NDArray
from tqdm import tqdm

from data_modules.errors import UserError
from data_modules.scan.dicom_headers import SliceHeader, read_headers
from data_modules.scan.geometry import AIR_HU
from data_modules.scan.hounsfield import whole_hu
from data_modules.scan.slices import SAME_PLACE_MM, SliceStack

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
    slices, left_out = read_headers(folder)
    if not slices:
        reasons = ", ".join(f"{count} × {reason}" for reason, count in sorted(left_out.items())) or "no file at all"
        raise UserError(
            f"{folder}: no CT slice to read ({reasons}). Expected a folder of DICOM files of one CT series "
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


def _group(slices: list[SliceHeader]) -> list[list[SliceHeader]]:
    """Slices that can make one volume: same series, matrix, pixel spacing and orientation."""
    stacks: list[list[SliceHeader]] = []
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


def _choose(stacks: list[list[SliceHeader]], series: str | None, folder: Path) -> list[SliceHeader]:
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


def _describe(stack: list[SliceHeader]) -> str:
    thicknesses = sorted({s.thickness_mm for s in stack if np.isfinite(s.thickness_mm)})
    thickness = " and ".join(f"{t:g}" for t in thicknesses) + " mm" if thicknesses else "unknown thickness"
    normal = np.abs(np.cross(stack[0].x_direction, stack[0].y_direction))
    plane = ("sagittal", "coronal", "axial")[int(normal.argmax())]
    return f"{len(stack)} slices, {plane}, {thickness}, kernel {stack[0].kernel or 'unknown'}"


def _stack(slices: list[SliceHeader], kernel: str, warnings: list[str]) -> SliceStack:
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
    places: list[list[SliceHeader]] = []
    for item in ordered:
        if places and height[id(item)] - height[id(places[-1][0])] <= SAME_PLACE_MM:
            places[-1].append(item)
        else:
            places.append([item])
    planes: NDArray[Any] = np.empty((len(places), *slices[0].shape), dtype=np.int16)
    kept: list[SliceHeader] = []
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


def _read_hu(item: SliceHeader) -> NDArray[Any]:
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
