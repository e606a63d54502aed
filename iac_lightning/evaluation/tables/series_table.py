"""The table of series: one row a series, what its columns hold, and how it is read and written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from data_modules.csv_files import read_typed
from data_modules.errors import UserError
from data_modules.files import write_text_atomic
from iac_lightning.evaluation.metrics.lesions import SMALL_LESION_MM3
from iac_lightning.evaluation.metrics.series import SeriesMetrics

METRICS = {
    "dice": "2·|P∩G| / (|P|+|G|); 1 where both masks are empty",
    "sensitivity": "share of the label's voxels that are predicted; empty (nan) with an empty label",
    "ppv": "share of the predicted voxels that are labelled; nan with an empty prediction",
    "lesion_sensitivity": "share of the label's 26-connected components that are hit; nan without one",
    "lesion_ppv": "share of the predicted components that hit; nan without one",
    "lesion_f1": "harmonic mean of both; 0 without a hit, nan where both masks are empty",
    "nsd_1mm": "normalised surface Dice at 1 mm; 1 where both masks are empty, 0 where one is",
    "hd95_mm": "95th percentile Hausdorff distance; nan where both masks are empty, inf where one is",
    "volume_mm3": "predicted volume on the native grid",
    "volume_error_mm3": "volume_mm3 − label_volume_mm3",
    "true_volume_error_mm3": "volume_mm3 − true_volume_mm3; nan where that is unknown",
    "agatston": "Agatston-style score of the prediction; nan where the scan was not at hand",
    "both_empty": "whether label and prediction are both empty",
    "n_lesions_hit": "components of the label that are hit",
    "n_predicted": "components of the prediction",
    "n_predicted_hit": "those that hit",
    "n_small_lesions_hit": "small components of the label that are hit",
}
"""Columns that depend on the prediction, and what they hold: of the mask at the operating point, after the annotation
protocol; of the mask of a threshold alone they appear as `plain_…`, of the uncalibrated network at probability 0.5 as
`uncalibrated_…`, of a second reader (`label_2` of the cohort) against the label as `reader_2_…`, empty where there is
none."""

READER_2 = "reader_2_"
"""Beginning of the columns of the second reader."""

AGAINST_READER_2 = "dice_against_reader_2"
"""Column of the Dice of the result against the second reader's mask; empty where there is none."""


@dataclass(frozen=True, kw_only=True)
class SecondReader:
    """What a second reader's mask of a series says.

    Attributes:
        metrics: of the mask against the first reader's label, as of a prediction.
        dice: of the result against the mask.
    """

    metrics: SeriesMetrics
    dice: float


COLUMNS = {
    "series_id": "name of the series in the cohort",
    "patient_id": "whose it is",
    "slice_thickness_mm": "how thick a slab one slice averages",
    "has_lesion": "whether the label holds a voxel",
    "n_lesions": "26-connected components of the label",
    "n_small_lesions": f"those of at most {SMALL_LESION_MM3:g} mm³",
    "label_volume_mm3": "labelled volume on the native grid",
    "true_volume_mm3": "volume known by construction (phantom); nan where unknown",
    "label_agatston": "Agatston-style score of the label; nan where the scan was not at hand",
    **METRICS,
}
"""Columns of a table of series, and what they hold; one row a series."""

NAMES = ("series_id", "patient_id")
"""Those that hold text."""


def series_row(
    series_id: str,
    patient_id: str,
    slice_thickness_mm: float,
    metrics: SeriesMetrics,
    plain: SeriesMetrics | None = None,
    true_volume_mm3: float | None = None,
    uncalibrated: SeriesMetrics | None = None,
    reader_2: SecondReader | None = None,
) -> dict[str, Any]:
    """One row of the table of series.

    Args:
        series_id: name of the series in the cohort.
        patient_id: whose it is.
        slice_thickness_mm: for the strata.
        metrics: values of the mask that is the result.
        plain: values of the mask of a threshold alone; becomes `plain_…` columns.
        true_volume_mm3: volume known from the phantom, which no label shows exactly.
        uncalibrated: values of the network as trained, at probability 0.5; becomes `uncalibrated_…` columns.
        reader_2: becomes `reader_2_…` columns and `AGAINST_READER_2`.
    """
    true_volume = float("nan") if true_volume_mm3 is None else float(true_volume_mm3)
    row = {
        "series_id": series_id,
        "patient_id": patient_id,
        "slice_thickness_mm": float(slice_thickness_mm),
        "true_volume_mm3": true_volume,
        **_with_errors(metrics, true_volume),
    }
    row = {column: row[column] for column in COLUMNS}
    second = reader_2.metrics if reader_2 else None
    for prefix, other in (("plain_", plain), ("uncalibrated_", uncalibrated), (READER_2, second)):
        if other is not None:
            values = _with_errors(other, true_volume)
            row |= {prefix + name: values[name] for name in METRICS}
    if reader_2 is not None:
        # a number, as other scans of the table may have no second reader
        row[f"{READER_2}both_empty"] = float(reader_2.metrics.both_empty)
        row[AGAINST_READER_2] = reader_2.dice
    return row


def _with_errors(metrics: SeriesMetrics, true_volume_mm3: float) -> dict[str, Any]:
    return {
        **asdict(metrics),
        "volume_error_mm3": metrics.volume_mm3 - metrics.label_volume_mm3,
        "true_volume_error_mm3": metrics.volume_mm3 - true_volume_mm3,
    }


def series_table(rows: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """The table of rows from `series_row`, in the order of the series' names.

    Raises:
        UserError: without a row, or when a series appears twice.
    """
    if not rows:
        raise UserError("no series was evaluated; check that the split holds labelled series")
    table = pd.DataFrame(list(rows)).sort_values("series_id", ignore_index=True)
    twice = table.loc[table["series_id"].duplicated(), "series_id"].tolist()
    if twice:
        raise UserError(f"series evaluated more than once: {', '.join(map(str, twice))}; each may count once")
    return table


def read_series_table(path: Path) -> pd.DataFrame:
    """Read what `write_series_table` wrote; names stay text, whatever they spell.

    Columns of before operating points get their names of now: `prior_…`, after the annotation protocol, was the result,
    and what stood beside it was plain.

    Raises:
        UserError: when it is no such table, columns are missing, or cells hold no number.
    """
    numbers = [column for column in COLUMNS if column not in NAMES]
    table = read_typed(path, NAMES, numbers, "table of series", "write it again by evaluating the run")
    if "prior_dice" not in table:
        return table
    renamed = {name: f"plain_{name}" for name in METRICS} | {f"prior_{name}": name for name in METRICS}
    table = table.rename(columns=renamed)
    return table[[*COLUMNS, *(column for column in table if column not in COLUMNS)]]


def write_series_table(table: pd.DataFrame, path: Path) -> None:
    """Write the table of series as CSV; a reader never sees half a file."""
    write_text_atomic(path, table.to_csv(index=False))


def example_series(table: pd.DataFrame) -> dict[str, str]:
    """Series with the best, the median and the worst Dice among those with lesions: kind to series name.

    Ties go to the first name; with fewer than three scans with lesions, as many kinds as there are scans.
    """
    ranked = table[table["has_lesion"].astype(bool)].sort_values(["dice", "series_id"], ascending=[False, True])
    names = ranked["series_id"].tolist()
    if not names:
        return {}
    chosen = {"best": names[0]}
    if len(names) > 2:
        chosen["median"] = names[len(names) // 2]
    if len(names) > 1:
        chosen["worst"] = names[-1]
    return chosen
