"""The cohort table: one row a series, read and checked as a whole.

`cohort.csv` is the only registry of splits: pre-training, fine-tuning, development and test all read it.
"""

from __future__ import annotations

import csv
import math
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import pandas as pd

from data_modules.errors import UserError
from data_modules.files import replacing
from data_modules.scan.sidecar import read_sidecar

SPLITS = ("pretrain", "finetune", "dev", "test")
"""Every patient belongs to one of these, or, before `assign_splits`, to none."""

COLUMNS = {
    "patient_id": "study code of the patient; letters, digits, '.', '_' and '-'",
    "series_id": "unique code of the series; letters, digits, '.', '_' and '-'",
    "image": "NIfTI file or DICOM folder, relative to the table (or absolute)",
    "label": "NIfTI mask on the image's grid; may be empty",
    "split": "pretrain, finetune, dev or test; may be empty until splits are assigned",
    "slice_thickness_mm": "how thick a slab one slice averages; above 0; may be empty where the file says it",
    "kernel": "convolution kernel; may be empty",
    "manufacturer": "maker of the scanner; may be empty",
}
"""Columns that every cohort table has, and what they hold. Further columns are kept in `Series.extra`."""

SPACING = ("spacing_x_mm", "spacing_y_mm", "spacing_z_mm")
"""All three or none; checked against the file."""

OPTIONAL_COLUMNS = {
    **dict.fromkeys(SPACING, "voxel size along one axis; above 0; may be empty, else checked against the file"),
    "true_volume_mm3": "calcium volume known by construction (phantom); may be empty",
    "label_volume_mm3": "calcium volume of the label; may be empty; stratifies splits where no true volume is known",
    "dicom_series": "SeriesInstanceUID, where a DICOM folder holds several series; may be empty",
}
"""Columns that are understood where they are present."""


_SAFE_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")
_POSITIVE = ("slice_thickness_mm", *SPACING)
VOLUMES = ("true_volume_mm3", "label_volume_mm3")
_LISTED_PROBLEMS = 20


@dataclass(frozen=True)
class Series:
    """One row of the cohort table.

    Attributes:
        image: absolute path of the NIfTI file or DICOM folder.
        label: absolute path of the mask, None where there is none. A mask may be empty of voxels.
        split: one of `SPLITS`, or "" where none is assigned yet.
        slice_thickness_mm: how thick a slab one slice averages as the table gives it; None where it is empty. What
            counts is `PreparedSeries.slice_thickness_mm` (without a region: of `cohort.series.read_series`).
        spacing_mm: voxel size along the x, y and z axes of the image as the table gives it, None where it does not;
            nothing goes by it, but a warning says where the file has another.
        true_volume_mm3: calcium volume known by construction, None on real scans.
        extra: all further columns, as strings.
    """

    patient_id: str
    series_id: str
    image: Path
    label: Path | None
    split: str
    slice_thickness_mm: float | None
    spacing_mm: tuple[float, float, float] | None = None
    kernel: str = ""
    manufacturer: str = ""
    true_volume_mm3: float | None = None
    extra: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Cohort:
    """A validated cohort table; `series` in the order of its rows."""

    path: Path
    series: tuple[Series, ...]

    def split(self, *names: str) -> tuple[Series, ...]:
        """The series of the named splits, in the order of the table."""
        for name in names:
            if name not in SPLITS:
                raise UserError(
                    f"unknown split {name!r}; expected one of {', '.join(SPLITS)}{nearest_name(name, SPLITS)}"
                )
        return tuple(s for s in self.series if s.split in names)

    def patients(self, *names: str) -> tuple[str, ...]:
        """Sorted ids of the patients of the named splits."""
        return tuple(sorted({s.patient_id for s in self.split(*names)}))


def read_table(path: Path | str) -> pd.DataFrame:
    """The cohort table as strings (ids keep their zeros), unchecked but for its form; for `assign_splits`.

    The index is the row number that a spreadsheet shows (the header is row 1).

    Raises:
        UserError: when the file is missing, empty, not UTF-8 text, or its rows and header disagree.
    """
    path = Path(path)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.reader(file))
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such cohort table; make one, or set data.cohort") from None
    except (UnicodeDecodeError, csv.Error, IsADirectoryError) as error:
        raise UserError(f"{path}: cannot be read as a table ({error}); expected comma-separated UTF-8 text") from None
    if not rows or not any(rows[1:]):
        raise UserError(f"{path}: the table has no rows; expected a header and one row a series")
    header = rows[0]
    problems = [f"row 1: column {name!r} occurs twice; keep one" for name in _repeated(header)]
    problems += [
        f"row {number}: {len(row)} cells under {len(header)} columns; quote cells that contain a comma"
        for number, row in enumerate(rows[1:], start=2)
        if row and len(row) != len(header)
    ]
    raise_problems(path, problems)
    numbered = {number: row for number, row in enumerate(rows[1:], start=2) if row}
    return pd.DataFrame(list(numbered.values()), index=list(numbered), columns=header, dtype=str)


def write_cohort(path: Path | str, table: pd.DataFrame) -> None:
    """Write the table as CSV so that readers see the old one or the new one, never half of it."""
    path = Path(path)
    with replacing(path) as temporary:
        table.to_csv(temporary, index=False, lineterminator="\n", encoding="utf-8")


def read_cohort(path: Path | str) -> Cohort:
    """Read and validate a cohort table (`COLUMNS` describes it).

    Raises:
        UserError: listing all problems at once, each with row, column, value and remedy.
    """
    path = Path(os.path.abspath(path))
    table = read_table(path)
    problems = _column_problems(table)
    records = [(int(number), dict(zip(table.columns, row, strict=True))) for number, row in _rows(table)]
    for number, record in records:
        problems += [f"row {number}, column {column!r}: {text}" for column, text in _row_problems(record, path.parent)]
    problems += _repeated_values(records)
    problems += [
        f"column 'split': patient {patient!r} is in {' and '.join(splits)} (rows "
        f"{', '.join(str(n) for n, r in records if r.get('patient_id') == patient)}); a patient belongs to one split"
        for patient, splits in split_conflicts(
            (r.get("patient_id", ""), r.get("split", "")) for _, r in records
        ).items()
    ]
    raise_problems(path, problems)
    return Cohort(path, tuple(_series(record, path.parent) for _, record in records))


def _rows(table: pd.DataFrame) -> Iterable[tuple[Any, list[str]]]:
    return zip(table.index, table.to_numpy().tolist(), strict=True)


def _series(record: dict[str, str], folder: Path) -> Series:
    known = {*COLUMNS, *SPACING, "true_volume_mm3"}
    true_volume = record.get("true_volume_mm3", "")
    x, y, z = (float(record.get(column) or math.nan) for column in SPACING)
    return Series(
        patient_id=record["patient_id"],
        series_id=record["series_id"],
        image=folder / record["image"],
        label=folder / record["label"] if record["label"] else None,
        split=record["split"],
        slice_thickness_mm=float(thickness) if (thickness := record["slice_thickness_mm"]) else None,
        spacing_mm=None if math.isnan(x) else (x, y, z),
        kernel=record["kernel"],
        manufacturer=record["manufacturer"],
        true_volume_mm3=float(true_volume) if true_volume else None,
        extra={column: value for column, value in record.items() if column not in known},
    )


def _column_problems(table: pd.DataFrame) -> list[str]:
    if len(table.columns) == 1 and re.search(r"[;\t]", table.columns[0]):
        return ["row 1: one column only, with ';' or tabs in its name; separate cells by commas"]
    unknown = [c for c in table.columns if c not in COLUMNS]
    return [
        f"column {column!r} is missing ({meaning}); add it{nearest_name(column, unknown)}"
        for column, meaning in COLUMNS.items()
        if column not in table
    ]


def _row_problems(record: dict[str, str], folder: Path) -> Iterable[tuple[str, str]]:
    """(column, what is wrong) of one row; columns that are missing altogether are reported elsewhere."""
    for column in ("patient_id", "series_id"):
        value = record.get(column)
        if value is not None and not _SAFE_ID.fullmatch(value):
            yield column, f"{value!r} is not an id; use letters, digits, '.', '_', '-' (not first: '.', '-')"
    split = record.get("split", "")
    if split and split not in SPLITS:
        yield "split", f"{split!r} is unknown; use {', '.join(SPLITS)} or leave it empty{nearest_name(split, SPLITS)}"
    if record.get("slice_thickness_mm") == "" and (problem := _thickness_problem(folder / record.get("image", ""))):
        yield "slice_thickness_mm", problem
    given = [column for column in SPACING if record.get(column)]
    if 0 < len(given) < len(SPACING):
        yield given[0], f"is given without {' and '.join(c for c in SPACING if c not in given)}; give all three or none"
    for column in _POSITIVE:
        if record.get(column) and not number_in(record[column]) > 0:
            yield column, f"{record[column]!r}; expected a number of millimetres above 0"
    for column in VOLUMES:
        if record.get(column) and not number_in(record[column]) >= 0:
            yield column, f"{record[column]!r}; expected a volume in mm³ of at least 0, or nothing"
    if "image" in record and not (record["image"] and (folder / record["image"]).exists()):
        yield "image", f"{record['image']!r} does not exist; paths are relative to the table's folder"
    if record.get("label") and not (folder / record["label"]).is_file():
        yield "label", f"{record['label']!r} does not exist; paths are relative to the table's folder; empty: no label"


def _thickness_problem(image: Path) -> str:
    """Why the thickness may not be left to the file; empty where it may (DICOM headers are read in preparation)."""
    if not image.is_file():
        return ""
    try:
        known = read_sidecar(image).get("SliceThickness")
    except UserError as error:
        return f"'', and the file beside the image does not help: {error}"
    needed = "'' and no JSON file beside the NIfTI gives SliceThickness; expected a number of millimetres above 0"
    return "" if known is not None else needed


def _repeated_values(records: list[tuple[int, dict[str, str]]]) -> list[str]:
    """Series ids that occur twice, and images that two patients share (leakage in disguise)."""
    by_id: defaultdict[str, list[int]] = defaultdict(list)
    by_image: defaultdict[tuple[str, str], dict[str, int]] = defaultdict(dict)
    for number, record in records:
        if record.get("series_id"):
            by_id[record["series_id"]].append(number)
        if record.get("image"):
            image = os.path.normpath(record["image"]), record.get("dicom_series", "")
            by_image[image].setdefault(record.get("patient_id", ""), number)
    problems = [
        f"column 'series_id': {name!r} occurs in rows {', '.join(map(str, numbers))}; give each series its own id"
        for name, numbers in by_id.items()
        if len(numbers) > 1
    ]
    return problems + [
        f"column 'image': {image!r} belongs to {len(owners)} patients (rows {', '.join(map(str, owners.values()))}); "
        "a scan belongs to one patient"
        for (image, _), owners in by_image.items()
        if len(owners) > 1
    ]


def split_conflicts(pairs: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """Patients that occur with two splits or more, and which."""
    splits: defaultdict[str, set[str]] = defaultdict(set)
    for patient, split in pairs:
        if split:
            splits[patient].add(split)
    return {patient: sorted(names) for patient, names in sorted(splits.items()) if len(names) > 1}


def raise_problems(path: Path, problems: list[str]) -> None:
    """One error of all problems of a cohort table, the first twenty in full; nothing where there is none."""
    if not problems:
        return
    lines = [f"{path}: {len(problems)} problem{'s' if len(problems) > 1 else ''} in the cohort table"]
    lines += [f"  {problem}" for problem in problems[:_LISTED_PROBLEMS]]
    if len(problems) > _LISTED_PROBLEMS:
        lines.append(f"  … and {len(problems) - _LISTED_PROBLEMS} more")
    raise UserError("\n".join(lines))


def nearest_name(name: str, choices: Iterable[str]) -> str:
    """What to add to a message about an unknown name; empty where no choice is like it."""
    nearest = get_close_matches(name, list(choices), n=1)
    return f"; did you mean {nearest[0]!r}?" if nearest else ""


def _repeated(names: Sequence[str]) -> list[str]:
    return sorted({name for name in names if names.count(name) > 1})


def number_in(text: Any) -> float:
    """The number a cell holds; NaN where it holds none (or infinity)."""
    try:
        value = float(text)
    except (TypeError, ValueError):
        return math.nan
    return value if math.isfinite(value) else math.nan
