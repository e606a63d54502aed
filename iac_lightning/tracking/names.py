"""Settings and figures under the names that MLflow takes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from numbers import Real
from typing import Any


def flat(data: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Dotted keys and values of nested mappings."""
    rows: list[tuple[str, Any]] = []
    for key, value in data.items():
        rows += flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else [(f"{prefix}{key}", value)]
    return rows


def numbers_of(data: Mapping[str, Any]) -> list[tuple[str, float]]:
    """Finite numbers of nested mappings, keys joined by `/`; truth values and text are left out."""
    rows: list[tuple[str, float]] = []
    for key, value in data.items():
        if isinstance(value, Mapping):
            rows += [(f"{key}/{below}", number) for below, number in numbers_of(value)]
        elif isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value):
            rows.append((str(key), float(value)))
    return rows


def metric_name(key: str) -> str:
    """Only characters that MLflow accepts in a metric's name."""
    return "".join(c if (c.isascii() and c.isalnum()) or c in "_-. /" else "_" for c in key)[:250]
