"""Heads at several thicknesses that nobody re-imaged, with values that can be worked by hand."""

from __future__ import annotations

import numpy as np
import pandas as pd

from iac_lightning.evaluation.tables.series_table import COLUMNS

NATIVE = {"A": 0.8, "B": 1.0, "C": 2.5, "D": 1.0}
DICE = {
    "A": {0.8: 0.9, 1.0: 0.8, 2.0: 0.6, 5.0: 0.3},
    "B": {1.0: 0.7, 2.0: 0.6, 5.0: 0.5},
    "C": {2.5: 0.6, 5.0: 0.2},
    "D": {1.0: 1.0, 2.0: 0.0, 5.0: 1.0},  # without a lesion; one false alarm
}
WANTED = (1.0, 2.0, 5.0)


def table_of(dice: dict[str, dict[float, float]] = DICE) -> pd.DataFrame:
    rows = []
    for name, versions in dice.items():
        lesion = name != "D"
        for mm, value in versions.items():
            row = dict.fromkeys(COLUMNS, 0.5)
            label = {"A": 10.0, "B": 30.0, "C": 20.0, "D": 0.0}[name]
            row |= {
                "series_id": f"{name}_S1",
                "patient_id": name,
                "slice_thickness_mm": mm,
                "has_lesion": lesion,
                "label_volume_mm3": label,
                "true_volume_mm3": label / 2,
                "dice": value,
                "ppv": value if value else np.nan,
                "volume_mm3": label * (1 + mm / 10) if lesion else 40 * (1 - value),
                "native_thickness_mm": NATIVE[name],
                "is_native": mm == NATIVE[name],
                "ceiling_dice": 1.0 if mm == NATIVE[name] else 1 - mm / 10,
                "bound_dice": 1.0,
                "ceiling_volume_mm3": label,
            }
            row["volume_error_mm3"] = row["volume_mm3"] - label
            row["true_volume_error_mm3"] = row["volume_mm3"] - label / 2
            rows.append(row)
    return pd.DataFrame(rows)
