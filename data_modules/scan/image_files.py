"""Files of one image: their suffix, whatever its case, what their content is, and the bytes inside, to the end.

What a file is shows in its first bytes; a suffix may be wrong (a packed file called `.nii`, an unpacked one `.nii.gz`).
"""

from __future__ import annotations

import bz2
import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

import pydicom

from data_modules.errors import UserError

NIFTI_SUFFIXES = (".nii.gz", ".nii")
ITK_SUFFIXES = (".nrrd", ".nhdr", ".mha", ".mhd")
PAIR_SUFFIXES = (".hdr.gz", ".img.gz", ".hdr", ".img")
EXPECTED = "Expected NIfTI (.nii or .nii.gz), .nrrd, .mha or .mhd, or a folder of DICOM"
COPY_AGAIN = f"{EXPECTED}: copy or convert it again."
_HEADER_BYTES = 544

_FOREIGN = (
    (0, b"PK", "a ZIP archive", "Unpack it"),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive", "Unpack it"),
    (0, b"Rar!", "a RAR archive", "Unpack it"),
    (0, b"\xfd7zXZ", "packed with xz", "Unpack it"),
    (0, b"\x28\xb5\x2f\xfd", "packed with zstd", "Unpack it"),
    (257, b"ustar", "a TAR archive", "Unpack it"),
    (0, b"\x89PNG", "a picture (PNG)", "Export the CT itself"),
    (0, b"\xff\xd8\xff", "a picture (JPEG)", "Export the CT itself"),
    (0, b"%PDF", "a PDF", "Export the CT itself"),
    (0, b"\x89HDF", "an HDF5 file (such as MINC)", "Convert it"),
    (0, b"CDF", "a netCDF file (such as MINC)", "Convert it"),
    (0, b"\x93NUMPY", "a NumPy array, which has no geometry", "Convert it"),
    (0, b"\x00\x00\x00\x01\x00\x00", "a FreeSurfer image (MGH)", "Convert it"),
)


def has_suffix(path: Path, suffixes: tuple[str, ...]) -> bool:
    """Whether a file's name ends in one of these, whatever the case."""
    return path.name.lower().endswith(suffixes)


def image_stem(path: Path) -> str:
    """The name of an image file without its suffix; another suffix stays."""
    suffixes = (*NIFTI_SUFFIXES, *ITK_SUFFIXES, *PAIR_SUFFIXES)
    suffix = next((s for s in suffixes if path.name.lower().endswith(s)), "")
    return path.name[: len(path.name) - len(suffix)]


def part_of_pair(path: Path, kind: str) -> Path:
    """The file of the same name that ends in `kind` (`.hdr` or `.img`), packed or not; `path` with it where none is."""
    wanted = {f"{image_stem(path)}{kind}".lower(), f"{image_stem(path)}{kind}.gz".lower()}
    found = sorted(p for p in path.parent.iterdir() if p.name.lower() in wanted) if path.parent.is_dir() else []
    return found[0] if found else path.with_name(image_stem(path) + kind)


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turns what packers and the file system raise for a bad file into one message."""
    try:
        yield
    except EOFError as error:
        raise UserError(f"{path}: not a whole file, truncated ({error}). {COPY_AGAIN}") from error
    except (OSError, ValueError, OverflowError, zlib.error) as error:
        raise UserError(f"{path}: cannot be read, truncated or damaged ({error}). {COPY_AGAIN}") from error


@contextmanager
def unpacked(path: Path) -> Iterator[BinaryIO]:
    """The content of a file, unpacked where it is packed with gzip or bzip2, whatever its name says."""
    with path.open("rb") as file:
        start = file.read(3)
        file.seek(0)
        if start.startswith(b"\x1f\x8b"):
            with gzip.GzipFile(fileobj=file) as packed:
                yield cast(BinaryIO, packed)
        elif start == b"BZh":
            with bz2.BZ2File(file) as packed_bz2:
                yield cast(BinaryIO, packed_bz2)
        else:
            yield file


def first_bytes(path: Path) -> bytes:
    """What a file's unpacked content begins with, long enough for every header that is looked for.

    Raises:
        UserError: when it is no file, is empty, cannot be opened or is damaged.
    """
    if not path.is_file():
        raise UserError(f"{path}: not a file. {EXPECTED}.")
    with readable(path), unpacked(path) as content:
        start = content.read(_HEADER_BYTES)
    if not start:
        raise UserError(f"{path}: the file is empty. {COPY_AGAIN}")
    return start


def is_itk(start: bytes) -> bool:
    """Whether a file that begins so is NRRD or MetaImage."""
    return itk_reader(start) is not None


def itk_reader(start: bytes) -> str | None:
    """Name of ITK's reader for a file that begins so; None where it is neither NRRD nor MetaImage."""
    if start.startswith(b"NRRD0"):
        return "NrrdImageIO"
    words = start[:200].replace(b" ", b"").lstrip().lower()
    return "MetaImageIO" if words.startswith((b"objecttype=image", b"ndims=", b"comment=")) else None


def refuse_foreign(path: Path, start: bytes) -> None:
    """Name a file that is no NIfTI, NRRD or MetaImage as what it is.

    Raises:
        UserError: always.
    """
    if start[128:132] == b"DICM" or has_suffix(path, (".dcm", ".dcm.gz", ".ima", ".dicom")):
        raise UserError(f"{path}: {_dicom(path)}")
    for offset, signature, what, remedy in _FOREIGN:
        if start[offset:].startswith(signature):
            raise UserError(f"{path}: {what}, which is not read. {remedy}. {EXPECTED}.")
    raise UserError(f"{path}: not NIfTI, nor another kind of image that is read. {COPY_AGAIN}")


def _dicom(path: Path) -> str:
    """What to say of a single DICOM file."""
    try:
        with unpacked(path) as content:
            header = pydicom.dcmread(content, stop_before_pixels=True, force=True)
            frames = int(header.get("NumberOfFrames") or 1)
    except Exception:  # whatever is wrong inside: it is one file where a folder is needed
        frames = 1
    if frames > 1:
        return (
            f"a multi-frame DICOM file ({frames} frames), which is not read. Convert it to NIfTI with dcm2niix, or to "
            "one file a slice, and give the folder."
        )
    return (
        "one DICOM file, a single slice of a scan. Expected the folder that holds all slices of the series: give "
        f"{path.absolute().parent}, or a folder with the unpacked files of this series."
    )
