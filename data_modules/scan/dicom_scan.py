"""A scan from a folder of DICOM: the slices of one series, straightened."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from data_modules.scan.dicom import read_dicom
from data_modules.scan.hounsfield import check_hu
from data_modules.scan.scan import Scan, scan_of
from data_modules.scan.slices import SliceStack, straighten


def read_dicom_scan(folder: Path, series: str | None, slice_thickness_mm: float | None) -> Scan:
    """As `data_modules.scan.reading.read_scan`, of a folder."""
    source = read_dicom(folder, series)
    remarks = [*source.warnings, *check_hu(source.stack.planes, folder)]
    stack = source.stack
    unknown = ~np.isfinite(stack.thicknesses_mm)
    thickness_from = "file"
    if unknown.any():
        thickness_from = "spacing"
        if slice_thickness_mm is not None:
            thickness_from = "given"
            stack = replace(stack, thicknesses_mm=np.where(unknown, slice_thickness_mm, stack.thicknesses_mm))
    straight = straighten(stack)
    header_tilt = source.gantry_tilt_deg or 0.0
    if abs(abs(header_tilt) - straight.tilt_deg) > 1 and _is_axial(stack):
        remarks.append(
            f"the header gives a gantry tilt of {header_tilt:g}°, the slice positions {straight.tilt_deg:.1f}°: "
            "the positions were followed; see that the anatomy is not sheared"
        )
    return scan_of(
        straight,
        thickness_from=thickness_from,
        kernel=source.kernel,
        manufacturer=source.manufacturer,
        gantry_tilt_deg=header_tilt or straight.tilt_deg,
        warnings=(*remarks, *straight.warnings),
    )


def _is_axial(stack: SliceStack) -> bool:
    """Whether the slices' normal is the table's direction: then a tilt in the header is not in their orientation."""
    return abs(np.cross(stack.x_direction, stack.y_direction)[2]) > 0.999
