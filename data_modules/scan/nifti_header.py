"""NIfTI headers: which place they give each voxel, read as other programs do, and what is doubtful about them."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

import numpy as np
from nibabel import nifti1, nifti2
from nibabel.spatialimages import HeaderDataError
from nibabel.wrapstruct import WrapStructError
from numpy.typing import NDArray

from data_modules.errors import UserError
from data_modules.scan.geometry import Grid
from data_modules.scan.image_files import COPY_AGAIN

_QUIET = logging.getLogger("iac.nifti_header")
_QUIET.addHandler(logging.NullHandler())
_QUIET.propagate = False


def parse_header(start: bytes, path: Path) -> Any | None:
    """A header of nibabel of a file that begins so; None where it is not NIfTI.

    Raises:
        UserError: for Analyze 7.5, and for a header that is broken.
    """
    kinds: dict[bytes, Any] = {b"n+1\0": nifti1.Nifti1Header, b"ni1\0": nifti1.Nifti1PairHeader}
    kinds_2: dict[bytes, Any] = {b"n+2\0": nifti2.Nifti2Header, b"ni2\0": nifti2.Nifti2PairHeader}
    kind = kinds.get(start[344:348]) or kinds_2.get(start[4:8])
    if kind is None:
        if 348 in (int.from_bytes(start[:4], "little"), int.from_bytes(start[:4], "big")):
            raise UserError(
                f"{path}: Analyze 7.5, which does not say where left and right are. Convert the scan again from DICOM."
            )
        return None
    try:
        header = kind(start[: kind.template_dtype.itemsize], check=False)
        header.check_fix(logger=_QUIET, error_level=40)
        return header
    except (HeaderDataError, WrapStructError, ValueError, OverflowError, KeyError) as error:
        raise UserError(f"{path}: the header is damaged ({error}). {COPY_AGAIN}") from error


def header_shape(header: Any, path: Path) -> tuple[int, int, int]:
    """Voxels along x, y, z; axes beyond the third must be of one voxel.

    Raises:
        UserError: for another number of axes.
    """
    shape = tuple(int(n) for n in header.get_data_shape())
    if len(shape) < 3 or any(n > 1 for n in shape[3:]):  # 0 stands for 1 there, as in the NIfTI library
        raise UserError(
            f"{path}: {len(shape)}D image of shape {shape}, expected 3D. "
            "Give one volume (split a 4D series, join single slices)."
        )
    return shape[0], shape[1], shape[2]


@np.errstate(over="ignore", invalid="ignore")  # of headers full of garbage
def header_grid(header: Any, shape: tuple[int, int, int], path: Path) -> tuple[Grid, list[str]]:
    """The grid that a header gives the voxels, and remarks where it is doubtful.

    The sform counts, as in nibabel, ITK and FSL; the qform where there is none, or where the sform says nothing
    (all zero, not finite). A quaternion that is too long is brought to length 1, as the NIfTI library does.

    Raises:
        UserError: for a header without usable geometry, or in other units than mm.
    """
    remarks: list[str] = []
    sform, qform = _sform(header), _qform(header)
    has_sform, has_qform = int(header["sform_code"]) > 0, int(header["qform_code"]) > 0
    if has_sform and (is_usable(sform) or not (has_qform and is_usable(qform))):
        affine = sform
    elif has_qform:
        affine = qform
        if has_sform:
            remarks.append("the sform of the header gives voxels no place; the qform was followed")
    else:
        affine = header.get_base_affine()
        remarks.append("the header has no orientation (sform and qform codes are 0): left and right are a guess")
    if not is_usable(affine):
        raise UserError(
            f"{path}: the affine {np.round(affine[:3], 4).tolist()} is not invertible (an axis has no length or two "
            "are parallel), so voxels have no place. Convert the scan again from DICOM, or repair the sform."
        )
    grid = Grid(shape, affine)
    both = has_sform and has_qform and is_usable(sform) and is_usable(qform)
    if both and not Grid(shape, sform).same_as(Grid(shape, qform), tolerance_mm=1.0):
        if np.linalg.det(sform[:3, :3]) * np.linalg.det(qform[:3, :3]) < 0:
            remarks.append(
                "sform and qform of the header are mirror images of each other, so that left and right may be swapped; "
                "the sform was followed: see which is right"
            )
        else:
            remarks.append("sform and qform of the header differ by more than 1 mm; the sform was followed")
    return grid, [*_unit_remarks(header, grid, path), *remarks]


@np.errstate(over="ignore", invalid="ignore")
def is_usable(affine: NDArray[np.float64]) -> bool:
    """Whether an affine gives each voxel a place of its own."""
    columns = np.linalg.norm(affine[:3, :3], axis=0)
    if not np.isfinite(affine).all() or not np.isfinite(columns).all() or columns.min() <= 0:
        return False
    return bool(abs(np.linalg.det(affine[:3, :3] / columns)) >= 1e-3)


def _sform(header: Any) -> NDArray[np.float64]:
    affine: NDArray[np.float64] = np.eye(4)
    for axis, row in enumerate(("srow_x", "srow_y", "srow_z")):
        affine[axis] = header[row]
    return affine


def _qform(header: Any) -> NDArray[np.float64]:
    """The affine of the quaternion; NaN where it holds no numbers."""
    parts = np.array([float(header[f"quatern_{k}"]) for k in "bcd"])
    if not np.isfinite(parts).all():
        return np.full((4, 4), np.nan)
    try:
        return np.asarray(header.get_qform())
    except (ValueError, HeaderDataError):  # longer than 1, though maybe by rounding only
        header = header.copy()
        parts /= np.linalg.norm(parts) * (1 + 1e-7)  # header fields may be float32
        for letter, part in zip("bcd", parts, strict=True):
            header[f"quatern_{letter}"] = part
        try:
            return np.asarray(header.get_qform())
        except (ValueError, HeaderDataError):  # pixdim and the like
            return np.full((4, 4), np.nan)


def _unit_remarks(header: Any, grid: Grid, path: Path) -> list[str]:
    """A remark where the header has no unit.

    Raises:
        UserError: for a unit other than mm.
    """
    shown = " × ".join(f"{s:g}" for s in grid.spacing_mm)
    unit = {1: "meter", 2: "mm", 3: "micron"}.get(int(header["xyzt_units"]) & 7, "unknown")
    if unit in ("meter", "micron"):
        raise UserError(
            f"{path}: the header gives the spacing {shown} in {unit}, expected mm. "
            "Set xyzt_units to mm (and scale the affine)."
        )
    return [f"the header has no spatial unit; the spacing {shown} is taken to be in mm"] if unit == "unknown" else []


def slope_and_intercept(header: Any, path: Path) -> tuple[float, float]:
    """What makes values of stored numbers; a slope of 0 or NaN stands for none, as everywhere.

    Raises:
        UserError: when only one of the two is a number.
    """
    slope, intercept = (float(header[key]) for key in ("scl_slope", "scl_inter"))
    if slope == 0 or not math.isfinite(slope):
        return 1.0, 0.0
    if not math.isfinite(intercept):
        raise UserError(f"{path}: the header scales values by {slope:g} and then adds {intercept:g}. {COPY_AGAIN}")
    return slope, intercept
