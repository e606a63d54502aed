"""NIfTI files: read and checked, masks and probability maps on the grid of their scan, and written whole."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError
from numpy.typing import NDArray

from data_modules.errors import UserError
from data_modules.files import replacing
from data_modules.scan.geometry import Grid, Volume

_PLAUSIBLE_SPACING_MM = (0.1, 20.0)
_COPY_AGAIN = "Expected .nii or .nii.gz, or a folder of DICOM: copy or convert it again."


def load_nifti(path: Path) -> nib.Nifti1Image:
    """Header and a handle on the voxels of a 3D grey image."""
    with _readable(path):
        image = nib.load(path)
    if not isinstance(image, nib.Nifti1Pair):
        raise UserError(f"{path}: not NIfTI but {type(image).__name__}. {_COPY_AGAIN}")
    dtype, shape = image.get_data_dtype(), image.shape
    if dtype.kind not in "iuf":
        kind = "an RGB image" if dtype.names else f"an image of type {dtype}"
        raise UserError(f"{path}: {kind}, expected one grey value a voxel. Export the CT itself, not a rendering.")
    if len(shape) < 3 or any(n != 1 for n in shape[3:]):
        raise UserError(
            f"{path}: {len(shape)}D image of shape {tuple(shape)}, expected 3D. "
            "Give one volume (split a 4D series, join single slices)."
        )
    if 0 in shape:
        raise UserError(f"{path}: image of shape {tuple(shape)} holds no voxels. {_COPY_AGAIN}")
    return image


def stored_values(image: nib.Nifti1Image, path: Path) -> tuple[NDArray[Any], float, float]:
    """Stored voxels `[X, Y, Z]` with the slope and intercept that make values of them."""
    with _readable(path):
        raw = np.asanyarray(image.dataobj.get_unscaled())
        return raw.reshape(raw.shape[:3], order="F"), float(image.dataobj.slope), float(image.dataobj.inter)


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turns what nibabel, gzip and the file system raise into one message."""
    try:
        yield
    except (ImageFileError, HeaderDataError, EOFError) as error:
        raise UserError(f"{path}: not a whole NIfTI file ({error}). {_COPY_AGAIN}") from error
    except (OSError, ValueError, zlib.error) as error:
        raise UserError(f"{path}: cannot be read, truncated or damaged ({error}). {_COPY_AGAIN}") from error


def check_geometry(image: nib.Nifti1Image, path: Path) -> list[str]:
    """Remarks on a NIfTI header whose geometry is doubtful.

    Raises:
        UserError: for one without usable geometry.
    """
    _check_affine(image.affine, path)
    remarks = []
    spacing = np.linalg.norm(image.affine[:3, :3], axis=0)
    shown = " × ".join(f"{s:g}" for s in spacing)
    header = image.header
    units = header.get_xyzt_units()[0] if int(header["xyzt_units"]) & 7 in (0, 1, 2, 3) else "unknown"
    low, high = _PLAUSIBLE_SPACING_MM
    if units not in ("mm", "unknown"):
        raise UserError(
            f"{path}: the header gives the spacing {shown} in {units}, expected mm. "
            "Set xyzt_units to mm (and scale the affine)."
        )
    if units == "unknown":
        if spacing.min() < low or spacing.max() > high:
            raise UserError(
                f"{path}: spacing {shown} without a unit, and not plausible in mm ({low:g} to {high:g}). "
                "Set xyzt_units to mm and see that the spacing is right."
            )
        remarks.append(f"the header has no spatial unit; the spacing {shown} is taken to be in mm")
    (sform, sform_code), (qform, qform_code) = header.get_sform(coded=True), header.get_qform(coded=True)
    if not sform_code and not qform_code:
        remarks.append("the header has no orientation (sform and qform codes are 0): left and right are a guess")
    elif sform_code and qform_code:
        shape = (int(image.shape[0]), int(image.shape[1]), int(image.shape[2]))
        if not Grid(shape, sform).same_as(Grid(shape, qform), tolerance_mm=1.0):
            remarks.append("sform and qform of the header differ by more than 1 mm; the sform was followed")
    return remarks


def _check_affine(affine: NDArray[np.float64], path: Path) -> None:
    columns = np.linalg.norm(affine[:3, :3], axis=0)
    usable = np.isfinite(affine).all() and columns.min() > 0
    if not usable or abs(np.linalg.det(affine[:3, :3] / columns)) < 1e-3:
        raise UserError(
            f"{path}: the affine {np.round(affine[:3], 4).tolist()} is not invertible (an axis has no length or two "
            "are parallel), so voxels have no place. Convert the scan again from DICOM, or repair the sform."
        )


def read_mask(path: Path, like: Grid | None = None) -> Volume:
    """A mask (any label above 0) from a NIfTI file.

    Args:
        path: the file; whole numbers from 0 up.
        like: the grid that it must be drawn on.

    Returns:
        bool data; on `like` itself where given.

    Raises:
        UserError: not a readable 3D mask, or on another grid than `like` (more than 5 % of a voxel away).
    """
    path = Path(path)
    raw, slope, intercept, affine = _stored_companion(path, "mask")
    if (slope, intercept) == (1.0, 0.0) and raw.dtype.kind in "ub":
        mask = raw != 0
    else:
        mask = np.empty(raw.shape, dtype=bool)
        for k in range(raw.shape[2]):
            values = raw[..., k].astype(np.float64) * slope + intercept
            # a scaled mask comes back as 0.99999
            if not np.isfinite(values).all() or values.min() < -1e-3 or np.abs(values - np.rint(values)).max() > 1e-3:
                raise UserError(
                    f"{path}: slice {k} holds values from {values.min():g} to {values.max():g}, not the whole "
                    "numbers from 0 up that a mask holds. Give the mask itself, not an image or probabilities."
                )
            mask[..., k] = np.rint(values) > 0
    return _on_scan_grid(Volume(mask, Grid(mask.shape, affine)), like, path, "mask")


def read_probability(path: Path, like: Grid | None = None) -> Volume:
    """A probability map from a NIfTI file, such as one that a model wrote.

    Args:
        path: the file.
        like: the grid that it must lie on.

    Returns:
        float32 data in [0, 1]; on `like` itself where given.

    Raises:
        UserError: not a readable 3D map of values from 0 to 1, or on another grid than `like`.
    """
    path = Path(path)
    raw, slope, intercept, affine = _stored_companion(path, "probability map")
    data = (raw * np.float32(slope) + np.float32(intercept)).astype(np.float32, copy=False)
    if not np.isfinite(data).all() or data.min() < 0 or data.max() > 1:
        raise UserError(
            f"{path}: holds values from {data.min():g} to {data.max():g}. Expected probabilities from 0 to 1."
        )
    return _on_scan_grid(Volume(data, Grid(data.shape, affine)), like, path, "probability map")


def _stored_companion(path: Path, what: str) -> tuple[NDArray[Any], float, float, NDArray[np.float64]]:
    """Stored values, slope, intercept and affine of a file that belongs to a scan."""
    if not path.is_file():
        raise UserError(f"{path}: no such file. Expected the NIfTI file of a {what}.")
    image = load_nifti(path)
    _check_affine(image.affine, path)
    return *stored_values(image, path), image.affine


def _on_scan_grid(volume: Volume, like: Grid | None, path: Path, what: str) -> Volume:
    """The volume on the scan's very grid; an error where it lies more than 5 % of a voxel elsewhere."""
    if like is None:
        return volume
    if not volume.grid.same_as(like, tolerance_mm=0.05 * min(like.spacing_mm)):
        raise UserError(
            f"{path}: the {what} lies on another grid than its scan. {what.capitalize()}: {_describe(volume.grid)}. "
            f"Scan: {_describe(like)}. Expected the scan's own voxels: draw it on the scan, or resample it there first."
        )
    return Volume(volume.data, like)


def _describe(grid: Grid) -> str:
    spacing = " × ".join(f"{s:.3f}" for s in grid.spacing_mm)
    corner = ", ".join(f"{c:.2f}" for c in grid.affine[:3, 3])
    return f"shape {grid.shape}, {spacing} mm, axes {grid.axis_codes}, first voxel at ({corner})"


def write_nifti(volume: Volume, path: Path) -> None:
    """Write a volume as NIfTI; the file appears under its name only when it is whole.

    Masks become uint8, other floats float32, whole numbers stay. Sform and qform are both set (code 1, scanner),
    units are millimetres, and the same volume gives the same bytes.

    Raises:
        UserError: when the name ends in neither `.nii` nor `.nii.gz`.
        DiskFull: when there is no room; what was there before stays.
    """
    path = Path(path)
    if not path.name.endswith((".nii", ".nii.gz")):
        raise UserError(f"{path}: expected a name that ends in .nii or .nii.gz")
    data = volume.data
    if data.dtype == bool:
        data = data.astype(np.uint8)
    elif data.dtype.kind == "f":
        data = data.astype(np.float32, copy=False)
    image = nib.Nifti1Image(data, volume.grid.affine, dtype=data.dtype)
    image.set_sform(volume.grid.affine, code=1)
    image.set_qform(volume.grid.affine, code=1)
    image.header.set_xyzt_units("mm")
    with replacing(path) as temporary, temporary.open("wb") as file:
        if path.name.endswith(".gz"):
            with gzip.GzipFile(filename="", mode="wb", compresslevel=6, fileobj=file, mtime=0) as packed:
                image.to_stream(packed)
        else:
            image.to_stream(file)
