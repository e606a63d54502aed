"""Files that are whole or absent: written beside their place, flushed to disk, then moved in one step."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from data_modules.errors import UserError

FULL = {
    errno.ENOSPC: "the disk has no room for it",
    errno.EDQUOT: "the disk quota has no room for it",
    errno.EFBIG: "it is larger than a file may be here",
}
"""What the system says where there is no room for a file, in words."""


class DiskFull(UserError):  # noqa: N818 (an errno's name, not a kind of Error)
    """There is no room for a file; nothing that was written before is lost."""


def disk_full(error: OSError, path: Path | None = None) -> DiskFull:
    """The one line for a user: which file (where that is known), how much is free, what to do."""
    path = Path(error.filename) if path is None and isinstance(error.filename, str) else path
    folder = (path or Path()).absolute()
    free = next(shutil.disk_usage(p).free for p in (folder, *folder.parents) if p.exists())
    return DiskFull(
        f"{path or 'a file'}: {FULL[error.errno or errno.ENOSPC]} ({free / 1e6:,.1f} MB are free), so it was not "
        "written. What was finished before is kept: free space and run the same command again."
    )


@contextmanager
def on_disk(path: Path) -> Iterator[None]:
    """Writing to `path`; where there is no room, `DiskFull` is raised instead of what the system says."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            raise disk_full(error, path) from error
        raise


@contextmanager
def replacing(path: Path, *, keeps_present: bool = False) -> Iterator[Path]:
    """A temporary path to write to; it takes the place of `path` when the block ends without an exception.

    The temporary file lies in the same folder (a move across file systems is not atomic) and is removed on failure;
    `remove_leftovers` removes those of killed processes. It may be a symbolic link, which is then what is moved.

    Args:
        path: the file to write.
        keeps_present: a file that is there by then stays: of several processes that write at once the first wins.

    Raises:
        DiskFull: when there is no room; `path` is as it was.
    """
    temporary = _beside(path)
    with on_disk(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            if keeps_present:
                _link(temporary, path)
            else:
                os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    _sync_folder(path.parent)


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """A temporary folder to fill; it takes the place of `path`, a folder or nothing, when the block ends well.

    Raises:
        DiskFull: when there is no room; `path` is as it was.
        OSError: when the folder cannot take its place for another reason; `path` is as it was.
    """
    temporary, old = _beside(path), _beside(path)
    with on_disk(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            temporary.mkdir()
            yield temporary
            for file in temporary.iterdir():
                with file.open("rb") as opened:
                    os.fsync(opened.fileno())
            if path.exists():
                os.replace(path, old)
            try:
                os.replace(temporary, path)
            except OSError:
                if old.exists():
                    os.replace(old, path)
                raise
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
            shutil.rmtree(old, ignore_errors=True)
    _sync_folder(path.parent)


def _beside(path: Path) -> Path:
    """A temporary name that no other process has, on this machine or another, and that `remove_leftovers` knows."""
    return path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")


def _link(temporary: Path, path: Path) -> None:
    """Give a whole file a second name, in one step, unless there is one of that name."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        return
    except OSError:  # a file system without hard links
        with suppress(FileExistsError), path.open("xb") as file:
            file.write(temporary.read_bytes())


def _sync_folder(path: Path) -> None:
    """Flush a folder: a new name itself must survive a power cut too."""
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def write_text_atomic(path: Path, text: str) -> None:
    """Write a UTF-8 text file, whole or not at all."""
    write_bytes_atomic(path, text.encode())


def write_bytes_atomic(path: Path, content: bytes) -> None:
    """Write a file, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def write_json_atomic(path: Path, data: Any) -> None:
    """Write plain types as JSON, whole or not at all.

    Raises:
        ValueError: for NaN and infinity, which JSON does not have.
    """
    write_text_atomic(path, json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def sha256(path: Path) -> str:
    """Hexadecimal hash of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def remove_folder(path: Path) -> None:
    """Remove a folder, where there is one, at once for readers: it is renamed before its files go one by one."""
    if path.exists():
        removed = _beside(path)
        os.replace(path, removed)
        shutil.rmtree(removed)


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files and folders that a killed process left in a folder, NIfTI files included."""
    for path in [*folder.glob(".*.tmp"), *folder.glob(".*.part")]:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def shown_path(path: Path, *, whole: bool = False) -> str:
    """A path for readers: relative to the working directory where it lies below it.

    Args:
        path: a file or folder, which need not exist.
        whole: elsewhere as it was given; by default its last part alone, for whose disk it is tells a reader nothing.
    """
    relative = Path(os.path.relpath(path))
    if relative.parts[:1] != ("..",):
        return str(relative)
    return str(path) if whole else f"…/{path.name}"
