"""A scan from a NIfTI file and its sidecar."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from data_modules.errors import UserError
from data_modules.scan.geometry import AIR_HU, Grid
from data_modules.scan.hounsfield import check_hu, whole_hu
from data_modules.scan.nifti import check_geometry, load_nifti, stored_values
from data_modules.scan.scan import Scan, scan_of
from data_modules.scan.sidecar import read_sidecar
from data_modules.scan.slices import THICKNESS_UNKNOWN, SliceStack, straighten

_CLEARLY_LARGER = 1.2


def read_nifti_scan(path: Path, slice_thickness_mm: float | None) -> Scan:
    """As `data_modules.scan.reading.read_scan`, of a file."""
    image = load_nifti(path)
    sidecar = read_sidecar(path)
    remarks = check_geometry(image, path)
    raw, slope, intercept = stored_values(image, path)
    hu, n_lower = _hu_of(raw, slope, intercept, path)
    del raw
    remarks += check_hu(hu, path)
    if n_lower:
        remarks.append(f"{n_lower} voxels below −1024 HU set to −1024 (padding)")
    grid = Grid(hu.shape, image.affine)
    axis = _slice_axis(image, grid)
    thickness, thickness_from = sidecar.get("SliceThickness"), "file"
    if thickness is None:
        thickness, thickness_from = slice_thickness_mm, "given"
    if thickness is None:
        thickness, thickness_from = grid.spacing_mm[axis], "spacing"
        remarks.append(f"{THICKNESS_UNKNOWN}, taken to be the spacing between slices ({thickness:.2f} mm)")
    tilt = float(sidecar.get("GantryDetectorTilt", 0.0))
    facts: dict[str, Any] = {
        "thickness_from": thickness_from,
        "kernel": str(sidecar.get("ConvolutionKernel", "")),
        "manufacturer": str(sidecar.get("Manufacturer", "")),
    }
    if not grid.is_orthogonal:
        straight = straighten(_sheared_stack(hu, grid, axis, float(thickness), path))
        remarks += straight.warnings
        return scan_of(straight, gantry_tilt_deg=tilt or straight.tilt_deg, warnings=tuple(remarks), **facts)
    return Scan(
        hu=hu,
        grid=grid,
        slice_thickness_mm=float(thickness),
        slice_axis=axis,
        gantry_tilt_deg=tilt,
        warnings=tuple(remarks),
        **facts,
    )


def _hu_of(raw: NDArray[Any], slope: float, intercept: float, path: Path) -> tuple[NDArray[Any], int]:
    """HU, slice by slice (a scan in float64 would take four times the memory), and how many were below −1024."""
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
        n_lower += int((values < AIR_HU).sum())
        plane = whole_hu(values)
        if plane.dtype != np.int16 and hu.dtype == np.int16:
            hu = hu.astype(np.float32)
        hu[..., k] = plane
    return hu, n_lower


def _slice_axis(image: nib.Nifti1Image, grid: Grid) -> int:
    """The axis the header names, else one of clearly larger spacing, else the one nearest to foot–head."""
    named = image.header.get_dim_info()[2]
    if named is not None:
        return int(named)
    order = np.argsort(grid.spacing_mm)
    if grid.spacing_mm[order[2]] > _CLEARLY_LARGER * grid.spacing_mm[order[1]]:
        return int(order[2])
    return int(np.flatnonzero(nib.orientations.io_orientation(grid.affine)[:, 0] == 2)[0])


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
