"""The cohort table: one row a series, read and checked as a whole.

`cohort.csv` is the only registry of splits: pre-training, fine-tuning, development and test all read it.
"""

from __future__ import annotations

import errno
import math
import os
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import pandas as pd

from data_modules.cohort.ids import Records, id_problem, like_ids, rows_by, some_rows
from data_modules.csv_files import CsvForm, CsvTable, number_in, numbers_in, raise_problems, read_csv, write_csv
from data_modules.errors import UserError
from data_modules.files import write_bytes_atomic
from data_modules.scan.plausible import PLAUSIBLE_MM, is_plausible_mm
from data_modules.scan.sidecar import read_sidecar

WHAT = "cohort table"
"""In messages."""

SPLITS = ("pretrain", "finetune", "dev", "test")
"""Every patient belongs to one of these, or, before `assign_splits`, to none."""

FOLDED = ("finetune", "dev")
"""Splits whose patients can have a fold (`data_modules.cohort.folds`)."""

COLUMNS = {
    "patient_id": "study code of the patient; at most 128 letters, digits, '.', '_' and '-'",
    "series_id": "unique code of the series, not by capitals alone; at most 128 letters, digits, '.', '_' and '-'",
    "image": "NIfTI file or DICOM folder, relative to the table (or absolute)",
    "label": "NIfTI mask on the image's grid; may be empty",
    "split": "pretrain, finetune, dev or test; may be empty until splits are assigned",
    "slice_thickness_mm": "how thick a slab one slice averages; 0.1 to 20; may be empty where the file says it",
    "kernel": "convolution kernel; may be empty",
    "manufacturer": "maker of the scanner; may be empty",
}
"""Columns that every cohort table has, and what they hold. Further columns are kept in `Series.extra`."""

SPACING = ("spacing_x_mm", "spacing_y_mm", "spacing_z_mm")
"""All three or none; checked against the file."""

OPTIONAL_COLUMNS = {
    **dict.fromkeys(SPACING, "voxel size along one axis; 0.1 to 20; may be empty, else checked against the file"),
    "true_volume_mm3": "calcium volume known by construction (phantom); may be empty",
    "label_volume_mm3": "calcium volume of the label, which stratifies splits where no true volume is known; may be "
    "empty: `iac split` measures the mask; else checked against the mask",
    "fold": "0, 1, … of a patient of finetune or dev, for `data.fold`; may be empty: `iac split --folds`",
    "label_2": "NIfTI mask by a second reader, on the image's grid, who did not see the label; nothing learns from "
    "it: it tells how far two people agree; may be empty",
    "dicom_series": "SeriesInstanceUID, where a DICOM folder holds several series; may be empty",
    "age": "patient's age in years, which chooses among several templates (`data.grid.template`); may be empty",
    "roi_center_lps_mm": "middle of the region of interest, `x y z` in DICOM's coordinates (mm), instead of "
    "registration; may be empty",
    "distinct": "yes: the id of this patient is like another's (`7` and `007`), and they are two people; may be empty",
}
"""Columns that are understood where they are present."""

VOLUMES = ("true_volume_mm3", "label_volume_mm3")
_LENGTHS = ("slice_thickness_mm", *SPACING)
_LARGEST_MM3 = 1e6


@dataclass(frozen=True)
class Series:
    """One row of the cohort table.

    Attributes:
        image: absolute path of the NIfTI file or DICOM folder.
        label: absolute path of the mask, None where there is none. A mask may be empty of voxels.
        label_2: likewise, by a second reader; only beside a label.
        split: one of `SPLITS`, or "" where none is assigned yet.
        slice_thickness_mm: how thick a slab one slice averages as the table gives it; None where it is empty. What
            counts is `PreparedSeries.slice_thickness_mm` (without a region: of `cohort.series.read_series`).
        spacing_mm: voxel size along the x, y and z axes of the image as the table gives it, None where it does not;
            nothing goes by it, but a warning says where the file has another.
        true_volume_mm3: calcium volume known by construction, None on real scans.
        fold: which fold the patient belongs to; None where it has none.
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
    fold: int | None = None
    label_2: Path | None = None
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


def read_given(path: Path | str) -> CsvTable:
    """The cohort table as it was written, and in which form.

    Raises:
        UserError: when the file is missing, empty, not UTF-8 text, or its rows and header disagree.
    """
    return read_csv(path, COLUMNS, WHAT, "make one, or set data.cohort")


def read_table(path: Path | str) -> pd.DataFrame:
    """The cohort table as text (ids keep their zeros), unchecked but for its form; numbers have decimal points.

    The index is the row number that a spreadsheet shows (the header is row 1).

    Raises:
        UserError: as `read_given`.
    """
    return with_points(read_given(path))


def with_points(given: CsvTable) -> pd.DataFrame:
    """The cells of a cohort table, numbers with decimal points."""
    return given.with_points((*_LENGTHS, *VOLUMES))


def write_cohort(path: Path | str, table: pd.DataFrame, form: CsvForm | None = None) -> None:
    """Write the table as CSV so that readers see the old one or the new one, never half of it.

    Args:
        path: the table; where it is a link, what it leads to is replaced.
        table: any values; missing ones become empty.
        form: separator, ends of lines and byte order mark; by default commas, and lines that end as on Unix.

    Raises:
        UserError: when the folder does not take it.
        OSError: for anything else that the file system says.
    """
    path = Path(path).resolve()
    cells = table.astype(object).where(table.notna(), "").astype(str)
    try:
        write_bytes_atomic(path, write_csv(cells, form or CsvForm()))
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        raise UserError(f"{path}: the {WHAT} cannot be written ({error.strerror}); make its folder writable") from None


def read_cohort(path: Path | str) -> Cohort:
    """Read and validate a cohort table (`COLUMNS` describes it).

    Raises:
        UserError: listing all problems at once, each with row, column, value and remedy.
    """
    return check_table(path, read_table(path))


def check_table(path: Path | str, table: pd.DataFrame) -> Cohort:
    """The cohort of a table, if nothing is wrong with it.

    Args:
        path: of the table, whose folder relative paths start from.
        table: of `read_table`.

    Raises:
        UserError: as `read_cohort`.
    """
    path = Path(os.path.abspath(path))
    problems = _column_problems(table)
    records = [(int(number), dict(zip(table.columns, row, strict=True))) for number, row in _rows(table)]
    for number, record in records:
        problems += [f"row {number}, column {column!r}: {text}" for column, text in _row_problems(record, path.parent)]
    problems += _repeated_values(records, path.parent)
    problems += like_ids(records)
    rows = rows_by("patient_id", records)
    problems += [
        f"column {column!r}: patient {patient!r} is in {' and '.join(values)} ({some_rows(rows[patient])}); a patient "
        f"belongs to one {column}"
        for column in ("split", "fold")
        for patient, values in split_conflicts((r.get("patient_id", ""), r.get(column, "")) for _, r in records).items()
    ]
    raise_problems(path, problems, WHAT)
    return Cohort(path, tuple(_series(record, path.parent) for _, record in records))


def _rows(table: pd.DataFrame) -> Iterable[tuple[Any, list[str]]]:
    return zip(table.index, table.to_numpy().tolist(), strict=True)


def _series(record: dict[str, str], folder: Path) -> Series:
    known = {*COLUMNS, *SPACING, "true_volume_mm3", "distinct", "fold", "label_2"}
    thickness, true_volume = record["slice_thickness_mm"], record.get("true_volume_mm3", "")
    x, y, z = (number_in(record.get(column, "")) for column in SPACING)
    return Series(
        patient_id=record["patient_id"],
        series_id=record["series_id"],
        image=folder / record["image"],
        label=folder / record["label"] if record["label"] else None,
        split=record["split"],
        slice_thickness_mm=number_in(thickness) if thickness else None,
        spacing_mm=None if math.isnan(x) else (x, y, z),
        kernel=record["kernel"],
        manufacturer=record["manufacturer"],
        true_volume_mm3=number_in(true_volume) if true_volume else None,
        fold=int(record["fold"]) if record.get("fold") else None,
        label_2=folder / record["label_2"] if record.get("label_2") else None,
        extra={column: value for column, value in record.items() if column not in known},
    )


def _column_problems(table: pd.DataFrame) -> list[str]:
    unknown = [c for c in table.columns if c not in COLUMNS]
    return [
        f"column {column!r} is missing ({meaning}); add it{nearest_name(column, unknown)}"
        for column, meaning in COLUMNS.items()
        if column not in table
    ]


def _row_problems(record: dict[str, str], folder: Path) -> Iterable[tuple[str, str]]:
    """(column, what is wrong) of one row; columns that are missing altogether are reported elsewhere."""
    for column in ("patient_id", "series_id"):
        if column in record and (problem := id_problem(record[column])):
            yield column, problem
    split = record.get("split", "")
    if split and split not in SPLITS:
        yield "split", f"{split!r} is unknown; use {', '.join(SPLITS)} or leave it empty{nearest_name(split, SPLITS)}"
    if record.get("slice_thickness_mm") == "" and (problem := _thickness_problem(folder / record.get("image", ""))):
        yield "slice_thickness_mm", problem
    given = [column for column in SPACING if record.get(column)]
    if 0 < len(given) < len(SPACING):
        yield given[0], f"is given without {' and '.join(c for c in SPACING if c not in given)}; give all three or none"
    low, high = PLAUSIBLE_MM
    for column in _LENGTHS:
        if record.get(column) and not is_plausible_mm(number_in(record[column])):
            yield column, f"{record[column]!r}; expected a number of millimetres from {low:g} to {high:g}"
    for column in VOLUMES:
        if record.get(column) and not 0 <= number_in(record[column]) <= _LARGEST_MM3:
            yield column, f"{record[column]!r}; expected a volume in mm³ from 0 to {_LARGEST_MM3:,.0f}, or nothing"
    image = folder / record.get("image", "")
    if "image" in record and not (record["image"] and (os.path.isfile(image) or os.path.isdir(image))):
        is_there = record["image"] and os.path.exists(image)
        wrong = "is neither a file nor a folder" if is_there else "does not exist"
        yield "image", f"{record['image']!r} {wrong}; paths are relative to the table's folder"
    for column in ("label", "label_2"):
        if record.get(column) and not os.path.isfile(folder / record[column]):
            wrong = "is no file" if os.path.exists(folder / record[column]) else "does not exist"
            yield column, f"{record[column]!r} {wrong}; paths are relative to the table's folder; empty: no label"
    if record.get("label_2") and not record.get("label"):
        yield "label_2", f"{record['label_2']!r} without a label; give the first reader's mask as label"
    elif record.get("label_2") and folder / record["label_2"] == folder / record["label"]:
        yield "label_2", f"{record['label_2']!r} is the label itself; give the second reader's own mask, or nothing"
    if fold := record.get("fold"):
        if not (fold.isascii() and fold.isdigit() and len(fold) <= 3 and str(int(fold)) == fold):
            yield "fold", f"{fold!r}; expected 0, 1, … or nothing: `iac split --folds` fills it"
        elif split not in FOLDED:
            yield "fold", f"{fold!r} for a patient of {split or 'no split'}; only those of finetune and dev have a fold"
    if (center := record.get("roi_center_lps_mm")) and not numbers_in(center, 3):
        yield "roi_center_lps_mm", f"{center!r}; expected three numbers of mm, as -4.5 12 31.25 (LPS), or nothing"
    if record.get("distinct", "").strip().casefold() not in ("", "yes"):
        yield "distinct", f"{record['distinct']!r}; expected yes, or nothing"


def _thickness_problem(image: Path) -> str:
    """Why the thickness may not be left to the file; empty where it may (DICOM headers are read in preparation)."""
    if not os.path.isfile(image):
        return ""
    try:
        known = read_sidecar(image).get("SliceThickness")
    except UserError as error:
        return f"'', and the file beside the image does not help: {error}"
    needed = "'' and no JSON file beside the NIfTI gives SliceThickness; expected how thick they are, in mm"
    return "" if known is not None else needed


def _repeated_values(records: Records, folder: Path) -> list[str]:
    """Series ids that occur twice, and images that two patients share (leakage in disguise)."""
    by_image: defaultdict[tuple[str, str], dict[str, int]] = defaultdict(dict)
    written: dict[tuple[str, str], str] = {}
    for number, record in records:
        if record.get("image"):
            image = os.path.realpath(folder / record["image"]), record.get("dicom_series", "")
            by_image[image].setdefault(record.get("patient_id", ""), number)
            written.setdefault(image, record["image"])
    problems = [
        f"column 'series_id': {name!r} occurs in {some_rows(numbers)}; give each series its own id"
        for name, numbers in rows_by("series_id", records).items()
        if len(numbers) > 1
    ]
    return problems + [
        f"column 'image': {written[image]!r} belongs to {len(owners)} patients ({some_rows(list(owners.values()))}); "
        "a scan belongs to one patient"
        for image, owners in by_image.items()
        if len(owners) > 1
    ]


def split_conflicts(pairs: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """Patients that occur with two splits or more, and which."""
    splits: defaultdict[str, set[str]] = defaultdict(set)
    for patient, split in pairs:
        if split:
            splits[patient].add(split)
    return {patient: sorted(names) for patient, names in sorted(splits.items()) if len(names) > 1}


def nearest_name(name: str, choices: Iterable[str]) -> str:
    """What to add to a message about an unknown name; empty where no choice is like it."""
    nearest = get_close_matches(name, list(choices), n=1)
    return f"; did you mean {nearest[0]!r}?" if nearest else ""
