"""The folder that `iac predict` writes into: files of others in it stay, its own appear whole or not at all.

`result.json` names the files that were written with it and their SHA-256, itself included. What it vouches for may be
replaced; whatever else has the name of an output is somebody's own, a mask that was mended by hand included. All files
are made in a folder beside and moved to their places when they are whole, `result.json` last: where there is none, no
result stands.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from data_modules.errors import UserError
from data_modules.files import on_disk, sha256, write_json_atomic
from data_modules.prepare.sources import digest

RESULT_FILE = "result.json"
_STAGING = ".iac_predict"
_BEFORE = "before.json"


@contextmanager
def output_folder(out: Path, names: Sequence[str], optional: Sequence[str], source: Path) -> Iterator[Path]:
    """A folder to write the outputs to, while this process alone has `out`; `publish` moves them there.

    What an earlier call wrote is removed first, for where a scan fails no mask of another may stand in its place.

    Args:
        out: made if needed, and removed again where nothing was written.
        names: of the files that will be written, `result.json` among them.
        optional: names that an earlier call may have written and this one does not.
        source: the scan, which is never removed.

    Raises:
        UserError: when `out` cannot be written, is in use, or holds files of these names that no call wrote.
    """
    is_new = not out.exists()
    staging = out / _STAGING
    try:
        with on_disk(out):
            out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(_not_writable(out, error)) from error
    handle = os.open(out, os.O_RDONLY)
    try:
        _lock(handle, out)
        written = _written(out)
        _refuse_foreign(out, names, optional, written, source)
        try:
            with on_disk(out):
                _remove_written(out, [*names, *optional], written, source)
        except OSError as error:
            raise UserError(_not_writable(out, error)) from error
        try:
            yield staging
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    finally:
        os.close(handle)
        if is_new and not any(out.iterdir()):
            out.rmdir()


def publish(staging: Path, result: dict[str, Any]) -> dict[str, Any]:
    """Move the outputs to their places, and `result.json` with their digests last; returns what it holds.

    Args:
        staging: of `output_folder`, with every file but `result.json`.
        result: what `result.json` shall hold.
    """
    out = staging.parent
    files = {path.name: sha256(path) for path in sorted(staging.iterdir())}
    result = {**result, "files": {**files, RESULT_FILE: digest({**result, "files": files})}}
    with on_disk(out):
        for name in files:
            with (staging / name).open("rb") as file:
                os.fsync(file.fileno())
        write_json_atomic(staging / RESULT_FILE, result)  # vouches for what is moved, should this process be killed
        moved: list[str] = []
        try:
            for name in (*files, RESULT_FILE):
                os.replace(staging / name, out / name)
                moved.append(name)
        except BaseException:  # an interrupted call leaves none of its files
            for name in moved:
                (out / name).unlink(missing_ok=True)
            raise
    return result


def _not_writable(out: Path, error: OSError) -> str:
    return f"{out}: cannot be written to ({error.strerror}). Name another folder, or change the rights of this one."


def _lock(handle: int, out: Path) -> None:
    """Hold the folder until its handle is closed, by whatever end of the process."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            raise UserError(f"{out}: another `iac predict` writes there now. Wait for it, or name another.") from None
        # a file system without locks: two at once are the user's to avoid


def _written(out: Path) -> set[tuple[str, str]]:
    """Name and SHA-256 of all that an earlier call, whole or killed, has written to the folder."""
    known: set[tuple[str, str]] = set()
    for path in (out / RESULT_FILE, out / _STAGING / RESULT_FILE, out / _STAGING / _BEFORE):
        try:
            result = json.loads(path.read_text(encoding="utf-8"))
            files = dict(result["files"])
            is_own = files.pop(RESULT_FILE) == digest({**result, "files": files})
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            continue
        if is_own:
            known |= set(files.items())
            known.add((RESULT_FILE, sha256(path)))
    return known


def _refuse_foreign(
    out: Path, names: Sequence[str], optional: Sequence[str], written: set[tuple[str, str]], source: Path
) -> None:
    """Nothing that this command did not write is replaced.

    Raises:
        UserError: naming the files.
    """
    present = [name for name in names if os.path.lexists(out / name)]
    foreign = [name for name in present if not _is_own(out / name, written) or _is_same(out / name, source)]
    if os.path.lexists(out / _STAGING) and not _is_left_over(out / _STAGING, {*names, *optional, _BEFORE}):
        foreign.append(_STAGING)
    if foreign:
        raise UserError(
            f"{out}: holds {', '.join(foreign)}, which `iac predict` did not write there, or which has been changed "
            "since. Name another folder, or move them away."
        )


def _is_left_over(staging: Path, names: set[str]) -> bool:
    """Whether a killed call can have left the folder: it holds what such a call writes, and nothing else."""
    return (
        staging.is_dir()
        and not staging.is_symlink()
        and all(path.name in names or path.suffix == ".tmp" for path in staging.iterdir())
    )


def _is_own(path: Path, written: set[tuple[str, str]]) -> bool:
    return path.is_file() and not path.is_symlink() and (path.name, sha256(path)) in written


def _is_same(path: Path, source: Path) -> bool:
    return path.exists() and source.exists() and os.path.samefile(path, source)


def _remove_written(out: Path, names: Sequence[str], written: set[tuple[str, str]], source: Path) -> None:
    """Remove what an earlier call wrote; its `result.json` leaves its place first and vouches to the end."""
    staging = out / _STAGING
    staging.mkdir(exist_ok=True)
    own = [n for n in names if _is_own(out / n, written) and not _is_same(out / n, source)]
    if RESULT_FILE in own:
        os.replace(out / RESULT_FILE, staging / _BEFORE)
        own.remove(RESULT_FILE)
    for name in own:
        (out / name).unlink()
    shutil.rmtree(staging)
    staging.mkdir()
