"""From figures of single series to one table, and from the table to a summary with its uncertainty."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from math import isnan
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from data_modules.errors import UserError
from data_modules.files import write_json_atomic, write_text_atomic
from iac_lightning.evaluation.metrics.lesions import SMALL_LESION_MM3
from iac_lightning.evaluation.metrics.series import SeriesMetrics
from iac_lightning.evaluation.statistics import agreement
from iac_lightning.evaluation.statistics.bootstrap import RESAMPLES, Interval, mean_ci, statistic_ci
from iac_lightning.evaluation.statistics.strata import THICKNESS_STRATA, Stratum, edges_of, stratum_index
from iac_lightning.evaluation.tables.measures import MEASURES, values

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
"""Columns that depend on the prediction, and what they hold; after the protocol prior they appear as `prior_…`, of the
uncalibrated network at probability 0.5 as `uncalibrated_…`."""

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

ICC_RESAMPLES = 2_000
"""Most resamples of an interval of an agreement coefficient, which costs more than that of a mean."""


def series_row(
    series_id: str,
    patient_id: str,
    slice_thickness_mm: float,
    metrics: SeriesMetrics,
    prior: SeriesMetrics | None = None,
    true_volume_mm3: float | None = None,
    uncalibrated: SeriesMetrics | None = None,
) -> dict[str, Any]:
    """One row of the table of series.

    Args:
        series_id: name of the series in the cohort.
        patient_id: whose it is.
        slice_thickness_mm: for the strata.
        metrics: figures of the plain prediction.
        prior: figures after `protocol_prior`; becomes `prior_…` columns.
        true_volume_mm3: volume known from the phantom, which no label shows exactly.
        uncalibrated: figures of the network as trained, at probability 0.5; becomes `uncalibrated_…` columns.
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
    for prefix, other in (("prior_", prior), ("uncalibrated_", uncalibrated)):
        if other is not None:
            figures = _with_errors(other, true_volume)
            row |= {prefix + name: figures[name] for name in METRICS}
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
    """Read what `write_series_table` wrote; names that look like numbers stay text.

    Raises:
        UserError: when columns are missing.
    """
    table = pd.read_csv(path, dtype={"series_id": str, "patient_id": str})
    missing = [column for column in COLUMNS if column not in table]
    if missing:
        raise UserError(f"{path} lacks the columns {', '.join(missing)}; write it again by evaluating the run")
    return table


def write_series_table(table: pd.DataFrame, path: Path) -> None:
    """Write the table of series as CSV; a reader never sees half a file."""
    write_text_atomic(path, table.to_csv(index=False))


def write_summary(summary: dict[str, Any], path: Path) -> None:
    """Write a summary as JSON; undefined figures are null."""
    write_json_atomic(path, summary)


def summarise(
    table: pd.DataFrame,
    seed: int,
    resamples: int = RESAMPLES,
    *,
    split: str = "",
    threshold: float | None = None,
    thickness_strata: Sequence[Stratum] = THICKNESS_STRATA,
) -> dict[str, Any]:
    """Means with 95 % intervals over patients, agreement of volumes, and strata of slice thickness.

    Dice, sensitivity and lesion F1 are means over the scans with lesions; PPV is a mean over the scans with a
    prediction, lesion-free ones included; `dice_all` covers every scan and counts those where label and prediction are
    both empty as 1. Surface Dice is a mean over the scans with lesions (0 where nothing was predicted), the 95th
    percentile Hausdorff distance a mean over the scans where neither mask is empty; `n_hd95_infinite` counts those
    where one is. Volumes and Agatston-style scores are compared over all scans.

    Args:
        table: from `series_table`.
        seed: of the bootstrap.
        resamples: of the intervals of means; those of agreement coefficients use at most `ICC_RESAMPLES`.
        split: name of the split, stated with the figures.
        threshold: decision threshold of the predictions, stated with the figures.
        thickness_strata: strata of slice thickness.

    Returns:
        Plain types: `n_…` counts (`n_both_empty`; `n_false_alarm`: only the label is empty; `n_missed`: only the
        prediction is), the means of `METRICS`, `volume_icc` (ICC(2,1)), `volume_icc_3_1`, `volume_ccc`,
        `volume_error`, `agatston` (ICC(2,1) and errors of the scores), `thickness` (by stratum: Dice, under `metrics`
        the mean of every measure of `measures.MEASURES`, and ICC(2,1) of the volumes). A mean is
        `{"mean", "ci95": [low, high], "n", "n_patients"}`, a coefficient `{"value", "ci95", "n", "n_patients"}`,
        whatever is undefined is None. Figures after the protocol prior stand under `protocol_prior` in the same form
        when the table has them, those of the uncalibrated network under `uncalibrated`; agreement with the volumes that
        a phantom knows, under `true_volume`.

    Raises:
        UserError: when the table is empty.
    """
    if table.empty:
        raise UserError("the table of series is empty; there is nothing to summarise")
    with_lesion = table["has_lesion"].astype(bool)
    summary: dict[str, Any] = {
        "split": split,
        "threshold": threshold,
        "seed": seed,
        "resamples": resamples,
        "n_series": len(table),
        "n_patients": int(table["patient_id"].nunique()),
        "n_with_lesion": int(with_lesion.sum()),
        "n_lesion_free": int((~with_lesion).sum()),
        "thickness_edges_mm": edges_of(thickness_strata),
        **_figures(table, "", seed, resamples, thickness_strata),
    }
    if "prior_dice" in table:
        summary["protocol_prior"] = _figures(table, "prior_", seed, resamples, thickness_strata)
    if "uncalibrated_dice" in table:
        summary["uncalibrated"] = _figures(table, "uncalibrated_", seed, resamples, thickness_strata)
    return summary


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


def _figures(
    table: pd.DataFrame, prefix: str, seed: int, resamples: int, thickness_strata: Sequence[Stratum]
) -> dict[str, Any]:
    with_lesion = table["has_lesion"].astype(bool)

    def mean(x: NDArray[np.float64], rows: pd.DataFrame = table) -> dict[str, Any]:
        return _mean(mean_ci(x, rows["patient_id"].to_numpy(dtype=str), seed=seed, resamples=resamples))

    means = {name: mean(values(table, name, prefix)) for name in MEASURES}

    predicted = table[prefix + "volume_mm3"].to_numpy(dtype=float)
    figures: dict[str, Any] = {
        "dice": means["dice"],
        "dice_all": mean(table[prefix + "dice"].to_numpy(dtype=float)),
        "n_both_empty": int(table[prefix + "both_empty"].astype(bool).sum()),
        "n_false_alarm": int((~with_lesion & (predicted > 0)).sum()),
        "n_missed": int((with_lesion & (predicted == 0)).sum()),
        **{name: means[name] for name in MEASURES if name not in ("dice", "volume_error_mm3")},
        "n_hd95_infinite": int(np.isinf(table[prefix + "hd95_mm"].to_numpy(dtype=float)).sum()),
        "lesions": {
            "n": int(table["n_lesions"].sum()),
            "hit": int(table[prefix + "n_lesions_hit"].sum()),
            "predicted": int(table[prefix + "n_predicted"].sum()),
            "predicted_hit": int(table[prefix + "n_predicted_hit"].sum()),
            "small": int(table["n_small_lesions"].sum()),
            "small_hit": int(table[prefix + "n_small_lesions_hit"].sum()),
        },
        **_volume_agreement(table, prefix, "label_volume_mm3", seed, resamples),
        "thickness": by_thickness(table, prefix, seed, resamples, thickness_strata),
    }
    if table["label_agatston"].notna().any():
        figures["agatston"] = _score_agreement(table, prefix, seed, resamples)
    if table["true_volume_mm3"].notna().any():
        figures["true_volume"] = _volume_agreement(table, prefix, "true_volume_mm3", seed, resamples)
    return figures


def by_thickness(
    table: pd.DataFrame, prefix: str, seed: int, resamples: int, strata: Sequence[Stratum]
) -> list[dict[str, Any]]:
    """The figures of each stratum of slice thickness, as in `summarise`.

    Args:
        table: from `series_table`.
        prefix: "prior_" for the prediction after the protocol prior.
        seed: of the bootstrap.
        resamples: of the bootstrap.
        strata: of slice thickness.
    """
    index = stratum_index(table["slice_thickness_mm"], strata)
    found = []
    for k, (name, _, _) in enumerate(strata):
        rows = table[index == k]
        patients, free = rows["patient_id"].to_numpy(dtype=str), ~rows["has_lesion"].astype(bool)
        means = {
            measure: _mean(mean_ci(values(rows, measure, prefix), patients, seed=seed, resamples=resamples))
            for measure in MEASURES
        }
        _, coefficient = _pairs(rows, prefix + "volume_mm3", "label_volume_mm3", seed, resamples)
        found.append(
            {
                "stratum": name,
                "n_series": len(rows),
                **means["dice"],
                "metrics": means,
                "volume_icc": coefficient(agreement.icc_2_1) if len(rows) else _undefined(),
                "n_lesion_free": int(free.sum()),
                "n_false_alarm": int((free & (rows[prefix + "volume_mm3"] > 0)).sum()),
            }
        )
    return found


def _volume_agreement(table: pd.DataFrame, prefix: str, reference: str, seed: int, resamples: int) -> dict[str, Any]:
    pairs, coefficient = _pairs(table, prefix + "volume_mm3", reference, seed, resamples)
    limits = agreement.bland_altman(pairs[:, 0], pairs[:, 1])
    error = agreement.volume_error(pairs[:, 0], pairs[:, 1])
    return {
        "volume_icc": coefficient(agreement.icc_2_1),
        "volume_icc_3_1": coefficient(agreement.icc_3_1),
        "volume_ccc": coefficient(lambda rows: agreement.ccc(rows[:, 0], rows[:, 1])),
        "volume_error": {
            "bias_mm3": _number(limits.bias),
            "limits_mm3": [_number(limits.low), _number(limits.high)],
            "median_absolute_mm3": _number(error.median_absolute),
        },
    }


def _score_agreement(table: pd.DataFrame, prefix: str, seed: int, resamples: int) -> dict[str, Any]:
    pairs, coefficient = _pairs(table, prefix + "agatston", "label_agatston", seed, resamples)
    error = pairs[:, 0] - pairs[:, 1]
    return {
        "icc": coefficient(agreement.icc_2_1),
        "bias": float(error.mean()),
        "median_absolute": float(np.median(np.abs(error))),
    }


def _pairs(
    table: pd.DataFrame, predicted: str, reference: str, seed: int, resamples: int
) -> tuple[NDArray[np.float64], Callable[[Callable[[NDArray[np.float64]], float]], dict[str, Any]]]:
    """Two columns `[n, 2]` where the reference is known, and how to get an agreement coefficient of them."""
    known = table[table[reference].notna()]
    pairs = known[[predicted, reference]].to_numpy(dtype=float)
    patients = known["patient_id"].to_numpy(dtype=str)

    def coefficient(function: Callable[[NDArray[np.float64]], float]) -> dict[str, Any]:
        interval = statistic_ci(
            lambda rows: function(pairs[rows]), patients, seed=seed, resamples=min(resamples, ICC_RESAMPLES)
        )
        return {"value": _number(interval.estimate), **_uncertainty(interval)}

    return pairs, coefficient


def _mean(interval: Interval) -> dict[str, Any]:
    return {"mean": _number(interval.estimate), **_uncertainty(interval)}


def _uncertainty(interval: Interval) -> dict[str, Any]:
    return {
        "ci95": [_number(interval.low), _number(interval.high)],
        "n": interval.n,
        "n_patients": interval.n_patients,
    }


def _undefined() -> dict[str, Any]:
    return {"value": None, "ci95": [None, None], "n": 0, "n_patients": 0}


def _number(value: float) -> float | None:
    """None instead of nan, which JSON does not know."""
    return None if isnan(value) else value
