"""Whether a scan has calcification at all, and how much is marked where there is none."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from data_modules.csv_files import as_text
from iac_lightning.evaluation.clinical.conformal import clopper_pearson
from iac_lightning.evaluation.statistics.intervals import MIN_PATIENTS


def scan_detection(table: pd.DataFrame, prefix: str = "") -> dict[str, Any]:
    """Scans with a prediction against scans with a lesion, and components that hit nothing.

    A scan is called positive when its mask holds a voxel, wherever that lies.

    Args:
        table: from `series_table`.
        prefix: "plain_" or "uncalibrated_" for other masks than the result.

    Returns:
        Plain types: `tp`, `fn`, `tn`, `fp` scans; `sensitivity`, `specificity`, `ppv`, `npv` and `lesion_sensitivity`
        as `{"value", "ci95", "n", "n_patients"}`; `n_false` components that hit nothing, `false_per_scan` and
        `false_per_free_scan` (means over all scans and over lesion-free ones; None without).
    """
    lesion = table["has_lesion"].astype(bool).to_numpy()
    called = table[f"{prefix}volume_mm3"].to_numpy(dtype=float) > 0
    patients = as_text(table["patient_id"])
    false = (table[f"{prefix}n_predicted"] - table[f"{prefix}n_predicted_hit"]).to_numpy(dtype=float)
    return {
        "tp": int((lesion & called).sum()),
        "fn": int((lesion & ~called).sum()),
        "tn": int((~lesion & ~called).sum()),
        "fp": int((~lesion & called).sum()),
        "sensitivity": _share(called[lesion], patients[lesion]),
        "specificity": _share(~called[~lesion], patients[~lesion]),
        "ppv": _share(lesion[called], patients[called]),
        "npv": _share(~lesion[~called], patients[~called]),
        "n_false": int(false.sum()),
        "false_per_scan": _mean(false),
        "false_per_free_scan": _mean(false[~lesion]),
    }


def _mean(values: NDArray[np.float64]) -> float | None:
    return float(values.mean()) if len(values) else None


def _share(right: NDArray[np.bool_], patients: NDArray[np.str_]) -> dict[str, Any]:
    """Share of scans, with the exact interval of as many trials as there are patients (Clopper & Pearson 1934).

    Scans of one patient are alike: to count patients, not scans, makes the interval rather too wide than too narrow.
    """
    n = len(np.unique(patients))
    value = float(right.mean()) if len(right) else None
    ends: list[float | None] = [None, None]
    if value is not None and n >= MIN_PATIENTS:
        ends = list(clopper_pearson(value * n, n))
    return {"value": value, "ci95": ends, "n": len(right), "n_patients": n}
