"""The section of the report on calibration: how far probabilities can be believed, before and after."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from iac_lightning.evaluation.tables.model_result import ModelResult
from iac_lightning.figures.calibration import reliability_of_models
from iac_lightning.report.page import Section, Table, drawn
from iac_lightning.report.words import TableCell, pair, signed

QUALITIES = {
    "ece": "ECE",
    "adaptive_ece": "adaptive ECE",
    "brier": "Brier score",
    "nll": "negative log-likelihood",
}


def calibration_section(models: Mapping[str, ModelResult]) -> Section | None:
    """Table and figure of the models whose calibration is known; None without one.

    Args:
        models: name to result; `calibration` as in `calibration.json`.
    """
    calibrated = {model.label: model.calibration for model in models.values() if model.calibration}
    if not calibrated:
        return None
    sizes = {(c["n_series"], c["n_patients"]) for c in calibrated.values()}
    seeds = ", ".join(str(seed) for seed in sorted({c["seed"] for c in calibrated.values()}))
    scans = " or ".join(f"{n} scans of {patients} patients" for n, patients in sorted(sizes))
    origin = f"{scans}, development split, seed {seeds}"
    rows: list[list[TableCell]] = []
    for label, c in calibrated.items():
        rows.append([label, "", "", "", *(_quality(c, key, "before") for key in QUALITIES)])
        settings = (f"{c['temperature']:.3f}", signed(c["bias"]), f"{c['operating_point']['threshold']:.2g}")
        rows.append(["+ after calibration", *settings, *(_quality(c, key, "after") for key in QUALITIES)])
    left_out = [model.label for model in models.values() if not model.calibration]
    warnings = [f"{label}: {warning}." for label, c in calibrated.items() for warning in c["warnings"]]
    return Section(
        title="Calibration",
        text=(
            "Does a probability of 0.3 mean lesion in three of ten voxels? Temperature, bias and threshold were fitted "
            "on the development split, and these are its figures: they show what the fit changed, and are better than "
            "new patients would give."
        ),
        tables=[
            Table(
                name="calibration",
                source=origin,
                header=[
                    ("model", ""),
                    ("temperature", ""),
                    ("bias", ""),
                    ("threshold", "of probability"),
                    *((words, "lower is better") for words in QUALITIES.values()),
                ],
                rows=rows,
                legend=" ".join(
                    [
                        "Grey: 95\u00a0% bootstrap interval over patients. Over the voxels of the region of interest "
                        "where the model says something. ECE: mean distance of probability and share of lesion voxels "
                        "over bins of equal width; adaptive: over bins of equal size. Resampling adds noise that both "
                        "count as error, so that their intervals can lie above them.",
                        *warnings,
                        *([f"Not calibrated here: {', '.join(left_out)}."] if left_out else []),
                    ]
                ),
            )
        ],
        figures=[
            drawn(
                "reliability",
                "Reliability before and after",
                "A point is a bin of probabilities; on the dotted line they are right, below it too high, above it too "
                "low. Bars: 95\u00a0% intervals over patients; a bin in which one patient has voxels goes without. "
                "Below: how many voxels each bin holds, on a logarithmic axis: the rightmost bins are few.",
                reliability_of_models(calibrated, origin),
                origin,
            )
        ],
    )


def _quality(calibration: Mapping[str, Any], key: str, when: str) -> TableCell:
    value, ends = calibration[f"{key}_{when}"], calibration.get(f"{key}_{when}_ci95")
    low, high = ends or (None, None)
    return pair(*("–" if v is None else _three_digits(v) for v in (value, low, high)))


def _three_digits(value: float) -> str:
    return str(np.format_float_positional(value, precision=3, unique=False, fractional=False, trim="-"))
