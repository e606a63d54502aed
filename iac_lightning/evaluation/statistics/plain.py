"""Results as plain types that JSON knows: what is undefined or infinite becomes None."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import isfinite
from typing import Any

import numpy as np
import pandas as pd

from iac_lightning.evaluation.statistics.intervals import MIN_PATIENTS, Interval, missing_interval
from iac_lightning.evaluation.statistics.paired import holm


def plain(value: Any) -> Any:
    """Dictionaries, lists and single values as JSON knows them."""
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    if value is pd.NA or (isinstance(value, float) and not isfinite(value)):
        return None
    return value


def defined(value: float) -> float | None:
    """The number, or None."""
    return value if isfinite(value) else None


def plain_interval(interval: Interval, name: str = "value") -> dict[str, Any]:
    """``{name, "ci95": [low, high], "n", "n_patients"}``; a mean goes by the name "mean".

    Of differences and slopes also `p`. Without an interval `remark` says why and, below
    `intervals.MIN_PATIENTS`, `points` holds each patient's value.
    """
    found: dict[str, Any] = {
        name: defined(interval.estimate),
        "ci95": [defined(interval.low), defined(interval.high)],
        "n": interval.n,
        "n_patients": interval.n_patients,
    }
    if isfinite(interval.p):
        found["p"] = interval.p
    if interval.remark:
        found["remark"] = interval.remark
    if interval.points:
        found["points"] = list(interval.points)
    return found


def without_small_intervals(value: Any) -> Any:
    """Plain values of an earlier version without the intervals that it gave to fewer than `MIN_PATIENTS` patients."""
    if isinstance(value, list):
        return [without_small_intervals(item) for item in value]
    if not isinstance(value, Mapping):
        return value
    kept = {key: without_small_intervals(item) for key, item in value.items()}
    if "ci95" in kept and 0 < kept.get("n_patients", MIN_PATIENTS) < MIN_PATIENTS:
        kept |= {"ci95": [None, None], "remark": missing_interval(kept["n_patients"])}
    return kept


def correct(rows: Iterable[dict[str, Any]], p: str = "p") -> None:
    """Add `holm_p` to each row: its p after Holm's correction over all of them; a row without a p has None."""
    found = list(rows)
    p_values = [float("nan") if row.get(p) is None else row[p] for row in found]
    for row, value in zip(found, holm(p_values), strict=True):
        row["holm_p"] = defined(float(value))
