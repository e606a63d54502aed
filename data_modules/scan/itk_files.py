"""NRRD and MetaImage files through SimpleITK, in the terms of the others: axes x, y, z, places in RAS+.

SimpleITK reads a packed MetaImage whose bits have flipped, and a packed NRRD whose end is missing, without a word:
what is packed is unpacked here once more, for its checksum.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from data_modules.errors import UserError
from data_modules.scan.geometry import Grid
from data_modules.scan.image_files import COPY_AGAIN, itk_reader, readable
from data_modules.scan.nifti_header import is_usable

_DTYPES = {
    sitk.sitkUInt8: np.uint8,
    sitk.sitkInt8: np.int8,
    sitk.sitkUInt16: np.uint16,
    sitk.sitkInt16: np.int16,
    sitk.sitkUInt32: np.uint32,
    sitk.sitkInt32: np.int32,
    sitk.sitkUInt64: np.uint64,
    sitk.sitkInt64: np.int64,
    sitk.sitkFloat32: np.float32,
    sitk.sitkFloat64: np.float64,
}
_LONGEST_HEADER = 2**20
_CHUNK = 2**22


@dataclass(frozen=True, eq=False)
class Information:
    """What SimpleITK says of a file before it reads voxels."""

    grid: Grid
    dtype: np.dtype[Any]
    remarks: tuple[str, ...]


def read_information(path: Path, start: bytes) -> Information:
    """Grid and type of the voxels.

    Args:
        path: NRRD or MetaImage.
        start: its first bytes.

    Raises:
        UserError: for anything but one grey value a voxel in 3D at places of their own.
    """
    reader = _reader(path, start)
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise UserError(_damaged(path, error)) from error
    size, n_dimensions = reader.GetSize(), reader.GetDimension()
    if n_dimensions < 3 or any(n != 1 for n in size[3:]):
        raise UserError(f"{path}: {n_dimensions}D image of shape {tuple(size)}, expected 3D. Give one volume.")
    dtype = _DTYPES.get(reader.GetPixelID())
    if dtype is None or reader.GetNumberOfComponents() != 1:
        kind = sitk.GetPixelIDValueAsString(reader.GetPixelID())
        raise UserError(f"{path}: an image of type {kind}, expected one grey value a voxel. Export the CT itself.")
    directions = np.reshape(reader.GetDirection(), (n_dimensions, n_dimensions))[:3, :3]
    affine = np.eye(4)
    affine[:3, :3] = directions * np.asarray(reader.GetSpacing()[:3])
    affine[:3, 3] = reader.GetOrigin()[:3]
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine  # LPS to RAS
    if not is_usable(affine):
        raise UserError(f"{path}: the header gives voxels no place ({np.round(affine[:3], 4).tolist()}). {COPY_AGAIN}")
    fields = _fields(path, start)[0]
    oriented = {"space", "space directions"} <= fields.keys() or "transformmatrix" in fields or "orientation" in fields
    remarks = () if oriented else ("the header has no orientation: left and right are a guess",)
    return Information(Grid((size[0], size[1], size[2]), affine), np.dtype(dtype), remarks)


def read_voxels(path: Path, start: bytes) -> NDArray[Any]:
    """Stored voxels `[X, Y, Z]`.

    Raises:
        UserError: when the file is cut or damaged.
    """
    _check_packed(path, start)
    try:
        image = _reader(path, start).Execute()
    except RuntimeError as error:
        raise UserError(_damaged(path, error)) from error
    voxels = sitk.GetArrayFromImage(image)
    return voxels.reshape(voxels.shape[-3:]).T


def data_file(path: Path, start: bytes) -> Path:
    """The file that holds the voxels: the header's own, or the one that a detached header names."""
    fields = _fields(path, start)[0]
    named = next((fields[key] for key in ("elementdatafile", "data file", "datafile") if key in fields), "LOCAL")
    return path if named == "LOCAL" else path.parent / named


def _reader(path: Path, start: bytes) -> sitk.ImageFileReader:
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    reader.SetImageIO(itk_reader(start))
    return reader


def _damaged(path: Path, error: RuntimeError) -> str:
    reason = " ".join(str(error).split())[-200:]
    return f"{path}: cannot be read, truncated or damaged (… {reason}). {COPY_AGAIN}"


def _fields(path: Path, start: bytes) -> tuple[dict[str, str], int]:
    """The header's fields (names in small letters), and where it ends."""
    with readable(path), path.open("rb") as file:
        text = file.read(_LONGEST_HEADER)
    is_nrrd = start.startswith(b"NRRD")
    separator = b":" if is_nrrd else b"="
    fields: dict[str, str] = {}
    position = 0
    for line in text.splitlines(keepends=True):
        position += len(line)
        key, _, value = line.partition(separator)
        fields[key.decode("latin-1").strip().lower()] = value.decode("latin-1").strip()
        if (is_nrrd and not line.strip()) or (not is_nrrd and key.strip().lower() == b"elementdatafile"):
            break
    return fields, position


def _check_packed(path: Path, start: bytes) -> None:
    """Unpack what is packed to its end, where its checksum is.

    Raises:
        UserError: when it does not agree or is missing.
    """
    fields, end = _fields(path, start)
    packed = fields.get("compresseddata", "").lower() == "true" or fields.get("encoding", "") in ("gzip", "gz")
    if not packed:
        return
    source = data_file(path, start)
    with readable(source), source.open("rb") as file:
        file.seek(end if source == path else 0)
        unpacker = zlib.decompressobj(wbits=47)  # zlib's header or gzip's
        while not unpacker.eof and (chunk := file.read(_CHUNK)):
            while chunk and not unpacker.eof:
                unpacker.decompress(chunk, _CHUNK)
                chunk = unpacker.unconsumed_tail
    if not unpacker.eof:
        raise UserError(f"{source}: not a whole file, the packed voxels end too early. {COPY_AGAIN}")
