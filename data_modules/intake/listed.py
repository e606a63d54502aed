"""Images that somebody has listed already (nnU-Net, BIDS, a table) as a cohort: read, measured, told of one by one."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from data_modules.cohort.ids import id_problem
from data_modules.cohort.look import GUARDED
from data_modules.cohort.table import COLUMNS, SPACING, SPLITS, nearest_name, read_cohort, write_cohort
from data_modules.csv_files import number_in
from data_modules.errors import UserError
from data_modules.files import write_bytes_atomic
from data_modules.guarded import GuardedPool, Limits
from data_modules.intake import codes
from data_modules.intake.cells import number_text, plain_words
from data_modules.intake.running import result_of
from data_modules.intake.tables import COHORT, INVENTORY, INVENTORY_COLUMNS, csv_bytes
from data_modules.progress import shown


@dataclass(frozen=True, kw_only=True)
class Listed:
    """One image as its list gives it; `problem` says what is wrong with the row, empty where nothing is."""

    patient_id: str
    series_id: str
    image: Path
    label: Path | None = None
    split: str = ""
    fold: str = ""
    thickness_mm: str = ""
    extra: dict[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    problem: str = ""


@dataclass(frozen=True)
class ListedImport:
    """What an import has left: rows of the cohort, rejected rows, rows with warnings, and what to tell beside."""

    n_ready: int
    n_failed: int
    n_warned: int
    remarks: tuple[str, ...]


def import_listed(items: Sequence[Listed], out: Path, workers: int = 1) -> ListedImport:
    """Read every image and label, and write `cohort.csv` and `inventory.csv`; images stay where they are.

    Args:
        items: rows, in order.
        out: folder of the tables, which must hold no cohort yet.
        workers: processes, each of which may break down without harm to other rows.

    Raises:
        UserError: when there are no rows, or there is a cohort already.
    """
    if not items:
        raise UserError(f"{out}: nothing to import; the source lists no image")
    if (out / COHORT).exists():
        raise UserError(f"{out / COHORT}: there is a cohort already; choose a new folder, or remove it first")
    items = _one_split_each(_checked(items))
    results: dict[int, dict[str, Any]] = {}
    todo = [(k, item) for k, item in enumerate(items) if not item.problem]
    with GuardedPool(workers, Limits(600.0, 4.0)) as pool:
        for (k, _), outcome in shown(pool.results(_read, todo), len(todo), "import", "series"):
            results[k] = result_of(outcome)
    bad = {"code": codes.BAD_ROW, "warnings": []}
    told = [(item, results.get(k) or {**bad, "found": item.problem}) for k, item in enumerate(items)]
    out.mkdir(parents=True, exist_ok=True)
    rows = [_inventory_row(item, result) for item, result in told]
    write_bytes_atomic(out / INVENTORY, csv_bytes(INVENTORY_COLUMNS, rows))
    ready = [_cohort_row(item, result, out) for item, result in told if result["code"] == codes.OK]
    remarks: list[str] = []
    if ready:
        write_cohort(out / COHORT, pd.DataFrame(ready).fillna(""))
        try:
            read_cohort(out / COHORT)
        except UserError as error:  # such as patients whose ids are alike: for the user to decide
            remarks.append(str(error))
    n_warned = sum(bool(item.warnings or result["warnings"]) for item, result in told if result["code"] == codes.OK)
    return ListedImport(len(ready), len(items) - len(ready), n_warned, tuple(remarks))


def _checked(items: Sequence[Listed]) -> list[Listed]:
    """The rows, with what is wrong with their cells."""
    seen: set[str] = set()
    checked = []
    for item in items:
        problem = item.problem or id_problem(item.patient_id) or id_problem(item.series_id)
        if not problem and item.series_id.casefold() in seen:
            problem = f"series {item.series_id!r} is listed twice"
        if not problem and item.split and item.split not in SPLITS:
            problem = f"split {item.split!r} is unknown{nearest_name(item.split, SPLITS)}"
        seen.add(item.series_id.casefold())
        checked.append(replace(item, problem=problem))
    return checked


def _one_split_each(items: Sequence[Listed]) -> list[Listed]:
    """Patients that lie in several splits or folds get none: one person in two splits would leak."""
    given: defaultdict[str, set[tuple[str, str]]] = defaultdict(set)
    for item in items:
        if not item.problem:
            given[item.patient_id].add((item.split, item.fold))
    remark = "the source has this patient in several splits: split and fold are left empty for iac split"
    return [
        replace(item, split="", fold="", warnings=(*item.warnings, remark)) if len(given[item.patient_id]) > 1 else item
        for item in items
    ]


def _read(numbered: tuple[int, Listed]) -> dict[str, Any]:
    """Facts of one image and its label; called in a process of its own."""
    from data_modules.intake.scans import code_of
    from data_modules.prepare.labels import LARGEST_OF_SCAN, check_label
    from data_modules.scan.nifti import read_mask
    from data_modules.scan.reading import read_scan

    item = numbered[1]
    given = number_in(item.thickness_mm) if item.thickness_mm else None
    try:
        scan = read_scan(item.image, item.extra.get("dicom_series") or None, given)
    except UserError as error:
        return {"code": code_of(error), "found": _without_folder(error, item.image), "warnings": []}
    spacing = dict(zip(SPACING, map(number_text, scan.grid.spacing_mm), strict=True))
    facts = {
        **spacing,
        "slice_thickness_mm": number_text(scan.slice_thickness_mm),
        "kernel": plain_words(scan.kernel),
        "manufacturer": plain_words(scan.manufacturer),
        "n_slices": str(scan.hu.shape[scan.slice_axis]),
        "coverage_mm": number_text(scan.grid.size_mm[scan.slice_axis], 1),
        "gantry_tilt_deg": number_text(scan.gantry_tilt_deg, 2),
    }
    volume = ""
    if item.label is not None:
        try:
            mask = read_mask(item.label, like=scan)
            check_label(mask.data, scan.hu, item.label, LARGEST_OF_SCAN)
        except UserError as error:
            return {"code": codes.BAD_LABEL, "found": _without_folder(error, item.label), "warnings": []}
        if item.split != GUARDED:  # the burden of the test split is told to nobody
            volume = repr(float(np.count_nonzero(mask.data)) * mask.grid.voxel_volume_mm3)
    return {"code": codes.OK, "found": "", "warnings": list(scan.warnings), "facts": facts, "label_volume_mm3": volume}


def _without_folder(error: UserError, path: Path) -> str:
    return str(error).replace(f"{path.parent}/", "")


def _inventory_row(item: Listed, result: dict[str, Any]) -> list[str]:
    sentence = codes.CODES[result["code"]]
    accepted = result["code"] == codes.OK
    cells = {
        "series_id": item.series_id,
        "patient_id": item.patient_id,
        "status": "accepted" if accepted else "rejected",
        "code": result["code"],
        "reason": f"{sentence}: {result['found']}" if result["found"] else sentence,
        "proposed": "yes" if accepted else "no",
        "warnings": "; ".join([*item.warnings, *result["warnings"]]),
        **result.get("facts", {}),
    }
    return [cells.get(column, "") for column in INVENTORY_COLUMNS]


def _cohort_row(item: Listed, result: dict[str, Any], out: Path) -> dict[str, str]:
    def relative(path: Path | None) -> str:
        return os.path.relpath(path, out) if path is not None else ""

    known = ("slice_thickness_mm", "kernel", "manufacturer", *SPACING)
    return {
        **dict.fromkeys(COLUMNS, ""),
        **{key: result["facts"][key] for key in known},
        "patient_id": item.patient_id,
        "series_id": item.series_id,
        "image": relative(item.image),
        "label": relative(item.label),
        "split": item.split,
        "label_volume_mm3": result["label_volume_mm3"],
        "fold": item.fold,
        **item.extra,
    }
