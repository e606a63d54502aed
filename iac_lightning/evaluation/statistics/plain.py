"""Results as plain types that JSON knows: what is undefined or infinite becomes None."""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from typing import Any

import numpy as np
import pandas as pd

from iac_lightning.evaluation.statistics.bootstrap import Interval


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
    """``{name, "ci95": [low, high], "n", "n_patients"}``; a mean goes by the name "mean"."""
    return {
        name: defined(interval.estimate),
        "ci95": [defined(interval.low), defined(interval.high)],
        "n": interval.n,
        "n_patients": interval.n_patients,
    }
