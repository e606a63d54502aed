"""The record of looks at the test split: one line of JSON each in `<run>/test_looks.jsonl`, written before the look.

A further line says that a look has come to its end. One that was cut off (a kill, a full disk) is taken up by the next
command that would see exactly the same: then there is one evaluation, and one look. Whatever could show something else
(weights, settings, calibration, data, another command), and every command after an end, is a look of its own.
"""

from __future__ import annotations

import json
import os
import uuid
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock

from data_modules.cohort.look import GUARDED, RecordedLook
from data_modules.errors import UserError

FILE = "test_looks.jsonl"


def record_look(
    directory: Path, what: str, split: str, config_hash: str, checkpoint_sha256: str | None, seen: str | None = None
) -> RecordedLook:
    """Write a look down, on disk when this returns; what it gives opens the test split (`data_modules.cohort.look`).

    Several processes may write at once. A line that was cut off by a crash stays apart from the next one; whoever wrote
    it has seen nothing.

    Args:
        directory: of the run, or of an external model.
        what: looks: evaluate, report, compare, …
        split: which split.
        config_hash: of the settings that decide what is seen.
        checkpoint_sha256: which weights; None where they are not known.
        seen: digest of everything else that decides what is seen; None: not known, so that no look is taken up.

    Raises:
        UserError: when it cannot be written: then nothing may be looked at.
    """
    path = Path(directory) / FILE
    facts: dict[str, Any] = {
        "what": what,
        "split": split,
        "config_hash": config_hash,
        "checkpoint_sha256": checkpoint_sha256,
        **({"seen": seen} if seen else {}),
    }
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{path}.lock"):
            begun = _cut_off(directory, facts) if seen else None
            if begun is not None:
                _append(path, {"id": begun, "continued": _now()})
                return RecordedLook(path, begun)
            entry = {"id": uuid.uuid4().hex[:12], "time": _now(), **facts}
            _append(path, entry)
    except OSError as error:
        raise UserError(
            f"{path}: the look at the split '{split}' cannot be recorded ({error.strerror}), so it is not taken. Make "
            "the folder writable."
        ) from None
    return RecordedLook(path, str(entry["id"]))


def end_look(look: RecordedLook | None) -> None:
    """Note that all of a look was shown; a later one is another. Where it cannot be noted, nothing is lost."""
    if look is not None:
        with suppress(OSError), FileLock(f"{look.path}.lock"):
            _append(look.path, {"id": look.id, "ended": _now()})


def looks(directory: Path) -> list[dict[str, Any]]:
    """All looks on record, oldest first; lines that were cut off are left out."""
    return [entry for entry in _lines(directory) if "what" in entry]


def _cut_off(directory: Path, facts: dict[str, Any]) -> str | None:
    """Id of a look at the same that has not come to its end."""
    entries = _lines(directory)
    ended = {entry["id"] for entry in entries if "ended" in entry}
    return next((e["id"] for e in entries if e["id"] not in ended and facts.items() <= e.items()), None)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _append(path: Path, entry: dict[str, Any]) -> None:
    """A line, on disk when this returns; after one that was cut off, on a line of its own."""
    with path.open("ab+") as file:
        torn = False
        if file.seek(0, os.SEEK_END):
            file.seek(-1, os.SEEK_END)
            torn = file.read(1) != b"\n"
        file.write((b"\n" if torn else b"") + json.dumps(entry).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def _lines(directory: Path) -> list[dict[str, Any]]:
    path = Path(directory) / FILE
    found = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else ():
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict) and "id" in entry:
            found.append(entry)
    return found


def count_looks(directory: Path, split: str = GUARDED) -> dict[str, int]:
    """How often a model was looked at on a split: `n`, and under how many settings (`n_configs`) and `n_weights`."""
    found = [entry for entry in looks(directory) if entry.get("split") == split]
    weights = {entry.get("checkpoint_sha256") for entry in found} - {None}
    return {
        "n": len(found),
        "n_configs": len({entry.get("config_hash") for entry in found}),
        "n_weights": len(weights),
    }
