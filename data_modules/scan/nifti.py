"""Files that belong to a scan: masks and probability maps, read onto its grid; and NIfTI files written whole."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from data_modules.errors import UserError
from data_modules.files import replacing
from data_modules.scan.fitting import Fit, fit_to_scan
from data_modules.scan.geometry import Grid, Volume
from data_modules.scan.image_files import NIFTI_SUFFIXES, first_bytes, has_suffix
from data_modules.scan.nifti_header import parse_header
from data_modules.scan.scan import Scan
from data_modules.scan.stored import StoredHeader, read_header, read_stored


def read_mask(path: Path, like: Scan | Grid | None = None) -> Volume:
    """A mask (any label above 0) from a NIfTI, NRRD or MetaImage file.

    Args:
        path: the file; whole numbers from 0 up.
        like: the scan, or grid, that it must be drawn on (`data_modules.scan.fitting` says what fits).

    Returns:
        bool data; on the grid of `like` itself where given.

    Raises:
        UserError: not a readable 3D mask, or on other voxels than those of `like` (more than 5 % of a voxel away).
    """
    return fitted(read_own_mask(path), like, Path(path), "mask").volume


def mask_remarks(path: Path, like: Scan) -> list[str]:
    """What to tell of how a mask, which `read_mask` takes, lies on its scan."""
    header = read_header(Path(path))
    fit = fit_to_scan(Volume(np.broadcast_to(np.uint8(0), header.grid.shape), header.grid), like)
    return [f"{Path(path).name}: {fit.remark}"] if fit and fit.remark else []


def read_own_mask(path: Path) -> Volume:
    """A mask on the voxels of its file; arguments and errors as `read_mask`."""
    path = Path(path)
    header, raw = _stored_companion(path, "mask")
    slope, intercept = header.slope, header.intercept
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
    return Volume(mask, header.grid)


def read_probability(path: Path, like: Scan | Grid | None = None) -> Volume:
    """A probability map from a NIfTI, NRRD or MetaImage file, such as one that a model wrote.

    Args:
        path: the file.
        like: the scan, or grid, that it must lie on.

    Returns:
        float32 data in [0, 1]; on the grid of `like` itself where given.

    Raises:
        UserError: not a readable 3D map of values from 0 to 1, or on other voxels than those of `like`.
    """
    path = Path(path)
    header, raw = _stored_companion(path, "probability map")
    data = (raw * np.float32(header.slope) + np.float32(header.intercept)).astype(np.float32, copy=False)
    if not np.isfinite(data).all() or data.min() < 0 or data.max() > 1:
        raise UserError(
            f"{path}: holds values from {data.min():g} to {data.max():g}. Expected probabilities from 0 to 1."
        )
    return fitted(Volume(data, header.grid), like, path, "probability map").volume


def _stored_companion(path: Path, what: str) -> tuple[StoredHeader, NDArray[Any]]:
    """Header and stored values of a file that belongs to a scan."""
    if not path.is_file():
        raise UserError(f"{path}: no such file. Expected the NIfTI file of a {what}.")
    return read_stored(path)


def fitted(volume: Volume, like: Scan | Grid | None, path: Path, what: str) -> Fit:
    """The volume on its scan's very grid.

    Args:
        volume: as it lies in its file.
        like: the scan or grid; None leaves it there.
        path: the file.
        what: it is, for the message.

    Raises:
        UserError: where its voxels are not those of the scan.
    """
    if like is None:
        return Fit(volume)
    fit = fit_to_scan(volume, like)
    if fit is None:
        grid = like if isinstance(like, Grid) else like.grid
        is_moved = isinstance(like, Scan) and like.is_resampled
        moved = " Or name the NIfTI that it was drawn on as the image." if is_moved else ""
        raise UserError(
            f"{path}: the {what} lies on another grid than its scan. {what.capitalize()}: {_describe(volume.grid)}. "
            f"Scan: {_describe(grid)}. Expected the scan's own voxels: draw it on the scan, or resample it there first."
            f"{moved}"
        )
    return fit


def _describe(grid: Grid) -> str:
    spacing = " × ".join(f"{s:.3f}" for s in grid.spacing_mm)
    corner = ", ".join(f"{c:.2f}" for c in grid.affine[:3, 3])
    return f"shape {grid.shape}, {spacing} mm, axes {grid.axis_codes}, first voxel at ({corner})"


def write_nifti(volume: Volume, path: Path, like: Path | None = None) -> None:
    """Write a volume as NIfTI; the file appears under its name only when it is whole.

    Masks become uint8, other floats float32, whole numbers stay. Sform and qform are both set (code 1, scanner),
    units are millimetres, and the same volume gives the same bytes. A qform cannot hold a sheared grid: it is not set
    there, so that programs which go by it refuse the file instead of misplacing it.

    Args:
        volume: what to write.
        path: where.
        like: the file whose voxels these are: programs that open both shall see the same place, whichever of its forms
            they go by.

    Raises:
        UserError: when the name ends in neither `.nii` nor `.nii.gz`.
        DiskFull: when there is no room; what was there before stays.
    """
    path = Path(path)
    if not has_suffix(path, NIFTI_SUFFIXES):
        raise UserError(f"{path}: expected a name that ends in .nii or .nii.gz")
    data = volume.data
    if data.dtype == bool:
        data = data.astype(np.uint8)
    elif data.dtype.kind == "f":
        data = data.astype(np.float32, copy=False)
    image = nib.Nifti1Image(data, volume.grid.affine, dtype=data.dtype)
    image.set_sform(volume.grid.affine, code=1)
    image.set_qform(volume.grid.affine, code=int(volume.grid.is_orthogonal))
    image.header.set_xyzt_units("mm")
    own = None if like is None else parse_header(first_bytes(like), like)
    if own is not None:
        for field in ("qform_code", "sform_code", *(f"quatern_{k}" for k in "bcd"), *(f"qoffset_{k}" for k in "xyz")):
            image.header[field] = own[field]
        image.header["pixdim"][:4] = own["pixdim"][:4]
    with replacing(path) as temporary, temporary.open("wb") as file:
        if has_suffix(path, (".gz",)):
            with gzip.GzipFile(filename="", mode="wb", compresslevel=6, fileobj=file, mtime=0) as packed:
                image.to_stream(packed)
        else:
            image.to_stream(file)
