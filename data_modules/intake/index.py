"""The index of files: what each file of an export is, on disk, so that a million of them need no memory.

It lies in the private folder, for it holds paths and raw identifiers. A file that has not changed since (size, time of
change) is not read again.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from data_modules.intake.headers import ARCHIVE, DAMAGED, OTHER, SLICE
from data_modules.intake.walk import Found

FILE = "index.sqlite"
_VERSION = 1
_TABLES = """
CREATE TABLE files (
    id INTEGER PRIMARY KEY, path TEXT, place TEXT, device TEXT, inode TEXT, size INTEGER, mtime INTEGER, link INTEGER,
    depth INTEGER, seen INTEGER, kind TEXT, code TEXT DEFAULT '', found TEXT DEFAULT '', patient TEXT DEFAULT '',
    study TEXT DEFAULT '', series TEXT DEFAULT '', instance TEXT DEFAULT '', date TEXT DEFAULT '', facts TEXT,
    sha256 TEXT, UNIQUE (device, inode)
);
CREATE INDEX by_study ON files (patient, study, series, instance);
CREATE INDEX by_kind ON files (kind);
CREATE TABLE owners (file INTEGER PRIMARY KEY, series_id TEXT, code TEXT, name TEXT);
CREATE INDEX by_series ON owners (series_id);
CREATE TABLE finished (series_id TEXT PRIMARY KEY, state TEXT);
"""


@dataclass(frozen=True, slots=True)
class IndexedFile:
    """A row of the index; attributes as its columns."""

    id: int
    path: str
    place: str
    size: int
    mtime: int
    depth: int
    kind: str
    code: str
    found: str
    patient: str
    study: str
    series: str
    instance: str
    date: str
    facts: str
    sha256: str | None


_COLUMNS = ", ".join(IndexedFile.__slots__)


class Index:
    """The index in a private folder; one process writes it at a time."""

    def __init__(self, private: Path) -> None:
        self._base = sqlite3.connect(private / FILE)
        if self._base.execute("PRAGMA user_version").fetchone()[0] != _VERSION:
            for (name,) in self._base.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
                self._base.execute(f"DROP TABLE {name}")
            self._base.executescript(_TABLES)
            self._base.execute(f"PRAGMA user_version = {_VERSION}")
            self._base.commit()
        self._base.execute("PRAGMA synchronous = NORMAL")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._base.close()

    def begin(self) -> None:
        """A new walk: no file has been seen yet."""
        self._base.execute("UPDATE files SET seen = 0")
        self._base.execute("DELETE FROM owners")

    def add(
        self, files: Iterable[Found], root: Path, *, prefix: str = "", names: Sequence[str] = (), depth: int = 0
    ) -> None:
        """Files that a walk finds.

        Args:
            files: what it finds.
            root: where it began.
            prefix: before the paths that people see.
            names: what people see instead of the numbers by which members of an archive are called.
            depth: of archives within archives.
        """
        for item in files:
            shown = prefix + (names[int(item.path)] if names else item.path)
            row = (shown, str(root / item.path), str(item.device), str(item.inode), item.size, item.mtime_ns)
            self._base.execute(
                "INSERT INTO files (path, place, device, inode, size, mtime, link, depth, seen) VALUES "
                "(?, ?, ?, ?, ?, ?, ?, ?, 1) ON CONFLICT (device, inode) DO UPDATE SET "
                # Where a file lies counts before where a link to it lies; a walk finds a file by either several times.
                "path = CASE WHEN seen AND link <= excluded.link THEN path ELSE excluded.path END, "
                "place = CASE WHEN seen AND link <= excluded.link THEN place ELSE excluded.place END, "
                "link = CASE WHEN seen AND link <= excluded.link THEN link ELSE excluded.link END, "
                "kind = CASE WHEN size = excluded.size AND mtime = excluded.mtime THEN kind END, "
                "sha256 = CASE WHEN size = excluded.size AND mtime = excluded.mtime THEN sha256 END, "
                "size = excluded.size, mtime = excluded.mtime, depth = excluded.depth, seen = 1",
                (*row, int(item.is_link), depth),
            )
        self._base.commit()

    def forget_unseen(self) -> None:
        """Files that no walk has found since `begin` are not there any more."""
        self._base.execute("DELETE FROM files WHERE seen = 0")
        self._base.commit()

    def unread(self) -> list[tuple[int, str]]:
        """Number and place of each file whose header has not been read."""
        return self._base.execute("SELECT id, place FROM files WHERE seen AND kind IS NULL ORDER BY place").fetchall()

    def count(self, *kinds: str) -> int:
        """How many files are of some kinds, or in all."""
        which = f"WHERE kind IN ({', '.join('?' * len(kinds))})" if kinds else ""
        count: int = self._base.execute(f"SELECT count(*) FROM files {which}", kinds).fetchone()[0]
        return count

    def set(self, facts: Iterable[tuple[int, dict[str, Any]]]) -> None:
        """What was read of files, of `headers.read_files`."""
        keys = ("kind", "code", "found", "patient", "study", "series", "instance", "date", "facts")
        self._base.executemany(
            f"UPDATE files SET {', '.join(f'{key} = ?' for key in keys)} WHERE id = ?",
            [(*(known.get(key, "") for key in keys), number) for number, known in facts],
        )

    def archives(self, depth: int) -> list[IndexedFile]:
        """The archives found at a depth of archives within archives."""
        return self._files("seen AND kind = ? AND depth = ?", ARCHIVE, depth)

    def damaged(self) -> Iterator[IndexedFile]:
        """Files without a readable header, and archives that could not be unpacked."""
        yield from self._files("kind = ? OR (kind = ? AND code != '')", DAMAGED, ARCHIVE)

    def exams(self) -> Iterator[list[IndexedFile]]:
        """The files of one examination of one patient after the other; only one is in memory."""
        pairs = self._base.execute(
            "SELECT DISTINCT patient, study FROM files WHERE kind IN (?, ?) ORDER BY patient, study", (SLICE, OTHER)
        ).fetchall()
        for patient, study in pairs:
            yield self._files("patient = ? AND study = ? AND kind IN (?, ?)", patient, study, SLICE, OTHER)

    def first_dates(self) -> dict[str, str]:
        """The date of each patient's first examination."""
        rows = self._base.execute("SELECT patient, min(date) FROM files WHERE date != '' GROUP BY patient")
        return dict(rows.fetchall())

    def sha256(self, file: IndexedFile) -> str:
        """Hash of a file's content; read once."""
        if file.sha256:
            return file.sha256
        with open(file.place, "rb") as content:
            digest = hashlib.file_digest(content, "sha256").hexdigest()
        self._base.execute("UPDATE files SET sha256 = ? WHERE id = ?", (digest, file.id))
        return digest

    def own(self, files: Iterable[tuple[int, str, str, str]]) -> None:
        """Whose each file is: its number, a series, a code and its name among the slices."""
        self._base.executemany("INSERT OR REPLACE INTO owners VALUES (?, ?, ?, ?)", files)

    def slices(self, series_id: str) -> list[tuple[str, str, str, int, int, str]]:
        """Of each slice of a series: place, name, SOPInstanceUID, size, time of change and facts; by name."""
        return self._base.execute(
            "SELECT place, name, instance, size, mtime, facts FROM owners JOIN files ON files.id = owners.file "
            "WHERE series_id = ? AND name != '' ORDER BY name",
            (series_id,),
        ).fetchall()

    def listing(self) -> Iterator[tuple[str, str, str, str]]:
        """Path, series, code and name of every file, in the order of paths."""
        yield from self._base.execute(
            "SELECT path, coalesce(series_id, ''), coalesce(owners.code, files.code), coalesce(name, '') FROM files "
            "LEFT JOIN owners ON owners.file = files.id ORDER BY path"
        )

    def finish(self, series_id: str, state: str) -> None:
        """A series has been read, with its files in a state."""
        self._base.execute("INSERT OR REPLACE INTO finished VALUES (?, ?)", (series_id, state))
        self._base.commit()

    def finished(self, series_id: str) -> str:
        """The state of the files with which a series was read; empty where it was not."""
        row = self._base.execute("SELECT state FROM finished WHERE series_id = ?", (series_id,)).fetchone()
        return str(row[0]) if row else ""

    def commit(self) -> None:
        """Keep what was written."""
        self._base.commit()

    def _files(self, where: str, *values: Any) -> list[IndexedFile]:
        rows = self._base.execute(
            f"SELECT {_COLUMNS} FROM files WHERE {where} ORDER BY series, instance, size, id", values
        )
        return [IndexedFile(*row) for row in rows]


def other_facts(file: IndexedFile) -> dict[str, str]:
    """What is known of a file that is no slice: modality and manufacturer."""
    known: dict[str, str] = json.loads(file.facts) if file.facts else {}
    return known
