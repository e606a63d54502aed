"""One 3D grey image as its file stores it: NIfTI, NRRD or MetaImage, checked before any of it is held in memory."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from data_modules.errors import UserError
from data_modules.scan import itk_files
from data_modules.scan.geometry import Grid
from data_modules.scan.image_files import (
    COPY_AGAIN,
    PAIR_SUFFIXES,
    first_bytes,
    has_suffix,
    is_itk,
    part_of_pair,
    readable,
    refuse_foreign,
    unpacked,
)
from data_modules.scan.nifti_header import header_grid, header_shape, parse_header, slope_and_intercept
from data_modules.scan.plausible import PLAUSIBLE_MM, is_plausible_mm

_MOST_VOXELS = 2**31  # 1024 × 1024 × 2048
_MOST_PACKED = 1032  # DEFLATE makes nothing smaller than that
_CHUNK = 2**22


@dataclass(frozen=True, eq=False, kw_only=True)
class StoredHeader:
    """What a file says of its voxels.

    Attributes:
        path: the file.
        grid: where they lie.
        dtype: as stored.
        slope: of `value = stored * slope + intercept`.
        intercept: see `slope`.
        slice_axis: the axis that the file names as that across the slices; None where it names none.
        remarks: what is doubtful.
        data_path: the file that holds the voxels; None for what SimpleITK reads.
        offset: where in its content they begin.
    """

    path: Path
    grid: Grid
    dtype: np.dtype[Any]
    slope: float = 1.0
    intercept: float = 0.0
    slice_axis: int | None = None
    remarks: tuple[str, ...] = ()
    data_path: Path | None = None
    offset: int = 0


def read_header(path: Path) -> StoredHeader:
    """The header of an image file; no voxel is read.

    Raises:
        UserError: when it is no 3D grey image with usable geometry and a plausible size.
    """
    is_half = has_suffix(path, (".img", ".img.gz"))
    path_of_header = part_of_pair(path, ".hdr") if is_half else path
    start = first_bytes(path_of_header)
    if is_itk(start):
        shown = itk_files.read_information(path, start)
        header = StoredHeader(path=path, grid=shown.grid, dtype=shown.dtype, remarks=shown.remarks)
    else:
        parsed = parse_header(start, path_of_header)
        if parsed is None:
            refuse_foreign(path, start)
        header = _nifti(parsed, path_of_header)
    _check_size(header)
    return header


def image_files(path: Path) -> list[Path]:
    """The files that an image is made of: itself, and where its header or its voxels lie in another, that one too."""
    if has_suffix(path, PAIR_SUFFIXES):
        parts = [part_of_pair(path, ".hdr"), part_of_pair(path, ".img")]
    elif has_suffix(path, (".mhd", ".nhdr")):
        parts = [path, itk_files.data_file(path, first_bytes(path))]
    else:
        return [path]
    return [path, *(part for part in parts if part != path and part.is_file())]


def _nifti(parsed: Any, path: Path) -> StoredHeader:
    """A NIfTI header in the form of all."""
    dtype = parsed.get_data_dtype()
    if dtype.kind not in "iuf":
        kind = "an RGB image" if dtype.names else f"an image of type {dtype}"
        raise UserError(f"{path}: {kind}, expected one grey value a voxel. Export the CT itself, not a rendering.")
    shape = header_shape(parsed, path)
    if min(shape) < 1:
        raise UserError(f"{path}: image of shape {shape} holds no voxels. {COPY_AGAIN}")
    grid, remarks = header_grid(parsed, shape, path)
    slope, intercept = slope_and_intercept(parsed, path)
    offset = float(parsed["vox_offset"])
    if not (math.isfinite(offset) and offset >= 0):
        raise UserError(f"{path}: the header says that voxels begin at byte {offset:g}. {COPY_AGAIN}")
    named = (int(parsed["dim_info"]) >> 4) & 3
    return StoredHeader(
        path=path,
        grid=grid,
        dtype=dtype,
        slope=slope,
        intercept=intercept,
        slice_axis=named - 1 if named else None,
        remarks=tuple(remarks),
        data_path=path if parsed.is_single else part_of_pair(path, ".img"),
        offset=int(offset) or (parsed.single_vox_offset if parsed.is_single else 0),
    )


def _check_size(header: StoredHeader) -> None:
    """Refuse spacings that no CT has, and voxels that neither memory nor the file can hold."""
    grid, path = header.grid, header.path
    if not all(is_plausible_mm(s) for s in grid.spacing_mm):
        low, high = PLAUSIBLE_MM
        shown = " × ".join(f"{s:g}" for s in grid.spacing_mm)
        raise UserError(
            f"{path}: spacing {shown}, which is not plausible in mm ({low:g} to {high:g}). See that the spacing is "
            "right and in mm."
        )
    n_voxels = math.prod(grid.shape)
    if n_voxels > _MOST_VOXELS:
        shown = " × ".join(str(n) for n in grid.shape)
        raise UserError(
            f"{path}: the header claims {shown} voxels, more than any CT has: the header is damaged. {COPY_AGAIN}"
        )


def read_stored(path: Path) -> tuple[StoredHeader, NDArray[Any]]:
    """Header and stored voxels `[X, Y, Z]` of an image file, which is read to its end.

    Raises:
        UserError: as `read_header`, and when the file is cut or damaged: a packed file's checksum is compared.
    """
    header = read_header(path)
    if header.data_path is None:
        return header, itk_files.read_voxels(path, first_bytes(path))
    data_path = header.data_path
    if not data_path.is_file():
        raise UserError(f"{data_path}: no such file, though {header.path} says that it holds the voxels")
    n_bytes = math.prod(header.grid.shape) * header.dtype.itemsize
    with readable(data_path), unpacked(data_path) as content:
        is_packed = not isinstance(content, io.BufferedReader)
        holds = data_path.stat().st_size * (_MOST_PACKED if is_packed else 1)
        if holds < header.offset + n_bytes:
            raise UserError(
                f"{data_path}: not a whole file, truncated: the header claims {n_bytes:,} bytes of voxels. {COPY_AGAIN}"
            )
        content.seek(header.offset)
        raw = np.empty(n_bytes, dtype=np.uint8)
        surplus = _fill(content, raw.data)
    remarks = header.remarks
    if surplus:
        remarks = (*remarks, f"{surplus} bytes follow the last voxel and were not read")
    return replace(header, remarks=remarks), raw.view(header.dtype).reshape(header.grid.shape, order="F")


def _fill(content: BinaryIO, room: memoryview) -> int:
    """Fill `room` and read on to the end of the file, where a packed one has its checksum; how many bytes were left.

    Raises:
        EOFError: when there are too few.
    """
    filled = 0
    while filled < len(room):
        n = content.readinto(room[filled : filled + _CHUNK])  # type: ignore[attr-defined]
        if not n:
            raise EOFError(f"{filled:,} of {len(room):,} bytes of voxels are there")
        filled += n
    surplus = 0
    while chunk := content.read(_CHUNK):
        surplus += len(chunk)
    return surplus
