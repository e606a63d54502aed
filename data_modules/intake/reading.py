"""The index of an export brought up to date: files walked, archives unpacked, headers read, by guarded processes."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data_modules.guarded import CRASHED, NO_MEMORY, RETURNED, TIMED_OUT, Guarded, GuardedPool, Limits, Outcome
from data_modules.intake import codes
from data_modules.intake.archives import Unpacking, unpack
from data_modules.intake.headers import ARCHIVE, DAMAGED, read_files
from data_modules.intake.index import Index
from data_modules.intake.walk import files_of, start_of
from data_modules.progress import shown

UNPACKED = "unpacked"
"""Folder of the private folder for members of archives, while an import runs."""
_CHUNK = 100  # files whose headers one call reads
_DEEPEST = 3  # archives within archives
_UNPACKING_S = 6 * 3600.0
_SPARE_BYTES = 2**30
_CODES = {CRASHED: codes.CRASHED, TIMED_OUT: codes.TIMED_OUT, NO_MEMORY: codes.TOO_LARGE}

Batch = list[tuple[int, str]]


def bring_up_to_date(index: Index, source: Path, private: Path, pool: GuardedPool, unpacked_gb: float) -> None:
    """Every file of the source is in the index with what its header says.

    Args:
        index: of an earlier import of the same, or empty.
        source: as the user gave it.
        private: folder for what archives hold.
        pool: processes that read headers, a hundred a call.
        unpacked_gb: that archives may hold in all.
    """
    folder = private / UNPACKED
    shutil.rmtree(folder, ignore_errors=True)
    index.begin()
    index.add(files_of(source), start_of(source))
    left = int(unpacked_gb * 2**30)
    _read_headers(index, pool)
    with Guarded(Limits(_UNPACKING_S, pool.limits.memory_gb)) as unpacking:
        for depth in range(_DEEPEST + 1):
            for archive in index.archives(depth):
                if depth == _DEEPEST:
                    found = f"an archive, {depth} deep within others"
                    index.set([(archive.id, {"kind": ARCHIVE, "code": codes.UNREADABLE, "found": found})])
                    continue
                target = folder / str(archive.id)
                target.parent.mkdir(parents=True, exist_ok=True)
                most = max(0, min(left, shutil.disk_usage(folder).free - _SPARE_BYTES))
                outcome = unpacking.call(unpack, Unpacking(Path(archive.place), target, most))
                index.set([(archive.id, _of_archive(outcome))])
                if outcome.how == RETURNED:
                    left -= sum(path.stat().st_size for path in target.iterdir())
                    index.add(
                        files_of(target), target, prefix=f"{archive.path}!/", names=outcome.value.names, depth=depth + 1
                    )
            _read_headers(index, pool)
    index.forget_unseen()


def _of_archive(outcome: Outcome) -> dict[str, Any]:
    if outcome.how != RETURNED:
        return {"kind": ARCHIVE, "code": _CODES.get(outcome.how, codes.UNREADABLE), "found": "an archive"}
    if not outcome.value.problem:
        return {"kind": ARCHIVE}
    code = codes.TOO_LARGE if outcome.value.too_large else codes.UNREADABLE
    return {"kind": ARCHIVE, "code": code, "found": f"an archive: {outcome.value.problem}"}


def _read_headers(index: Index, pool: GuardedPool) -> None:
    """Read what has not been read; a file that breaks its process costs that file alone."""
    todo = index.unread()
    if not todo:
        return
    batches = [todo[i : i + _CHUNK] for i in range(0, len(todo), _CHUNK)]
    for facts in shown(_read(pool, batches), len(todo), "headers", "file"):
        index.set([facts])
    index.commit()


def _read(pool: GuardedPool, batches: list[Batch]) -> Iterator[tuple[int, dict[str, Any]]]:
    alone: list[Batch] = []
    for batch, outcome in pool.results(_facts_of, batches):
        if outcome.how == RETURNED:
            yield from zip((number for number, _ in batch), outcome.value, strict=True)
        elif len(batch) > 1:
            alone += [[item] for item in batch]
        else:
            yield batch[0][0], {"kind": DAMAGED, "code": _CODES.get(outcome.how, codes.CRASHED), "found": "its header"}
    if alone:
        yield from _read(pool, alone)


def _facts_of(batch: Batch) -> list[dict[str, Any]]:
    return read_files([Path(place) for _, place in batch])
