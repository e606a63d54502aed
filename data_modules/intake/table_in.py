"""Any CSV or TSV table of images as rows of a cohort: its columns mapped to those of the cohort table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from data_modules.cohort.table import COLUMNS, nearest_name
from data_modules.csv_files import read_csv
from data_modules.errors import UserError
from data_modules.intake.listed import Listed

TARGETS = (*COLUMNS, "fold", "dicom_series")
"""What columns can be mapped to."""


def table_rows(path: Path, mapped: Sequence[str]) -> list[Listed]:
    """Every row of a table.

    Columns that are not mapped are taken where they have the cohort's name, and left out otherwise. Without a
    series_id the patient's id serves, with a number where the patient has several rows.

    Args:
        path: the table; paths in it are relative to its folder.
        mapped: such as `patient_id=SubjectID`.

    Raises:
        UserError: an unknown column, one that is given twice, or none for `patient_id` or `image`.
    """
    cells = read_csv(path, [part.partition("=")[2] for part in mapped]).with_points(("slice_thickness_mm",))
    columns = {name: name for name in TARGETS if name in cells} | _mapping(mapped, path, cells.columns.tolist())
    for needed in ("patient_id", "image"):
        if needed not in columns:
            raise UserError(
                f"{path}: no column {needed!r}{nearest_name(needed, cells.columns)}; name it: --map {needed}=COLUMN"
            )
    records = [
        {name: row[column].strip() for name, column in columns.items()} for row in cells.to_dict(orient="records")
    ]
    counts = Counter(record["patient_id"] for record in records)
    seen: Counter[str] = Counter()
    rows = []
    for number, record in zip(cells.index, records, strict=True):
        patient, label = record["patient_id"], record.get("label", "")
        seen[patient] += 1
        own = patient if counts[patient] == 1 else f"{patient}_{seen[patient]}"
        lost = [name for name in ("image", "label") if record.get(name) and not (path.parent / record[name]).exists()]
        problem = f"row {number}: {lost[0]} {record[lost[0]]!r} does not exist" if lost else ""
        rows.append(
            Listed(
                patient_id=patient,
                series_id=record.get("series_id") or own,
                image=path.parent / record["image"],
                label=path.parent / label if label else None,
                split=record.get("split", ""),
                fold=record.get("fold", ""),
                thickness_mm=record.get("slice_thickness_mm", ""),
                extra={"dicom_series": record["dicom_series"]} if record.get("dicom_series") else {},
                problem=problem if record["image"] else f"row {number}: no image",
            )
        )
    return rows


def _mapping(mapped: Sequence[str], path: Path, columns: Sequence[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for part in mapped:
        name, equals, column = part.partition("=")
        if not equals or name not in TARGETS:
            raise UserError(
                f"--map {part}: expected COHORT_COLUMN=COLUMN, the first one of {', '.join(TARGETS)}"
                f"{nearest_name(name, TARGETS)}"
            )
        if column not in columns:
            raise UserError(f"--map {part}: {path} has no column {column!r}{nearest_name(column, columns)}")
        if name in found:
            raise UserError(f"--map {part}: {name} is mapped twice; keep one")
        found[name] = column
    return found
