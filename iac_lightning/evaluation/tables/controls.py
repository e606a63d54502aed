"""What a network reaches under controls (`models.controls`) beside what it reaches as it is, on the same scans."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from data_modules.csv_files import as_text
from iac_lightning.evaluation.statistics.intervals import mean_ci
from iac_lightning.evaluation.statistics.paired import paired_difference
from iac_lightning.evaluation.statistics.plain import defined, plain_interval

CONTROLS_ENDING = "_controls.csv"
"""Of the file beside an evaluation's table."""

WORDS = {"mean_tokens": "tokens", "silenced_attention": "attention"}
"""Control to what it takes away."""

_SCAN = {
    "series_id": "name of the series in the cohort",
    "patient_id": "whose it is",
    "slice_thickness_mm": "how thick a slab one slice averages",
    "has_lesion": "whether the label holds a voxel",
}
_VARIANTS = {"dice": "Dice", "plain_dice": "Dice of the mask of a threshold alone"}
_MEANINGS = {
    "": "of the network as it is",
    "mean_tokens_": "with every token replaced by the mean of its crop's tokens",
    "silenced_attention_": "with each token attending to itself alone, in every block",
}

COLUMNS = {
    **_SCAN,
    **{
        f"{prefix}{variant}": f"{words} {meaning}"
        for prefix, meaning in _MEANINGS.items()
        for variant, words in _VARIANTS.items()
    },
}
"""Columns of a table of controls, and what they hold; one row a series."""


def control_table(
    table: pd.DataFrame, series: Sequence[str], found: Mapping[str, Sequence[Mapping[str, float]]]
) -> pd.DataFrame:
    """The table of controls.

    Args:
        table: from `series_table`.
        series: names, in the order of `found`.
        found: control to `dice` and `plain_dice` of each series.
    """
    own = table[[*_SCAN, *(name for name in _VARIANTS if name in table)]]
    for control, rows in found.items():
        values = pd.DataFrame([{f"{control}_{name}": value for name, value in row.items()} for row in rows])
        own = own.merge(values.assign(series_id=list(series)), on="series_id", validate="one_to_one")
    return own


def summarise_controls(controlled: pd.DataFrame, controls: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Mean Dice under each control over the scans with lesions, and how much of the network's own it takes.

    Args:
        controlled: from `control_table`.
        controls: which.

    Returns:
        Control to `dice` (mean under the control) and `difference` (mean of the network as it is − under the control:
        what it takes away is worth that), each with its 95 % interval over patients, and `wilcoxon_p` over patients;
        the same of the mask of a threshold alone under `plain`, where the table has it.
    """
    rows = controlled[controlled["has_lesion"].astype(bool)]
    patients = as_text(rows["patient_id"])

    def variant(control: str, column: str) -> dict[str, Any]:
        own, without = (rows[name].to_numpy(dtype=float) for name in (column, f"{control}_{column}"))
        return _worth(own, without, patients)

    return {
        control: {
            **variant(control, "dice"),
            **({"plain": variant(control, "plain_dice")} if "plain_dice" in controlled else {}),
        }
        for control in controls
    }


def _worth(own: NDArray[np.float64], without: NDArray[np.float64], patients: NDArray[np.str_]) -> dict[str, Any]:
    paired = paired_difference(own, without, patients)
    return {
        "dice": plain_interval(mean_ci(without, patients), "mean"),
        "difference": plain_interval(paired.difference, "mean"),
        "wilcoxon_p": defined(paired.wilcoxon_p),
    }
