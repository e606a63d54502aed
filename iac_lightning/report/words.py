"""Numbers as a reader sees them: intervals, p-values, shares, durations.

Minus signs are true ones, dashes stand for nothing, and what rounds to zero has no minus: `number` gives 0.000,
`signed` +0.000.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import isnan
from typing import Any

from iac_lightning.evaluation.statistics.intervals import missing_interval

TableCell = str | tuple[str, str]
"""Text, or a value with its interval ("low; high"), which is set small and grey."""

NBSP = "\u00a0"


def number(value: float | None, digits: int = 3) -> str:
    """``0.651``, with a true minus sign; a dash when undefined."""
    return "–" if value is None or isnan(value) else f"{value:z.{digits}f}".replace("-", "−")


def signed(value: float | None, digits: int = 3) -> str:
    """``+0.032``; a dash when undefined."""
    return "–" if value is None or isnan(value) else f"{value:+z.{digits}f}".replace("-", "−")


def share(value: float | None, *, sign: bool = False) -> str:
    """``45 %``; a dash when undefined."""
    text = "–" if value is None or isnan(value) else f"{value:{'+' if sign else ''}z.0%}"
    return text.replace("-", "−").replace("%", f"{NBSP}%")


def interval(value: float | None, low: float | None, high: float | None, digits: int = 3, *, sign: bool = False) -> str:
    """``0.651 [0.620; 0.684]``; without the bracket when there is no interval, a dash without a value."""
    show = signed if sign else number
    if value is None or isnan(value):
        return "–"
    text = show(value, digits)
    if low is None or high is None or isnan(low) or isnan(high):
        return text
    return f"{text} [{show(low, digits)}; {show(high, digits)}]"


def estimate(value: Mapping[str, Any], digits: int = 3, *, sign: bool = False) -> str:
    """A mean or coefficient with its interval, such as ``0.651 [0.620; 0.684]``; a dash when undefined.

    Where patients are too few for an interval, their own values stand: ``0.651 (3 patients: too few for an interval;
    0.610, 0.640, 0.700)``.
    """
    low, high = value["ci95"]
    text = interval(_value(value), low, high, digits, sign=sign)
    without = remark(value)
    return f"{text} ({'; '.join([without, *_points(value, digits, sign=sign)])})" if without else text


def remark(value: Mapping[str, Any]) -> str:
    """Why a value has no interval; empty where it has one, or is undefined."""
    if _value(value) is None or None not in value["ci95"]:
        return ""
    without: str = value.get("remark") or missing_interval(value["n_patients"])
    return without


def cell(value: Mapping[str, Any], digits: int = 3, *, sign: bool = False) -> TableCell:
    """A mean or coefficient for a table, and in grey its interval, or why there is none and the patients' values."""
    show = signed if sign else number
    if without := remark(value):
        return show(_value(value), digits), "; ".join([without, *_points(value, digits, sign=sign)])
    return pair(*(show(v, digits) for v in (_value(value), *value["ci95"])))


def share_cell(change: Mapping[str, Any]) -> TableCell:
    """A relative change for a table, and in grey its interval, or why there is none."""
    if without := remark(change):
        return share(_value(change), sign=True), without
    return pair(*(share(v, sign=True) for v in (_value(change), *change["ci95"])))


def pair(value: str, low: str, high: str) -> TableCell:
    """A value with its interval; without, where anything is undefined."""
    return value if "–" in (value, low, high) else (value, f"{low}; {high}")


def p_value(p: float | None) -> str:
    """``p = 0.03`` or ``p < 0.001``."""
    if p is None or isnan(p):
        return "p –"
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def p_cell(p: float | None) -> str:
    """The p-value alone, for a column of them."""
    return p_value(p).removeprefix("p = ").removeprefix("p ")


def duration(seconds: float | None) -> str:
    """``42 s``, ``12 min``, ``3.4 h``; a dash when unknown."""
    if seconds is None:
        return "–"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def sentence(text: str) -> str:
    """With a capital letter and a full stop."""
    return f"{text[:1].upper()}{text[1:]}."


def plural(n: int, word: str) -> str:
    """``1 scan``, ``2 scans``."""
    return f"{n} {word}" if n == 1 else f"{n} {word}s"


def _points(value: Mapping[str, Any], digits: int, *, sign: bool) -> list[str]:
    """The patients' values, rising, as one text; none where the value has no such points."""
    show = signed if sign else number
    points = value.get("points", [])
    return [", ".join(show(point, digits) for point in points)] if points else []


def _value(value: Mapping[str, Any]) -> float | None:
    number: float | None = value.get("mean", value.get("value"))
    return number
