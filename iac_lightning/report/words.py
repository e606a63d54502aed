"""Numbers as a reader sees them: intervals, p-values, shares, durations; true minus signs, dashes for nothing."""

from __future__ import annotations

from collections.abc import Mapping
from math import isnan
from typing import Any

Cell = str | tuple[str, str]
"""Of a table: text, or a figure with its interval ("low; high"), which is set small and grey."""

NBSP = "\u00a0"


def number(value: float | None, digits: int = 3) -> str:
    """A number with a true minus sign; a dash when undefined."""
    return "–" if value is None or isnan(value) else f"{value:.{digits}f}".replace("-", "−")


def signed(value: float | None, digits: int = 3) -> str:
    """A number with its sign; a dash when undefined."""
    return "–" if value is None or isnan(value) else f"{value:+.{digits}f}".replace("-", "−")


def share(value: float | None, *, sign: bool = False) -> str:
    """``45 %``; a dash when undefined."""
    text = "–" if value is None or isnan(value) else f"{value:{'+' if sign else ''}.0%}"
    return text.replace("-", "−").replace("%", f"{NBSP}%")


def interval(value: float | None, low: float | None, high: float | None, digits: int = 3) -> str:
    """``0.651 [0.620; 0.684]``; without the bracket when there is no interval, a dash without a value."""
    if value is None or isnan(value):
        return "–"
    text = number(value, digits)
    if low is None or high is None or isnan(low) or isnan(high):
        return text
    return f"{text} [{number(low, digits)}; {number(high, digits)}]"


def estimate(figure: Mapping[str, Any], digits: int = 3) -> str:
    """A mean or coefficient with its interval, such as ``0.651 [0.620; 0.684]``; a dash when undefined."""
    low, high = figure["ci95"]
    return interval(_value(figure), low, high, digits)


def cell(figure: Mapping[str, Any], digits: int = 3, *, sign: bool = False) -> Cell:
    """A mean or coefficient for a table, and its interval in grey."""
    show = signed if sign else number
    return pair(*(show(v, digits) for v in (_value(figure), *figure["ci95"])))


def share_cell(figure: Mapping[str, Any]) -> Cell:
    """A relative change for a table, and its interval in grey."""
    return pair(*(share(v, sign=True) for v in (_value(figure), *figure["ci95"])))


def pair(value: str, low: str, high: str) -> Cell:
    """A figure with its interval; without, where anything is undefined."""
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


def _value(figure: Mapping[str, Any]) -> float | None:
    value: float | None = figure.get("mean", figure.get("value"))
    return value
