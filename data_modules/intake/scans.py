"""A series from its slices to NIfTI and a sidecar: what a task does in its own process."""

from __future__ import annotations

import hashlib
import os
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from data_modules.config import GridConfig
from data_modules.errors import UserError
from data_modules.files import write_json_atomic
from data_modules.guarded import is_out_of_memory
from data_modules.intake import codes
from data_modules.intake.cells import number_text, plain_words
from data_modules.intake.tasks import Task, image_path
from data_modules.prepare.contrast import contrast_remarks
from data_modules.prepare.registration import RegistrationFailed, find_roi_center
from data_modules.scan.dicom import EVERY
from data_modules.scan.dicom_pixels import UndecodedPixels
from data_modules.scan.geometry import lps_from_ras
from data_modules.scan.hounsfield import NotHounsfield, to_int16
from data_modules.scan.nifti import write_nifti
from data_modules.scan.reading import read_scan
from data_modules.scan.scan import Scan, canonical_scan


def read_task(task: Task) -> dict[str, Any]:
    """As `data_modules.intake.running.read_series`."""
    with tempfile.TemporaryDirectory(prefix="iac_series_") as folder:
        for place, name in task.slices:
            os.symlink(os.path.abspath(place), os.path.join(folder, name))
        try:
            return _read(task, Path(folder))
        except UserError as error:
            text = error.kept.replace(f"{folder}/", "").replace(folder, "the series")
            return {"code": code_of(error), "found": text, "warnings": []}


def _read(task: Task, folder: Path) -> dict[str, Any]:
    scan = read_scan(folder, EVERY if task.parts else None)
    warnings = list(scan.warnings)
    if scan.hu.dtype != np.int16:
        warnings.append("HU were rounded to whole numbers")
        scan = replace(scan, hu=to_int16(scan.hu))
    result: dict[str, Any] = {"code": codes.JOINED if task.parts else codes.OK, "found": "", "warnings": warnings}
    if task.template is not None:
        center_ras_mm, _ = find_roi_center(canonical_scan(scan), Path(task.template))
        warnings += contrast_remarks(canonical_scan(scan).crop(center_ras_mm, GridConfig().roi_mm))
        result["roi_center_lps_mm"] = " ".join(number_text(v, 2) for v in lps_from_ras(center_ras_mm))
    path = image_path(Path(task.out), task.series_id)
    write_json_atomic(path.with_name(f"{task.series_id}.json"), _sidecar(scan))
    write_nifti(scan.volume, path)
    return {**result, "facts": _facts(scan), "digest": _digest(scan)}


def code_of(error: UserError) -> str:
    """The code of what stopped the reading of a series."""
    if is_out_of_memory(error):
        return codes.TOO_LARGE
    if isinstance(error, UndecodedPixels):
        return codes.UNREADABLE
    if isinstance(error, NotHounsfield):
        return codes.NOT_HU
    if isinstance(error, RegistrationFailed):
        return codes.NOT_COVERED if "lies outside the scan" in str(error) else codes.NOT_REGISTERED
    return codes.GEOMETRY


def _sidecar(scan: Scan) -> dict[str, Any]:
    """What NIfTI has no room for, as `scan.sidecar` reads it."""
    content: dict[str, Any] = {
        "Modality": "CT",
        "SliceThickness": round(scan.slice_thickness_mm, 4),
        "ConvolutionKernel": plain_words(scan.kernel),
        "Manufacturer": plain_words(scan.manufacturer),
        "GantryDetectorTilt": round(scan.gantry_tilt_deg, 4),
    }
    if scan.slice_thicknesses_mm is not None:
        content["SliceThicknesses"] = [round(t, 4) for t in scan.slice_thicknesses_mm]
    return content


def _facts(scan: Scan) -> dict[str, str]:
    """Cells of the inventory, and the thickness for the cohort table: none where it changes, for the sidecar has it."""
    varies = scan.slice_thicknesses_mm is not None
    x, y, z = (number_text(s) for s in scan.grid.spacing_mm)
    return {
        "kernel": plain_words(scan.kernel),
        "manufacturer": plain_words(scan.manufacturer),
        "slice_thickness_mm": number_text(scan.slice_thickness_mm),
        "table_thickness_mm": "" if varies else number_text(scan.slice_thickness_mm),
        "spacing_x_mm": x,
        "spacing_y_mm": y,
        "spacing_z_mm": z,
        "n_slices": str(scan.hu.shape[scan.slice_axis]),
        "coverage_mm": number_text(scan.grid.size_mm[scan.slice_axis], 1),
        "gantry_tilt_deg": number_text(scan.gantry_tilt_deg, 2),
    }


def _digest(scan: Scan) -> str:
    """Of voxels and their size: two series with the same are one image, wherever it lies."""
    content = hashlib.sha256(scan.hu.tobytes())
    content.update(repr((scan.hu.shape, [round(s, 3) for s in scan.grid.spacing_mm])).encode())
    return content.hexdigest()[:32]
