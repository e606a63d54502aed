"""A scan from one file (NIfTI, NRRD or MetaImage) and its sidecar."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from data_modules.errors import UserError
from data_modules.scan.geometry import AIR_HU, Grid
from data_modules.scan.hounsfield import check_hu, whole_hu
from data_modules.scan.scan import Scan, scan_of
from data_modules.scan.sidecar import read_sidecar, sidecar_remarks
from data_modules.scan.slices import THICKNESS_UNKNOWN, SliceStack, straighten
from data_modules.scan.stored import read_stored

_CLEARLY_LARGER = 1.2


def read_nifti_scan(path: Path, slice_thickness_mm: float | None) -> Scan:
    """As `data_modules.scan.reading.read_scan`, of a file."""
    sidecar = read_sidecar(path)
    header, raw = read_stored(path)
    remarks = [*sidecar_remarks(path), *header.remarks]
    hu, n_lower = _hu_of(raw, header.slope, header.intercept, path)
    del raw
    grid = header.grid
    axis, contradiction = _slice_axis(header.slice_axis, grid)
    remarks += [*check_hu(hu, path, axis), *contradiction]
    np.maximum(hu, AIR_HU, out=hu)
    if n_lower:
        remarks.append(f"{n_lower} voxels below −1024 HU set to −1024 (padding)")
    thickness, thickness_from = sidecar.get("SliceThickness"), "file"
    if thickness is None:
        thickness, thickness_from = slice_thickness_mm, "given"
    if thickness is None:
        thickness, thickness_from = math.nan, "spacing"
    tilt = float(sidecar.get("GantryDetectorTilt", 0.0))
    facts: dict[str, Any] = {
        "thickness_from": thickness_from,
        "kernel": str(sidecar.get("ConvolutionKernel", "")),
        "manufacturer": str(sidecar.get("Manufacturer", "")),
    }
    if not grid.is_orthogonal:
        straight = straighten(_sheared_stack(hu, grid, axis, float(thickness), path))
        remarks += straight.warnings
        return scan_of(
            straight, gantry_tilt_deg=tilt or straight.tilt_deg, warnings=tuple(remarks), file_grid=grid, **facts
        )
    if thickness_from == "spacing":
        thickness = grid.spacing_mm[axis]
        remarks.append(f"{THICKNESS_UNKNOWN}, taken to be the spacing between slices ({thickness:.2f} mm)")
    return Scan(
        hu=hu,
        grid=grid,
        slice_thickness_mm=float(thickness),
        slice_thicknesses_mm=_each_thickness(sidecar, hu.shape[axis], path),
        slice_axis=axis,
        gantry_tilt_deg=tilt,
        warnings=tuple(remarks),
        **facts,
    )


def _each_thickness(sidecar: dict[str, Any], n_slices: int, path: Path) -> tuple[float, ...] | None:
    """The thickness of each slice along the slice axis, where the sidecar has it (`iac import` writes it).

    Raises:
        UserError: when there are more or fewer of them than slices.
    """
    listed = sidecar.get("SliceThicknesses")
    if listed is None:
        return None
    if len(listed) != n_slices:
        raise UserError(
            f"{path}: its JSON file lists {len(listed)} SliceThicknesses for {n_slices} slices. Expected one a slice: "
            "mend the list, or remove it."
        )
    return tuple(float(t) for t in listed)


def _hu_of(raw: NDArray[Any], slope: float, intercept: float, path: Path) -> tuple[NDArray[Any], int]:
    """HU, slice by slice (a scan in float64 would take four times the memory), and how many are below −1024."""
    hu: NDArray[Any] = np.empty(raw.shape, dtype=np.int16, order="F")
    n_lower = 0
    for k in range(raw.shape[2]):
        values = raw[..., k].astype(np.float64) * slope + intercept
        if not np.isfinite(values).all():
            n_bad = int((~np.isfinite(values)).sum())
            raise UserError(
                f"{path}: {n_bad} voxels of slice {k} are NaN or infinite, expected HU everywhere. "
                f"Set voxels outside the field of view to {AIR_HU} (air)."
            )
        lower = values < AIR_HU
        n_lower += int(lower.sum())
        values[lower] = np.rint(values[lower])  # padding, whose fractions say nothing
        plane = whole_hu(values, lowest=np.iinfo(np.int16).min)
        if plane.dtype != np.int16 and hu.dtype == np.int16:
            hu = hu.astype(np.float32)
        hu[..., k] = plane
    return hu, n_lower


def _slice_axis(named: int | None, grid: Grid) -> tuple[int, list[str]]:
    """The axis across the slices, and a remark where the header contradicts itself.

    One of clearly larger spacing is it, whatever the header names: programs that turn axes may leave the name behind.
    Without one the header counts, and where it names none, the axis nearest to foot–head.
    """
    order = np.argsort(grid.spacing_mm)
    largest = int(order[2])
    if grid.spacing_mm[largest] > _CLEARLY_LARGER * grid.spacing_mm[order[1]]:
        if named in (None, largest):
            return largest, []
        shown = " × ".join(f"{s:g}" for s in grid.spacing_mm)
        remark = (
            f"the header names axis {named} as that across the slices (dim_info), the spacing {shown} says axis "
            f"{largest}: the spacing was followed"
        )
        return largest, [remark]
    if named is not None:
        return named, []
    return int(np.flatnonzero(nib.orientations.io_orientation(grid.affine)[:, 0] == 2)[0]), []


def _sheared_stack(hu: NDArray[Any], grid: Grid, axis: int, thickness_mm: float, path: Path) -> SliceStack:
    """The slices of a sheared grid, each with its place.

    Slices are right-angled images; where the guessed slice axis contradicts that, another is taken.

    Raises:
        UserError: when no two axes stand at right angles.
    """
    cosines = np.abs(grid.directions.T @ grid.directions)
    for candidate in (axis, 2, 1, 0):
        x, y = (a for a in range(3) if a != candidate)
        if cosines[x, y] < 1e-3:
            break
    else:
        raise UserError(
            f"{path}: no two axes of the grid stand at right angles (affine {np.round(grid.affine[:3], 4).tolist()}), "
            "so these are no CT slices. Give the scan as acquired, without a transform in its header."
        )
    index = np.zeros((grid.shape[candidate], 3))
    index[:, candidate] = np.arange(grid.shape[candidate])
    y_direction = grid.directions[:, y] - (grid.directions[:, y] @ grid.directions[:, x]) * grid.directions[:, x]
    return SliceStack(
        planes=hu.transpose(candidate, y, x),
        positions_mm=grid.to_ras_mm(index),
        x_direction=grid.directions[:, x],
        y_direction=y_direction / np.linalg.norm(y_direction),
        pixel_mm=(grid.spacing_mm[x], grid.spacing_mm[y]),
        thicknesses_mm=np.full(grid.shape[candidate], thickness_mm),
    )
