"""Cells of tables: numbers without noise, names without anything else."""

from __future__ import annotations

import numpy as np

_LONGEST_NAME = 40


def plain_words(text: str) -> str:
    """A name of a kernel or a maker without anything that such names do not have, and not long: a tag may hold more."""
    kept = "".join(c if c.isalnum() or c in " +-/.()_" else " " for c in text)
    return " ".join(kept.split())[:_LONGEST_NAME]


def number_text(value: float | None, digits: int = 4) -> str:
    """A number as a cell; empty where it is none."""
    return f"{round(float(value), digits) + 0.0:.10g}" if value is not None and np.isfinite(value) else ""
