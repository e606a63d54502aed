"""The registry of test sets: which looks they have had, and as what else their scans were used.

A test set is known by the content of its images, so that a copy of the cohort elsewhere, other ids, or other folders
for results do not make it a new one. What happens is written down twice: in `test_registry/` beside the cohort table,
and in the user's own registry (`IAC_REGISTRY`, else `~/.local/state/iac_lightning/test_registry`). What stands in one
of them counts, and what one lacks is said. Simulated cohorts are registered beside their table alone.

Each user writes a file of their own, a line of JSON an event, never changed afterwards. Every line holds a digest of
all before it, so that a line that was changed or taken out is noticed. Neither ids nor names are written: images are
known by digests, models by those of their weights or predictions.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock

from data_modules.cohort.table import Series

FOLDER = "test_registry"
HOME = "IAC_REGISTRY"
"""Variable that names the user's registry."""

_ENDING = ".registry.jsonl"

USE = "use"
"""Event: images were learnt from, or chosen by."""

Entry = dict[str, Any]


@dataclass(frozen=True)
class Registry:
    """Where the events of a cohort are written.

    Attributes:
        beside: folder beside the cohort table.
        own: of the user; None: only beside the table.
    """

    beside: Path
    own: Path | None

    @property
    def folders(self) -> tuple[Path, ...]:
        """All of them."""
        return (self.beside, self.own) if self.own else (self.beside,)

    def add(self, key: str, what: str, **facts: Any) -> bool:
        """Write an event down, unless it stands there; on disk when this returns.

        Args:
            key: of the event; one with the same key is the same.
            what: happened.
            facts: plain types.

        Returns:
            Whether it stands in at least one of the folders.
        """
        event = {"key": key, "what": what, "time": datetime.now(UTC).isoformat(timespec="seconds"), **facts}
        beside = _append(self.beside, event | {"beside": True})
        own = _append(self.own, event | {"beside": beside}) if self.own else False
        return beside or own

    def events(self) -> dict[str, Entry]:
        """All events by key, oldest first."""
        found = [entry for folder in self.folders for path in _files(folder) for entry in _lines(path)[0]]
        return {e["key"]: e for e in sorted(found, key=lambda e: str(e.get("time", "")))}

    def changed_files(self) -> list[Path]:
        """Files of the registry in which a line was changed, or taken out from among others."""
        return [path for folder in self.folders for path in _files(folder) if not _lines(path)[1]]

    def missing_beside(self) -> set[str]:
        """Keys of the events that the user's registry knows to have been written beside a table, and not this one."""
        if self.own is None:
            return set()
        here = {entry["key"] for path in _files(self.beside) for entry in _lines(path)[0]}
        return {e["key"] for path in _files(self.own) for e in _lines(path)[0] if e.get("beside")} - here


def registry_of(table: Path, series: Iterable[Series]) -> Registry:
    """The registry of a cohort; of a simulated one (true volumes are known of every series) beside its table alone."""
    simulated = all(item.true_volume_mm3 is not None for item in series)
    return Registry(Path(table).absolute().parent / FOLDER, None if simulated else own_folder())


def register_use(table: Path, everyone: Iterable[Series], scans: Iterable[tuple[Series, Sequence[str]]]) -> None:
    """Write down which images are learnt from, or chosen by, and in which split: any may be in another's test set.

    Args:
        table: of the cohort.
        everyone: all series of the table.
        scans: the series with the digests of their images.
    """
    by_split: dict[str, set[str]] = {}
    for series, digests in scans:
        by_split.setdefault(series.split, set()).update(digests[:1])
    registry = registry_of(table, everyone)
    for split, images in by_split.items():
        if images:
            registry.add(f"use-{_link(split, {'images': sorted(images)})}", USE, split=split, images=sorted(images))


def own_folder() -> Path | None:
    """The folder of the user's registry; None where the user has no home."""
    if given := os.environ.get(HOME):
        return Path(given)
    try:
        state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    except RuntimeError:
        return None
    return Path(state) / "iac_lightning" / FOLDER


def _files(folder: Path) -> list[Path]:
    try:
        return sorted(folder.glob(f"*{_ENDING}"))
    except OSError:
        return []


def _append(folder: Path, event: Entry) -> bool:
    """Whether an event stands in the user's file of a folder now."""
    path = folder / f"{os.getuid() if hasattr(os, 'getuid') else 'user'}{_ENDING}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{path}.lock"):
            entries, _ = _lines(path)
            if any(entry["key"] == event["key"] for entry in entries):
                return True
            chain = _link(entries[-1]["chain"] if entries else "", event)
            with path.open("ab+") as file:
                torn = file.seek(0, os.SEEK_END) and (file.seek(-1, os.SEEK_END), file.read(1))[1] != b"\n"
                line = json.dumps({**event, "chain": chain}).encode()
                file.write((b"\n" if torn else b"") + line + b"\n")
                file.flush()
                os.fsync(file.fileno())
    except OSError:
        return False
    return True


def _lines(path: Path) -> tuple[list[Entry], bool]:
    """The events of a file, and whether they are those that were written; a line that a kill cut off is none."""
    found: list[Entry] = []
    whole = True
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return [], True
    for line in text.splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if not isinstance(entry, dict) or not isinstance(entry.get("key"), str):
            continue
        entry.setdefault("chain", "")
        event = {name: value for name, value in entry.items() if name != "chain"}
        whole = whole and entry["chain"] == _link(found[-1]["chain"] if found else "", event)
        found.append(entry)
    return found, whole


def _link(before: str, event: Mapping[str, Any]) -> str:
    return hashlib.sha256((before + json.dumps(event, sort_keys=True)).encode()).hexdigest()[:16]
