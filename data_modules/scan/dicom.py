"""One CT series from a folder of DICOM files: its pixels in HU and their places.

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
from numpy.typing import NDArray
from tqdm import tqdm

from data_modules.errors import UserError
from data_modules.scan.dicom_checks import check_headers, check_places
from data_modules.scan.dicom_groups import JOINED, choose, group, unit_directions
from data_modules.scan.dicom_headers import SliceHeader, read_headers
from data_modules.scan.dicom_pixels import read_hu
from data_modules.scan.plausible import SAME_PLACE_MM
from data_modules.scan.slices import SliceStack

EVERY = "*"
"""Instead of one series: parts of one scan that were delivered as several."""
_SAME_PLACE = 0.3  # of the slice thickness: there are slices of 0.2 mm, 0.1 mm apart
_DRIFT = 0.002  # of direction cosines, about 0.1°: what lies within is rounding
_LARGEST_DRIFT_DEG = 15.0
_OTHER_PLACE_MM = 0.5  # by SliceLocation, which is rounded and may be of the table
_MOST_AT_ONE_PLACE = 4  # different images: reconstructions of one acquisition


@dataclass(frozen=True, eq=False, kw_only=True)
class DicomSeries:
    """The slices of one series.

    Attributes:
        stack: its slices, each at its place.
        kernel: convolution kernel (values of a multi-valued tag joined by "/").
        manufacturer: of the scanner.
        gantry_tilt_deg: as the header has it; None where it has none.
        warnings: what was left out and why, and what a reader of results should know.
    """

    stack: SliceStack
    kernel: str
    manufacturer: str
    gantry_tilt_deg: float | None
    warnings: tuple[str, ...]


def read_dicom(folder: Path, series: str | None = None) -> DicomSeries:
    """The CT series in a folder (searched with its sub-folders, links followed).

    Localizers, screen saves, reports, other modalities, colour images and images without a place in space are left
    out. What belongs together is described in `data_modules.scan.dicom_groups`.

    Args:
        folder: where the files are.
        series: which series, where there are several: its number in the list that the error shows (from 1), or the
            end of its SeriesInstanceUID; `EVERY`: all slices are of one scan, which the caller knows.

    Raises:
        UserError: no CT slice; several series and none chosen; values that are not HU; places or sizes that cannot
            be right; a slice that cannot be decoded.
    """
    slices, left_out = read_headers(folder)
    if not slices:
        reasons = ", ".join(f"{count} × {reason}" for reason, count in sorted(left_out.items())) or "no file at all"
        raise UserError(
            f"{folder}: no CT slice to read ({reasons}). Expected a folder of DICOM files of one CT series "
            "(CT Image Storage in HU, one grey image a file, with ImagePositionPatient, ImageOrientationPatient, "
            "PixelSpacing)."
        )
    warnings = [f"{count} files left out: {reason}" for reason, count in sorted(left_out.items())]
    stacks = [slices] if series == EVERY else group(slices)
    whole = [stack for stack in stacks if len(stack) > 1]
    n_single = len(stacks) - len(whole)
    if n_single and n_single < max(map(len, whole), default=0):
        warnings.append(f"{n_single} single images with a geometry or an acquisition of their own left out")
        stacks = whole
    chosen = choose(stacks, None if series == EVERY else series, folder)
    check_headers(chosen)
    for remark, count in Counter(remark for s in chosen for remark in s.remarks).items():
        warnings.append(remark if count == len(chosen) else f"{remark} ({count} of {len(chosen)} slices)")
    if len({(s.slope, s.intercept) for s in chosen}) > 1:
        warnings.append("RescaleSlope or RescaleIntercept changes within the series: followed slice by slice")
    kernels = Counter(s.kernel for s in chosen)
    kernel = kernels.most_common(1)[0][0]
    if len(kernels) > 1:
        warnings.append(f"several kernels in one series: {', '.join(sorted(k or 'unnamed' for k in kernels))}")
    stack = _stack(chosen, folder, warnings)
    return DicomSeries(
        stack=stack,
        kernel=kernel,
        manufacturer=chosen[0].manufacturer,
        gantry_tilt_deg=chosen[0].tilt_deg,
        warnings=tuple(warnings),
    )


def _stack(slices: list[SliceHeader], folder: Path, warnings: list[str]) -> SliceStack:
    """Pixels of each position once, in order along the normal. Adds to `warnings`."""
    x, y = unit_directions(slices)
    position = _positions(slices, x, y, folder, warnings)
    normal = np.cross(x, y)
    places = _places(slices, {key: float(p @ normal) for key, p in position.items()})
    at = np.stack([position[id(place[0])] for place in places])
    check_places([place[0] for place in places], at @ normal, np.stack([at @ x, at @ y], axis=1))
    planes: NDArray[Any] = np.empty((0, 0, 0), dtype=np.int16)  # made once a slice has shown that it holds its pixels
    copies, n_different = 0, np.ones(len(places), dtype=int)
    for k, place in enumerate(tqdm(places, desc="slices", unit="slice", disable=None, leave=False)):
        hu = read_hu(place[0])
        for other in place[1:]:
            if np.array_equal(read_hu(other), hu):
                copies += 1
            else:
                n_different[k] += 1
                _check_conflict(place[0], other, len(places))
        if k == 0:
            planes = np.empty((len(places), *hu.shape), dtype=hu.dtype)
        elif hu.dtype != np.int16 and planes.dtype == np.int16:
            planes = planes.astype(np.float32)
        planes[k] = hu
    if n_different.max() > min(_MOST_AT_ONE_PLACE, max(2, int(np.median(n_different)))):
        k = int(n_different.argmax())
        raise UserError(
            f"{places[k][0].path}: {n_different[k]} different images at its position: several phases or "
            "reconstructions in one series, or a wrong ImagePositionPatient. Put each into a folder of its own."
        )
    if copies:
        warnings.append(f"{copies} duplicated slices left out")
    if conflicts := int(n_different.sum()) - len(places):
        warnings.append(
            f"{conflicts} slices left out that differ from another at the same position "
            "(kept: the thinnest, then the first acquired)"
        )
    if len(places) == 1:
        warnings.append("the series has only one slice")
    to_ras = np.array([-1.0, -1.0, 1.0])
    return SliceStack(
        planes=planes,
        positions_mm=at * to_ras,
        x_direction=x * to_ras,
        y_direction=y * to_ras,
        pixel_mm=slices[0].pixel_mm,
        thicknesses_mm=np.array([place[0].thickness_mm for place in places]),
    )


def _positions(
    slices: Sequence[SliceHeader], x: NDArray[np.float64], y: NDArray[np.float64], folder: Path, warnings: list[str]
) -> dict[int, NDArray[np.float64]]:
    """LPS of each slice's pixel (0, 0), by the slice's `id`. Adds to `warnings`.

    Where the orientation drifts, slices are laid parallel about their centres, so that they are off by as little as
    can be.

    Raises:
        UserError: when they are not parallel at all.
    """
    turned = max(max(np.abs(s.x_direction - x).max(), np.abs(s.y_direction - y).max()) for s in slices)
    if turned <= _DRIFT:
        return {id(s): s.position for s in slices}
    normals = np.array([np.cross(s.x_direction, s.y_direction) for s in slices])
    angle = float(np.arccos(np.clip((normals @ np.cross(x, y)) / np.linalg.norm(normals, axis=1), -1, 1)).max())
    angle = max(angle, float(turned))  # a turn within the plane
    if not np.degrees(angle) <= _LARGEST_DRIFT_DEG:  # nor NaN, where directions all around have no mean
        raise UserError(
            f"{folder}: the slices of the series are not parallel, they turn by more than {_LARGEST_DRIFT_DEG:g}°. "
            "Expected slices across the head: reformatted views around an axis cannot be measured."
        )
    half = (np.array(slices[0].shape[::-1]) - 1) * slices[0].pixel_mm / 2
    warnings.append(
        f"the orientation drifts within the series by up to {np.degrees(angle):.1f}°: slices were laid parallel, up to "
        f"{angle * float(np.hypot(*half)):.1f} mm off at the corners of the image"
    )
    return {id(s): s.position + half[0] * (s.x_direction - x) + half[1] * (s.y_direction - y) for s in slices}


def _places(slices: list[SliceHeader], height: dict[int, float]) -> list[list[SliceHeader]]:
    """Slices by position along the normal, from below; at each the slice to keep is the first."""
    places: list[list[SliceHeader]] = []
    for item in sorted(slices, key=lambda s: height[id(s)]):
        if places:
            first = places[-1][0]
            thinnest = np.nanmin([item.thickness_mm, first.thickness_mm, SAME_PLACE_MM / _SAME_PLACE])
            if height[id(item)] - height[id(first)] <= min(SAME_PLACE_MM, _SAME_PLACE * thinnest):
                places[-1].append(item)
                continue
        places.append([item])
    for place in places:
        place.sort(key=lambda s: (np.nan_to_num(s.thickness_mm, nan=np.inf), s.acquisition, s.instance, str(s.path)))
    return places


def _check_conflict(kept: SliceHeader, other: SliceHeader, n_places: int) -> None:
    """Refuses two different images at one position that are no two images of one place."""
    both = f"{kept.path} and {other.path.name}: different images at one position"
    if n_places == 1:
        raise UserError(
            f"{both}, as all of the series: ImagePositionPatient is the same in every file, as some anonymisers "
            "leave it, so slices cannot be put in order. Export the scan again with its positions."
        )
    if abs(kept.location_mm - other.location_mm) > _OTHER_PLACE_MM:
        raise UserError(
            f"{both}, though SliceLocation says {kept.location_mm:g} and {other.location_mm:g} mm: "
            "ImagePositionPatient is wrong. Export the scan again with its positions."
        )
    if any(remark.startswith(JOINED) for remark in kept.remarks):
        raise UserError(
            f"{both}, and a SeriesInstanceUID for each: which of them make one scan cannot be told. "
            "Put one scan into a folder of its own."
        )
