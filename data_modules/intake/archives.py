"""What ZIP and TAR archives hold, brought onto the disk under names of our own.

Names in an archive may lead anywhere and its sizes may be lies. Members are numbered here, so that no name is followed;
what comes out is counted byte by byte and ends at a limit; links and devices are left in.
"""

from __future__ import annotations

import calendar
import os
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from data_modules.scan.dicom_headers import is_set_aside

_CHUNK = 2**20
_PACKED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ")
_OFFICE = "[Content_Types].xml"
_EARLIEST = 315532800  # 1980, the first year of ZIP


@dataclass(frozen=True)
class Unpacking:
    """An archive to unpack.

    Attributes:
        archive: the file.
        folder: where its members go; what was there is removed.
        most_bytes: that they may have together.
    """

    archive: Path
    folder: Path
    most_bytes: int


@dataclass(frozen=True)
class Unpacked:
    """What came of it.

    Attributes:
        names: of the members as they stand in the archive; member k lies in the folder as `{k:07d}`.
        problem: why not all of it could be unpacked; empty where it was.
        too_large: whether that is its size.
    """

    names: tuple[str, ...]
    problem: str = ""
    too_large: bool = False


def is_archive(path: Path) -> bool:
    """Whether a file is a ZIP or TAR archive, by what it holds; documents of office programs are none."""
    with path.open("rb") as file:
        start = file.read(264)
    if start.startswith(b"PK\x03\x04"):
        try:
            with zipfile.ZipFile(path) as archive:
                return _OFFICE not in archive.namelist()
        except (zipfile.BadZipFile, OSError, NotImplementedError, ValueError):
            return True  # damaged: that is found when it is unpacked
    if start[257:262] == b"ustar":
        return True
    if not start.startswith(_PACKED):
        return False
    try:
        with tarfile.open(path) as packed:
            return packed.next() is not None
    except (tarfile.TarError, OSError, EOFError, zlib.error, ValueError):
        return False


def unpack(job: Unpacking) -> Unpacked:
    """Unpack one archive, as far as its size and state allow."""
    shutil.rmtree(job.folder, ignore_errors=True)
    job.folder.mkdir(parents=True)
    names: list[str] = []
    left = job.most_bytes
    try:
        for name, changed_s, content in _members(job.archive):
            target = job.folder / f"{len(names):07d}"
            with content, target.open("wb") as file:
                left -= _copied(content, file, left)
            os.utime(target, (changed_s, changed_s))
            names.append(name)
    except _TooLargeError:
        target.unlink(missing_ok=True)
        gb = job.most_bytes / 2**30
        return Unpacked(tuple(names), f"its members have more than {gb:.3g} GB, which is the limit", too_large=True)
    except RuntimeError:
        return Unpacked(tuple(names), "it is encrypted: unpack it with its password")
    except (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, NotImplementedError, ValueError) as error:
        return Unpacked(tuple(names), f"the archive is damaged or of a kind that is not read ({type(error).__name__})")
    return Unpacked(tuple(names))


class _TooLargeError(Exception):
    """More bytes than there may be."""


def _members(path: Path) -> Iterator[tuple[str, int, IO[bytes]]]:
    """Name, time of change and content of each ordinary file in an archive."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            for item in archive.infolist():
                if not item.is_dir() and not is_set_aside(Path(item.filename).name):
                    changed_s = calendar.timegm((*item.date_time, 0, 0, 0))
                    yield item.filename, max(changed_s, _EARLIEST), archive.open(item)
        return
    with tarfile.open(path) as packed:
        for member in packed:
            if member.isfile() and not is_set_aside(Path(member.name).name):
                content = packed.extractfile(member)
                if content is not None:
                    yield member.name, max(int(member.mtime), 0), content


def _copied(content: Any, file: Any, most: int) -> int:
    """Copy to the end; how many bytes that were.

    Raises:
        _TooLargeError: at more than `most`.
    """
    n = 0
    while chunk := content.read(_CHUNK):
        n += len(chunk)
        if n > most:
            raise _TooLargeError
        file.write(chunk)
    return n
