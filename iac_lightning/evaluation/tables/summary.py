"""From the table of series to a summary with its uncertainty."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from data_modules.csv_files import as_text
from data_modules.errors import UserError
from data_modules.files import write_json_atomic
from iac_lightning.evaluation.statistics import agreement
from iac_lightning.evaluation.statistics.intervals import mean_ci
from iac_lightning.evaluation.statistics.jackknife import Statistic
from iac_lightning.evaluation.statistics.paired import SIGNIFICANT
from iac_lightning.evaluation.statistics.plain import defined, plain_interval
from iac_lightning.evaluation.statistics.strata import THICKNESS_STRATA, Stratum, edges_of, stratum_index
from iac_lightning.evaluation.statistics.thickness import stratum_contrasts
from iac_lightning.evaluation.tables.measures import MEASURES, values

INTERVALS = "leave-one-patient-out t"
"""How the intervals of a summary were made; summaries of earlier versions hold those of a percentile bootstrap."""

SECTIONS = {"plain_": "plain", "uncalibrated_": "uncalibrated"}
"""Beginnings of columns, and where the summary holds what is made of them."""


def write_summary(summary: dict[str, Any], path: Path) -> None:
    """Write a summary as JSON; undefined values are null."""
    write_json_atomic(path, summary)


def read_summary(path: Path) -> dict[str, Any]:
    """The summary of an evaluation; one of before operating points in the form of now.

    What was measured after the annotation protocol stood under `protocol_prior` then, and is the result now.
    """
    summary: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if "prior_threshold" not in summary:
        return summary
    summary["plain_threshold"], summary["threshold"] = summary["threshold"], summary.pop("prior_threshold")
    for section in (summary, *summary.get("controls", {}).values()):
        if result := section.pop("protocol_prior", None):
            section["plain"] = {name: section[name] for name in result}
            section.update(result)
    return summary


def summarise(
    table: pd.DataFrame,
    *,
    split: str = "",
    threshold: float | None = None,
    thickness_strata: Sequence[Stratum] = THICKNESS_STRATA,
    each: Callable[[Callable[[str], dict[str, Any]], Iterable[str]], Iterable[dict[str, Any]]] = map,
) -> dict[str, Any]:
    """Means with 95 % intervals over patients, agreement of volumes, and strata of slice thickness.

    Dice, sensitivity and lesion F1 are means over the scans with lesions; PPV is a mean over the scans with a
    prediction, lesion-free ones included; `dice_all` covers every scan and counts those where label and prediction are
    both empty as 1. Surface Dice is a mean over the scans with lesions (0 where nothing was predicted), the 95th
    percentile Hausdorff distance a mean over the scans where neither mask is empty; `n_hd95_infinite` counts those
    where one is. Volumes and Agatston-style scores are compared over all scans.

    Args:
        table: from `series_table`.
        split: name of the split, stated with the values.
        threshold: decision threshold of the predictions, stated with the values.
        thickness_strata: strata of slice thickness.
        each: how the masks are gone through, which need nothing of each other: `map`, or several processes' own.

    Returns:
        Plain types: `n_…` counts (`n_both_empty`; `n_false_alarm`: only the label is empty; `n_missed`: only the
        prediction is), the means of `METRICS`, `volume_icc` (ICC(2,1)), `volume_icc_3_1`, `volume_ccc`,
        `volume_error`, `agatston` (ICC(2,1) and errors of the scores), `thickness` (by stratum: Dice, under `metrics`
        the mean of every measure of `measures.MEASURES`, and ICC(2,1) of the volumes). A mean is
        `{"mean", "ci95": [low, high], "n", "n_patients"}`, a coefficient `{"value", "ci95", "n", "n_patients"}`,
        whatever is undefined is None. Values of the mask of a threshold alone stand under `plain` in the same form when
        the table has them, those of the uncalibrated network under `uncalibrated`; agreement with the volumes that a
        phantom knows, under `true_volume`.

    Raises:
        UserError: when the table is empty.
    """
    if table.empty:
        raise UserError("the table of series is empty; there is nothing to summarise")
    with_lesion = table["has_lesion"].astype(bool)
    prefixes = ["", *(prefix for prefix in SECTIONS if f"{prefix}dice" in table)]
    of_mask = partial(_variant, table, thickness_strata=thickness_strata)
    result, *others = each(of_mask, prefixes)
    return {
        "split": split,
        "threshold": threshold,
        "intervals": INTERVALS,
        "n_series": len(table),
        "n_patients": int(table["patient_id"].nunique()),
        "n_with_lesion": int(with_lesion.sum()),
        "n_lesion_free": int((~with_lesion).sum()),
        "thickness_edges_mm": edges_of(thickness_strata),
        **result,
        **dict(zip([SECTIONS[prefix] for prefix in prefixes[1:]], others, strict=True)),
    }


def _variant(table: pd.DataFrame, prefix: str, thickness_strata: Sequence[Stratum]) -> dict[str, Any]:
    with_lesion = table["has_lesion"].astype(bool)

    means = _measure_means(table, prefix)
    every_dice = mean_ci(table[prefix + "dice"].to_numpy(dtype=float), as_text(table["patient_id"]))

    predicted = table[prefix + "volume_mm3"].to_numpy(dtype=float)
    summary: dict[str, Any] = {
        "dice": means["dice"],
        "dice_all": plain_interval(every_dice, "mean"),
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
        **_volume_agreement(table, prefix, "label_volume_mm3"),
        "thickness": by_thickness(table, prefix, thickness_strata),
    }
    if table["label_agatston"].notna().any():
        summary["agatston"] = _score_agreement(table, prefix)
    if table["true_volume_mm3"].notna().any():
        summary["true_volume"] = _volume_agreement(table, prefix, "true_volume_mm3")
    return summary


def _measure_means(table: pd.DataFrame, prefix: str) -> dict[str, Any]:
    patients = as_text(table["patient_id"])
    return {
        name: plain_interval(mean_ci(values(table, name, prefix), patients, measure.kind), "mean")
        for name, measure in MEASURES.items()
    }


def by_thickness(table: pd.DataFrame, prefix: str, strata: Sequence[Stratum]) -> list[dict[str, Any]]:
    """The values of each stratum of slice thickness, as in `summarise`.

    Args:
        table: from `series_table`.
        prefix: "plain_" for the mask of a threshold alone.
        strata: of slice thickness.

    Returns:
        One a stratum; `against_others` is its mean Dice − that over all other scans, with `p` and `holm_p` over the
        strata, None where either side has too few patients.
    """
    contrasts = stratum_contrasts(
        values(table, "dice", prefix), table["slice_thickness_mm"], as_text(table["patient_id"]), strata
    )
    against = {c.stratum: plain_interval(c.difference) | {"holm_p": defined(c.holm_p)} for c in contrasts}
    index = stratum_index(table["slice_thickness_mm"], strata)
    parts = []
    for k, (name, _, _) in enumerate(strata):
        rows = table[index == k]
        free = ~rows["has_lesion"].astype(bool)
        means = _measure_means(rows, prefix)
        _, coefficient = _pairs(rows, prefix + "volume_mm3", "label_volume_mm3")
        parts.append(
            {
                "stratum": name,
                "n_series": len(rows),
                **means["dice"],
                "metrics": means,
                "volume_icc": coefficient(agreement.icc_2_1),
                "against_others": against.get(name),
                "n_lesion_free": int(free.sum()),
                "n_false_alarm": int((free & (rows[prefix + "volume_mm3"] > 0)).sum()),
            }
        )
    return parts


def weakest_stratum(summary: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The stratum of `by_thickness` with the lowest mean Dice of those that are established to lie below the others.

    The lowest of several means is always some stratum's; established is one whose difference from all other scans is
    below 0 with an interval without 0 and p below `SIGNIFICANT` after correction over the strata.
    """
    below = []
    for part in summary["thickness"]:
        against = part.get("against_others")
        if against and against["holm_p"] is not None and against["holm_p"] < SIGNIFICANT and against["ci95"][1] < 0:
            below.append(part)
    return min(below, key=lambda part: float(part["mean"])) if below else None


def _volume_agreement(table: pd.DataFrame, prefix: str, reference: str) -> dict[str, Any]:
    pairs, coefficient = _pairs(table, prefix + "volume_mm3", reference)
    limits = agreement.bland_altman(pairs[:, 0], pairs[:, 1])
    error = agreement.volume_error(pairs[:, 0], pairs[:, 1])
    return {
        "volume_icc": coefficient(agreement.icc_2_1),
        "volume_icc_3_1": coefficient(agreement.icc_3_1),
        "volume_ccc": coefficient(agreement.ccc),
        "volume_error": {
            "bias_mm3": defined(limits.bias),
            "limits_mm3": [defined(limits.low), defined(limits.high)],
            "median_absolute_mm3": defined(error.median_absolute),
        },
    }


def _score_agreement(table: pd.DataFrame, prefix: str) -> dict[str, Any]:
    pairs, coefficient = _pairs(table, prefix + "agatston", "label_agatston")
    error = pairs[:, 0] - pairs[:, 1]
    return {
        "icc": coefficient(agreement.icc_2_1),
        "bias": float(error.mean()),
        "median_absolute": float(np.median(np.abs(error))),
    }


def _pairs(
    table: pd.DataFrame, predicted: str, reference: str
) -> tuple[NDArray[np.float64], Callable[[Statistic], dict[str, Any]]]:
    """Two columns `[n, 2]` where the reference is known, and how to get an agreement coefficient of them."""
    known = table[table[reference].notna()]
    pairs = known[[predicted, reference]].to_numpy(dtype=float)
    patients = as_text(known["patient_id"])

    def coefficient(function: Statistic) -> dict[str, Any]:
        return plain_interval(agreement.agreement_ci(pairs, patients, function))

    return pairs, coefficient
