"""Ids of patients and series: what they may be, and which of them are one patient in all likelihood."""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence

Records = Sequence[tuple[int, dict[str, str]]]
"""Row number and cells by column, of each row of a table."""

MAX_LENGTH = 128
"""Of an id, for ids name files and folders, of which most systems take 255 characters, endings included."""

RESERVED = ("failed.csv", "warnings.csv", "settings.json")
"""Files that lie beside the folders of the prepared series."""

_LISTED_ROWS = 10
_DECIMAL = re.compile(r"\d+\.0")
_WITHIN_LETTERS = re.compile(r"(?<=[^\W\d_])_+(?=[^\W\d_])")
_SAFE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")


def id_problem(name: str) -> str:
    """What is wrong with an id; empty where nothing is."""
    if len(name) > MAX_LENGTH:
        return f"'{name[:20]}…' has {len(name)} characters; use at most {MAX_LENGTH}, for files are named by it"
    if not _SAFE.fullmatch(name):
        return f"{name!r} is not an id; use letters, digits, '.', '_', '-' (not first: '.', '-')"
    if name.casefold() in RESERVED:
        return f"{name!r} is the name of a file that lies beside the prepared series; use another"
    return ""


def alike(names: Iterable[str]) -> list[list[str]]:
    """Groups of ids that are one in all likelihood (`normal_form`), each sorted, in the order of their first ids."""
    groups: defaultdict[str, list[str]] = defaultdict(list)
    for name in sorted(set(names)):
        groups[normal_form(name)].append(name)
    return sorted(group for form, group in groups.items() if len(group) > 1 and form)


def normal_form(name: str) -> str:
    """What ids that are one in all likelihood have in common.

    Ids are alike that differ only in capitals, in zeros before a number, in the width of letters, in underscores within
    letters, or in what stands between letters and numbers: `P9`, `p9`, `P009`, `P-9` and `P9 `; `AB9` and `A_B9`; `9`
    and the `9.0` that programs make of it. Those whose letters or numbers differ never are: `1_2` and `12` are two.
    """
    text = unicodedata.normalize("NFKC", name).casefold()
    text = text.removesuffix(".0") if _DECIMAL.fullmatch(text) else text
    parts = re.findall(r"[^\W\d_]+|\d+", _WITHIN_LETTERS.sub("", text))
    return "-".join((part.lstrip("0") or "0") if part.isdigit() else part for part in parts)


def like_ids(records: Records) -> list[str]:
    """Patients that are one in all likelihood, unless their rows say otherwise; series whose folders may be one."""
    patients, series = rows_by("patient_id", records), rows_by("series_id", records)

    def shown(names: Iterable[str], rows: dict[str, list[int]]) -> str:
        return ", ".join(f"{name!r} ({some_rows(rows[name])})" for name in names)

    distinct = {r.get("patient_id") for _, r in records if r.get("distinct", "").strip().casefold() == "yes"}
    by_folder: defaultdict[str, list[str]] = defaultdict(list)
    for name in sorted(series):
        by_folder[name.casefold()].append(name)
    return [
        f"column 'patient_id': {shown(names, patients)}: are these one patient? Then write one id. Where they are "
        "several, write yes for each into a column 'distinct'"
        for names in alike(patients)
        if not distinct.issuperset(names)
    ] + [
        f"column 'series_id': {shown(names, series)} differ by capitals alone, and folders are named by them, which "
        "some disks cannot tell apart; name them otherwise"
        for names in by_folder.values()
        if len(names) > 1
    ]


def rows_by(column: str, records: Records) -> dict[str, list[int]]:
    """The rows of each value of a column, in the order of the table; rows without a value are left out."""
    rows: defaultdict[str, list[int]] = defaultdict(list)
    for number, record in records:
        if record.get(column):
            rows[record[column]].append(number)
    return dict(rows)


def some_rows(numbers: Sequence[int]) -> str:
    """Row numbers in words, the first ten."""
    listed = ", ".join(str(number) for number in numbers[:_LISTED_ROWS])
    return f"row{'s' if len(numbers) > 1 else ''} {listed}{' …' if len(numbers) > _LISTED_ROWS else ''}"
