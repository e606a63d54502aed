"""One evaluated model: its table, its summary, and what is known of its training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd


@dataclass(frozen=True, kw_only=True)
class ModelResult:
    """One model on one split.

    Attributes:
        name: name of its run.
        label: how the reader knows it.
        table: from `series_table`.
        summary: from `summarise`.
        threshold: decision threshold of the plain prediction; None where masks were given.
        prior_threshold: threshold of the prediction with the protocol prior.
        parameters: number of trained weights.
        train_seconds: wall time of its training.
        looks: how often the test split was looked at (`n`, `n_configs`, `n_weights`); None on other splits.
        calibration: what was fitted on the development split, with its quality before and after; None without.
    """

    name: str
    label: str
    table: pd.DataFrame
    summary: dict[str, Any]
    threshold: float | None
    prior_threshold: float | None = None
    parameters: int | None = None
    train_seconds: float | None = None
    looks: Mapping[str, int] | None = None
    calibration: Mapping[str, Any] | None = None


def variants(model: ModelResult) -> list[tuple[str, dict[str, Any], float | None]]:
    """Name, summary and threshold of the plain prediction and, where computed, of that after the protocol prior."""
    both: list[tuple[str, dict[str, Any], float | None]] = [("plain", model.summary, model.threshold)]
    if "protocol_prior" in model.summary:
        both.append(("protocol prior", model.summary["protocol_prior"], model.prior_threshold))
    return both


def model_rows(models: Mapping[str, ModelResult]) -> list[dict[str, Any]]:
    """With full precision: one row for the plain prediction, one with the protocol prior where it was computed."""
    rows = []
    for name, model in models.items():
        summary = model.summary
        for variant, values, threshold in variants(model):
            row: dict[str, Any] = {"run": name, "model": model.label, "variant": variant, "threshold": threshold}
            for key in ("dice", "sensitivity", "ppv", "lesion_f1", "dice_all", "volume_icc"):
                row[key] = values[key].get("mean", values[key].get("value"))
                row[f"{key}_low"], row[f"{key}_high"] = values[key]["ci95"]
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
