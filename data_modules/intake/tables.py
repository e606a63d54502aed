"""The tables that an import leaves: everything found, the cohort, and the private lists."""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from data_modules.cohort.table import COLUMNS, read_given, write_cohort
from data_modules.files import replacing, write_bytes_atomic
from data_modules.intake import codes
from data_modules.intake.exams import FoundSeries
from data_modules.intake.proposal import propose
from data_modules.intake.tasks import IMAGES

COHORT, INVENTORY, IDS, FILES = "cohort.csv", "inventory.csv", "ids.csv", "files.csv"
FACTS = (
    "manufacturer",
    "kernel",
    "slice_thickness_mm",
    "spacing_x_mm",
    "spacing_y_mm",
    "spacing_z_mm",
    "n_slices",
    "coverage_mm",
    "gantry_tilt_deg",
    "contrast",
)
"""Columns of the inventory that tell of the images."""
INVENTORY_COLUMNS = {
    "series_id": "code of the series: a salted hash",
    "patient_id": "code of the patient",
    "exam_id": "code of the examination",
    "days": "since the patient's first examination in the export; empty where a date is missing",
    "status": "accepted or rejected",
    "code": "why, in a word",
    "reason": "why, in a sentence",
    "n_files": "files of the series",
    "what": "what it is",
    "modality": "as in the header",
    "manufacturer": "of the scanner",
    "kernel": "convolution kernel",
    "slice_thickness_mm": "how thick a slab one slice averages (the median where it changes)",
    "spacing_x_mm": "between pixels",
    "spacing_y_mm": "between pixels",
    "spacing_z_mm": "between slices",
    "n_slices": "slices; of an accepted series those of its image",
    "coverage_mm": "along the normal of the slices",
    "gantry_tilt_deg": "of the gantry, or of the slices' positions where the header has none",
    "contrast": "yes or no: whether contrast was given, by header or description",
    "proposed": "yes for the best series of an examination",
    "proposed_because": "why it is the best",
    "warnings": "what to know of it",
}
_WHAT = {
    codes.LOCALIZER: "localizer",
    codes.DOSE_REPORT: "dose report",
    codes.SECONDARY_CAPTURE: "secondary capture",
    codes.EXAM_SUMMARY: "exam summary",
    codes.NOT_CT: "other modality or image",
    codes.NOT_HEAD: "other body part",
    codes.REFORMAT: "derived reformat",
    codes.CONTRAST: "contrast-enhanced head CT",
}
_KEPT = ("label", "split")
"""Columns of the cohort that a user fills in."""


def mark_duplicates(series: Sequence[FoundSeries], digests: dict[str, str]) -> None:
    """All but the first of series with one image become duplicates of it.

    The first is the earliest examination's, then that with the lowest series number.

    Args:
        series: all found.
        digests: of the images of accepted ones, by code.
    """
    alike: defaultdict[str, list[FoundSeries]] = defaultdict(list)
    for item in series:
        if item.series_id in digests:
            alike[digests[item.series_id]].append(item)
    for group in alike.values():
        group.sort(key=lambda item: (int(item.days or 0), item.order, item.series_id))
        for item in group[1:]:
            item.code, item.found = codes.DUPLICATE, f"series {group[0].series_id}"
            if item.patient_id != group[0].patient_id:
                item.warnings.append(f"the same image is given for two patients, the other is {group[0].patient_id}")


def proposals(series: Iterable[FoundSeries]) -> dict[str, str]:
    """The series that is proposed of each examination, and why."""
    by_exam: defaultdict[tuple[str, str], list[FoundSeries]] = defaultdict(list)
    for item in series:
        if has_image(item):
            by_exam[item.patient_id, item.exam_id].append(item)
    chosen = (propose(group) for group in by_exam.values())
    return {best.series_id: why for best, why in chosen}


def has_image(item: FoundSeries) -> bool:
    """Whether an image was written of a series: it is accepted, and no part of a joined one."""
    return item.code in codes.ACCEPTED and not item.joined


def inventory_rows(series: Iterable[FoundSeries], proposed: dict[str, str]) -> Iterable[list[str]]:
    """Cells of `INVENTORY_COLUMNS`, in the order of the series."""
    for item in series:
        cells = {
            "series_id": item.series_id,
            "patient_id": item.patient_id,
            "exam_id": item.exam_id,
            "days": item.days,
            "status": "accepted" if item.code in codes.ACCEPTED else "rejected",
            "code": item.code,
            "reason": _reason(item),
            "n_files": str(item.n_files),
            "what": _WHAT.get(item.code, "head CT" if item.facts.get("n_slices") else "unknown"),
            "modality": item.modality,
            "proposed": "yes" if item.series_id in proposed else "no",
            "proposed_because": proposed.get(item.series_id, ""),
            "warnings": "; ".join(item.warnings),
            **{column: item.facts.get(column, "") for column in FACTS},
        }
        yield [cells[column] for column in INVENTORY_COLUMNS]


def _reason(item: FoundSeries) -> str:
    if item.joined:
        return f"{codes.CODES[codes.JOINED]}: a part of {item.joined}"
    sentence = codes.CODES[item.code]
    return f"{sentence}: {item.found}" if item.found and item.code != codes.OK else sentence


def cohort_table(
    series: Iterable[FoundSeries], proposed: dict[str, str], centers: dict[str, str], *, every: bool
) -> pd.DataFrame:
    """The cohort of the proposed series, or of every accepted one.

    Args:
        series: found, in order.
        proposed: of `proposals`.
        centers: of the region of interest by series, where it was found.
        every: whether those that are not proposed are in it too.
    """
    rows: list[dict[str, Any]] = []
    for item in series:
        if has_image(item) and (every or item.series_id in proposed):
            row = dict.fromkeys(COLUMNS, "")
            row |= {key: item.facts.get(key, "") for key in ("kernel", "manufacturer")}
            row |= {
                "slice_thickness_mm": item.facts.get("table_thickness_mm", ""),
                "patient_id": item.patient_id,
                "series_id": item.series_id,
            }
            row |= {"image": f"{IMAGES}/{item.series_id}.nii.gz", "exam_id": item.exam_id, "days": item.days}
            row |= {key: item.facts.get(key, "") for key in ("gantry_tilt_deg", "contrast")}
            row["roi_center_lps_mm"] = centers.get(item.series_id, "")
            rows.append(row)
    columns = [*COLUMNS, "exam_id", "days", "gantry_tilt_deg", "contrast", "roi_center_lps_mm"]
    return pd.DataFrame(rows, columns=columns, dtype=str)


def write_tables(out: Path, series: Sequence[FoundSeries], cohort: pd.DataFrame, proposed: dict[str, str]) -> int:
    """Write both tables; what a user has filled into the cohort since an earlier import stays.

    Returns:
        Rows of an earlier cohort that are not in this one.
    """
    write_bytes_atomic(out / INVENTORY, csv_bytes(INVENTORY_COLUMNS, inventory_rows(series, proposed)))
    path = out / COHORT
    n_gone = 0
    if path.exists() and len(path.read_bytes().splitlines()) > 1:
        given = read_given(path)
        earlier = given.cells.set_index("series_id", drop=False)
        n_gone = len(set(earlier.index) - set(cohort["series_id"]))
        for column in earlier.columns:
            if column in _KEPT or column not in cohort:
                cohort[column] = [str(earlier[column].get(name, "")) for name in cohort["series_id"]]
        write_cohort(path, cohort, given.form)
    else:
        write_cohort(path, cohort)
    return n_gone


def csv_bytes(header: Iterable[str], rows: Iterable[Sequence[str]]) -> bytes:
    """A table as CSV."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue().encode()


def write_private(path: Path, header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Write a private table row by row, however long it is; only its owner may read it."""
    with replacing(path) as temporary:
        temporary.touch(mode=0o600)
        with temporary.open("w", encoding="utf-8", newline="", errors="surrogateescape") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(header)
            writer.writerows(rows)
