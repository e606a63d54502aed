"""The files of a tree, however large, without a list of them in memory."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pydicom

from data_modules.errors import UserError
from data_modules.scan.dicom_headers import is_set_aside


@dataclass(frozen=True, slots=True)
class Found:
    """A file of the tree.

    Attributes:
        path: relative to the folder where the walk began, with "/".
        device: with `inode` what the file is, whatever it is called: links and hard links lead to the same.
        inode: see `device`.
        size: bytes.
        mtime_ns: when its content was changed.
        is_link: whether the way to it leads over a symbolic link.
    """

    path: str
    device: int
    inode: int
    size: int
    mtime_ns: int
    is_link: bool


def start_of(source: Path) -> Path:
    """The folder to walk: the source itself, or that of a DICOMDIR or of a single archive.

    Raises:
        UserError: where there is nothing.
    """
    if source.is_dir():
        return source
    if source.is_file():
        return source.parent
    raise UserError(f"{source}: no such folder. Expected a folder of DICOM in any layout, its DICOMDIR, or an archive.")


def files_of(source: Path) -> Iterator[Found]:
    """Every ordinary file below a folder, folder by folder in the order of names; links are followed.

    Hidden files and the index of a medium (DICOMDIR) are left out. A folder that can be reached in several ways, as
    through a link to one above, is entered once; a file that can be is told several times, with the same `inode`.

    Args:
        source: a folder; its DICOMDIR, which stands for it; or a single other file, which is all there is then.

    Raises:
        UserError: a folder that may not be looked into, for slices may lie there.
    """
    if source.is_file() and source.name != "DICOMDIR":
        facts = source.stat()
        yield Found(source.name, facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns, False)
        return
    entered: set[tuple[int, int]] = set()
    root = str(start_of(source))
    real, linked = [""], list[str]()  # a file is told of where it lies before it is by a link
    while real or linked:
        by_link = not real
        folder = (real or linked).pop()
        try:
            here = os.stat(os.path.join(root, folder))
            if (here.st_dev, here.st_ino) in entered:
                continue
            entered.add((here.st_dev, here.st_ino))
            with os.scandir(os.path.join(root, folder)) as listing:
                entries = sorted(listing, key=lambda entry: entry.name)
        except OSError as error:
            raise UserError(
                f"{os.path.join(root, folder)}: the folder cannot be read ({error.strerror}), and slices may lie "
                "there. Make it readable, or move it elsewhere."
            ) from error
        for entry in reversed(entries):  # what is put down last is taken up first
            if _is_folder(entry):
                path = f"{folder}/{entry.name}" if folder else entry.name
                (linked if by_link or entry.is_symlink() else real).append(path)
        for entry in entries:
            path = f"{folder}/{entry.name}" if folder else entry.name
            try:
                if entry.is_file() and not is_set_aside(entry.name):
                    facts = os.stat(entry.path)
                    yield Found(
                        path,
                        facts.st_dev,
                        facts.st_ino,
                        facts.st_size,
                        facts.st_mtime_ns,
                        by_link or entry.is_symlink(),
                    )
            except OSError:  # a link in a circle, or a file that has gone since
                continue


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # links in a circle
        return False


def missing_of_index(source: Path) -> int:
    """How many files the DICOMDIR of a source names that are not there; 0 where there is none that can be read."""
    index = source if source.name == "DICOMDIR" else start_of(source) / "DICOMDIR"
    if not index.is_file():
        return 0
    try:
        records = pydicom.dcmread(index).DirectoryRecordSequence
        named = [record.ReferencedFileID for record in records if "ReferencedFileID" in record]
    except Exception:  # pydicom's own, of many kinds: the files themselves tell what is there
        return 0
    parts = [[name] if isinstance(name, str) else list(name) for name in named]
    return sum(not index.parent.joinpath(*part).exists() for part in parts)
