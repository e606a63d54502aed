"""What a store lists for people: the series that could not be prepared, and what was remarked on the others."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from data_modules.csv_files import read_csv
from data_modules.errors import UserError
from data_modules.files import write_text_atomic

FAILED_FILE = "failed.csv"
"""Beside the prepared series: those that could not be prepared, and why."""

WARNINGS_FILE = "warnings.csv"
"""Beside the prepared series: what was remarked on them."""


def read_failed(directory: Path) -> dict[str, tuple[str, str]]:
    """(reason, state of the source files) by series id; none of a file that is no such list, which is written anew."""
    columns = ["series_id", "reason", "source_state"]
    try:
        cells = read_csv(directory / FAILED_FILE, columns).cells
    except UserError:
        return {}
    if not set(columns) <= set(cells.columns):
        return {}
    return {name: (reason, state) for name, reason, state in cells[columns].to_numpy().tolist()}


def write_failed(directory: Path, failed: dict[str, tuple[str, str]]) -> None:
    """Keep `failed.csv` of `read_failed`'s form; no file where none has failed. Only under the store's lock."""
    path = directory / FAILED_FILE
    if not failed:
        path.unlink(missing_ok=True)
        return
    rows = [(name, reason, state) for name, (reason, state) in sorted(failed.items())]
    write_text_atomic(path, _csv_text(("series_id", "reason", "source_state"), rows))


def warnings_text(rows: Sequence[tuple[str, str]]) -> str:
    """(series id, warning) of each warning as CSV; empty where there is none."""
    return _csv_text(("series_id", "warning"), rows) if rows else ""


def write_warnings(directory: Path, rows: Sequence[tuple[str, str]]) -> None:
    """Keep `warnings.csv`; no file where there is no warning. Only under the store's lock."""
    if text := warnings_text(rows):
        write_text_atomic(directory / WARNINGS_FILE, text)
    else:
        (directory / WARNINGS_FILE).unlink(missing_ok=True)


def _csv_text(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([header, *rows])
    return text.getvalue()
