"""The pixels of one DICOM slice, in HU, or an error that names its file: never a value that the file does not hold."""

from __future__ import annotations

from typing import Any

import numpy as np
import pydicom
import SimpleITK as sitk
from numpy.typing import NDArray
from pydicom.dataelem import RawDataElement
from pydicom.encaps import generate_frames
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)

from data_modules.errors import UserError
from data_modules.scan.dicom_headers import SliceHeader
from data_modules.scan.dicom_tags import number
from data_modules.scan.geometry import AIR_HU
from data_modules.scan.hounsfield import whole_hu

_PIXELS = (0x7FE00010, 0x7FE00008, 0x7FE00009)  # as whole numbers, as floats of 32 and of 64 bits
_ITEM = b"\xfe\xff\x00\xe0"  # begins compressed pixel data
_END_OF_IMAGE = b"\xff\xd9"  # ends a JPEG, JPEG-LS or JPEG 2000 stream


class UndecodedPixels(UserError):  # noqa: N818 - says what happened; every user error is one
    """The pixels of a file are missing, cut off or compressed in an unknown way."""


class _NotWhole(Exception):  # noqa: N818 - says what it is; its text is the reason that users read
    """The pixel data are not what the header says; its text says how."""


def read_hu(item: SliceHeader) -> NDArray[Any]:
    """`[rows, columns]` HU, int16 where they are whole numbers, else float32; padding and anything lower is air.

    Raises:
        UndecodedPixels: naming the file of which the pixels are missing, cut off or compressed in an unknown way.
    """
    try:
        hu = _decoded(item)
    except Exception as error:  # decoders raise what they like
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UndecodedPixels(
            f"{item.path}: the pixels cannot be decoded ({reason}). The file is truncated or damaged, or "
            "compressed in an unknown way: copy it again, or remove it to go on without this slice."
        ) from error
    if item.padding_hu is not None:
        low, high = item.padding_hu
        hu[(hu >= low - 1e-3) & (hu <= high + 1e-3)] = AIR_HU
    return whole_hu(hu)


def _decoded(item: SliceHeader) -> NDArray[np.float64]:
    """`[rows, columns]` HU as stored."""
    data = pydicom.dcmread(item.path, force=True)
    syntax = _transfer_syntax(data)
    allocated = number(data, "BitsAllocated", 16)
    if not min(8, allocated) <= number(data, "BitsStored", allocated) <= allocated:
        raise _NotWhole(f"BitsStored {data.BitsStored}, where BitsAllocated is {allocated:.0f}")
    if syntax.is_encapsulated:
        _check_compressed(data, syntax)
    else:
        _check_native(data, item)
    try:
        hu = np.asarray(data.pixel_array * np.float64(item.slope) + item.intercept)
    except Exception as first_error:  # GDCM knows more compressions than pydicom, but makes up what is cut off
        try:
            hu = sitk.GetArrayFromImage(sitk.ReadImage(str(item.path)))[0].astype(np.float64)  # rescaled already
        except RuntimeError:
            raise first_error from None
    if hu.shape != item.shape:
        raise _NotWhole(f"{hu.shape} pixels, where the header says {item.shape}")
    return hu


def _transfer_syntax(data: pydicom.FileDataset) -> UID:
    """How the pixels are stored; where the file does not say, as the rest of it is."""
    syntax = data.file_meta.get("TransferSyntaxUID")
    if syntax:
        return UID(syntax)
    if bytes(data.PixelData[:4]) == _ITEM:
        raise _NotWhole("compressed, and the file has no TransferSyntaxUID that says how")
    implicit, little = data.original_encoding
    syntax = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian if little else ExplicitVRBigEndian
    data.file_meta.TransferSyntaxUID = syntax
    return syntax


def _check_native(data: pydicom.FileDataset, item: SliceHeader) -> None:
    """As many bytes as rows and columns need, and no row more; after them the file ends or goes on with a tag."""
    row = item.shape[1] * number(data, "BitsAllocated", 16) / 8
    needed = item.shape[0] * row
    stored = next((data.get_item(tag) for tag in _PIXELS if tag in data), None)
    found = len(stored.value or b"") if stored is not None else 0
    if found < needed or found >= needed + max(row, 2):
        raise _NotWhole(f"{found} bytes, where {item.shape[0]} rows of {item.shape[1]} pixels need {needed:.0f}")
    if isinstance(stored, RawDataElement) and data.file_meta.TransferSyntaxUID != DeflatedExplicitVRLittleEndian:
        if stored.length != found:
            raise _NotWhole(f"{found} bytes, where the file says {stored.length}")
        with item.path.open("rb") as file:
            file.seek(stored.value_tell + found)
            follows = file.read(8)
        order = "little" if stored.is_little_endian else "big"
        if follows.strip(b"\0") and int.from_bytes(follows[:2], order) < 0x7FE0:
            raise _NotWhole("more bytes follow than the file says")


def _check_compressed(data: pydicom.FileDataset, syntax: UID) -> None:
    """One stream, not cut off: some decoders fill up what is missing."""
    streams = list(generate_frames(data.PixelData, number_of_frames=1))
    if syntax != RLELossless and not streams[0].rstrip(b"\0").endswith(_END_OF_IMAGE):
        raise _NotWhole("the compressed image is cut off")
