"""One evaluated model: its table, its summary, and what is known of its training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

_MEANS = {
    "dice": "mean Dice over the scans with lesions",
    "sensitivity": "mean sensitivity over the scans with lesions",
    "ppv": "mean positive predictive value over the scans with a prediction",
    "lesion_f1": "mean lesion F1 over the scans with lesions",
    "dice_all": "mean Dice over every scan; one where label and prediction are both empty counts as 1",
    "volume_icc": "ICC(2,1) of predicted and labelled volume over all scans",
}

MODEL_COLUMNS = {
    "run": "name of the run",
    "model": "its label in the report",
    "variant": "result: at the operating point, after the annotation protocol (≥ 130 HU, no single voxels); or plain: "
    "of a threshold alone",
    "threshold": "of the probability that its mask is cut at; empty where masks were given",
    **{
        column: meaning
        for name, words in _MEANS.items()
        for column, meaning in (
            (name, words),
            (f"{name}_low", f"lower end of the 95 % interval of `{name}` over patients"),
            (f"{name}_high", f"upper end of the 95 % interval of `{name}` over patients"),
            (f"{name}_remark", "why there is no interval; where patients are too few, with the value of each"),
        )
    },
    "n_both_empty": "scans whose label and prediction are both empty",
    "n_false_alarm": "lesion-free scans with a prediction",
    "volume_bias_mm3": "mean of predicted − labelled volume",
    "volume_median_absolute_error_mm3": "median of |predicted − labelled volume|",
    "n_series": "scans",
    "n_with_lesion": "scans with lesions",
    "n_patients": "patients",
    "parameters": "trainable numbers of the network; empty where unknown",
    "train_seconds": "time of training; empty where unknown",
    "test_looks": "how often the test split was evaluated, reported or compared with this model",
}
"""Columns of `models.csv` (`model_rows`), and what they hold."""


@dataclass(frozen=True, kw_only=True)
class ModelResult:
    """One model on one split.

    Attributes:
        name: name of its run.
        label: how the reader knows it.
        table: from `series_table`.
        summary: from `summarise`.
        threshold: of the mask that is the result; None where masks were given.
        plain_threshold: of the mask of a threshold alone.
        parameters: number of trained weights.
        train_seconds: wall time of its training.
        looks: how often the test split was looked at (`n`, `n_configs`, `n_weights`); None on other splits.
        calibration: what was fitted on the development split, with its quality before and after; None without.
        convolutional_tokens: whether its tokens come from a network of convolutions.
    """

    name: str
    label: str
    table: pd.DataFrame
    summary: dict[str, Any]
    threshold: float | None
    plain_threshold: float | None = None
    parameters: int | None = None
    train_seconds: float | None = None
    looks: Mapping[str, int] | None = None
    calibration: Mapping[str, Any] | None = None
    convolutional_tokens: bool = False


def variants(model: ModelResult) -> list[tuple[str, dict[str, Any], float | None]]:
    """Name, summary and threshold of the result and, where measured, of the mask of a threshold alone."""
    both: list[tuple[str, dict[str, Any], float | None]] = [("result", model.summary, model.threshold)]
    if "plain" in model.summary:
        both.append(("plain", model.summary["plain"], model.plain_threshold))
    return both


def model_rows(models: Mapping[str, ModelResult]) -> list[dict[str, Any]]:
    """With full precision: one row for the result, one for the mask of a threshold alone."""
    rows = []
    for name, model in models.items():
        summary = model.summary
        for variant, values, threshold in variants(model):
            row: dict[str, Any] = {"run": name, "model": model.label, "variant": variant, "threshold": threshold}
            for key in _MEANS:
                row[key] = values[key].get("mean", values[key].get("value"))
                row[f"{key}_low"], row[f"{key}_high"] = values[key]["ci95"]
                points = " ".join(f"{point:.6g}" for point in values[key].get("points", []))
                row[f"{key}_remark"] = "; ".join(filter(None, [values[key].get("remark", ""), points]))
            row |= {
                "n_both_empty": values["n_both_empty"],
                "n_false_alarm": values["n_false_alarm"],
                "volume_bias_mm3": values["volume_error"]["bias_mm3"],
                "volume_median_absolute_error_mm3": values["volume_error"]["median_absolute_mm3"],
                "n_series": summary["n_series"],
                "n_with_lesion": summary["n_with_lesion"],
                "n_patients": summary["n_patients"],
                "parameters": model.parameters,
                "train_seconds": model.train_seconds,
                "test_looks": model.looks["n"] if model.looks else None,
            }
            rows.append(row)
    return rows
