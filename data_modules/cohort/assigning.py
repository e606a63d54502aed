"""Splits and folds for a cohort table on disk: checked as a whole, masks measured for lack of volumes, written anew."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from data_modules.cohort.folds import assign_folds
from data_modules.cohort.look import read_label
from data_modules.cohort.splits import assign_splits
from data_modules.cohort.table import (
    FOLDED,
    VOLUMES,
    WHAT,
    Cohort,
    Series,
    check_table,
    read_given,
    with_points,
    write_cohort,
)
from data_modules.csv_files import raise_problems
from data_modules.errors import UserError
from data_modules.processes import mapped


def split_cohort(
    path: Path | str, fractions: Mapping[str, float], seed: int, workers: int = 1, folds: int | None = None
) -> Cohort:
    """Assign splits, and folds, to the patients of a table that have none; write the table if that changed anything.

    Nothing but `split` (and `fold`) changes: all other cells, the order of rows and columns, the separator, the ends
    of lines and a byte order mark stay; rows and columns without any text are left out.

    Args:
        path: the cohort table.
        fractions: share of the patients by split, as of `assign_splits`.
        seed: decides which patients go where.
        workers: processes that measure masks.
        folds: how many folds the patients of fine-tuning and development are dealt out to (`assign_folds`); None:
            folds stay as they are.

    Raises:
        UserError: for anything wrong with the table, a mask, the fractions or the folds; the table is then as it was.
    """
    given = read_given(path)
    table = with_points(given)
    if "split" not in table:
        table = table.assign(split="")
    cohort = check_table(path, table)
    measured = _with_volumes(table, cohort, ("",), workers)
    assigned = {"split": assign_splits(measured, fractions, seed)["split"]}
    if folds is not None:
        measured = measured.assign(**assigned)
        measured = _with_volumes(measured, check_table(path, measured), FOLDED, workers)
        assigned["fold"] = assign_folds(measured, folds, seed)["fold"]
    if not all(name in table and values.equals(table[name]) for name, values in assigned.items()):
        cohort = check_table(path, table.assign(**assigned))
        write_cohort(path, given.cells.assign(**assigned), given.form)
    return cohort


def _with_volumes(table: pd.DataFrame, cohort: Cohort, splits: Sequence[str], workers: int) -> pd.DataFrame:
    """The table with volumes of masks where it gives none: those of patients of some splits ("": of none yet).

    Masks of the others, of the test split above all, stay closed: their burden sways no patient's split or fold.
    """
    split_of = {series.patient_id: series.split for series in cohort.series if series.split}
    known = table.reindex(columns=VOLUMES, fill_value="")
    is_open = [
        series.label is not None and split_of.get(series.patient_id, "") in splits and not any(volumes)
        for series, volumes in zip(cohort.series, known.to_numpy().tolist(), strict=True)
    ]
    todo = [series for series, wanted in zip(cohort.series, is_open, strict=True) if wanted]
    measured = measure_labels(todo, cohort.path, workers)
    column = known["label_volume_mm3"].copy()
    column[is_open] = [repr(measured[series.series_id]) for series in todo]
    return table.assign(label_volume_mm3=column)


def measure_labels(series: Sequence[Series], path: Path, workers: int = 1) -> dict[str, float]:
    """Labelled volume in mm³ by series id, from the masks.

    Args:
        series: with labels, none of the test split.
        path: of their table, for the message.
        workers: processes.

    Raises:
        UserError: naming every mask that cannot be read.
    """
    found = {item.series_id: result for item, result in mapped(_measure, series, workers, "measuring", "mask")}
    raise_problems(path, [result for result in found.values() if isinstance(result, str)], WHAT)
    return {name: result for name, result in found.items() if isinstance(result, float)}


def _measure(series: Series) -> float | str:
    """The volume, or what is wrong with the mask, for all bad ones are to be named at once."""
    try:
        mask = read_label(series)
    except UserError as error:
        return f"label of {series.series_id}: {error}"
    return float(np.count_nonzero(mask.data)) * mask.grid.voxel_volume_mm3
