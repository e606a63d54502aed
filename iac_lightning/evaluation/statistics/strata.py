"""Strata of slice thickness: from edges in mm to named intervals, and which of them a scan lies in."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike, NDArray

Stratum = tuple[str, float, float]
"""Name, lower limit (excluded) and upper limit (included) in mm."""

EDGES_MM = (1.0, 2.0, 4.0, 6.0)
"""Where the strata part unless the settings say otherwise."""


def strata_from_edges(edges_mm: Sequence[float]) -> tuple[Stratum, ...]:
    """Adjoining strata from 0 to infinity, named such as "≤ 1 mm", "1–2 mm" and "> 6 mm".

    Args:
        edges_mm: rising, above 0; an edge belongs to the thinner stratum.

    Raises:
        ValueError: without an edge, or where they do not rise from above 0.
    """
    edges = [float(edge) for edge in edges_mm]
    if not edges or edges[0] <= 0 or any(a >= b for a, b in pairwise(edges)):
        raise ValueError(f"edges of slice thickness {edges}: expected one or more rising numbers above 0")
    words = [f"{edge:.12g}" for edge in edges]
    names = [f"≤ {words[0]} mm", *(f"{a}–{b} mm" for a, b in pairwise(words)), f"> {words[-1]} mm"]
    return tuple(zip(names, [0.0, *edges], [*edges, float("inf")], strict=True))


THICKNESS_STRATA = strata_from_edges(EDGES_MM)
"""The strata of `EDGES_MM`."""


def edges_of(strata: Sequence[Stratum]) -> list[float]:
    """The inverse of `strata_from_edges`."""
    return [high for _, _, high in strata[:-1]]


def stratum_index(thickness_mm: ArrayLike, strata: Sequence[Stratum] = THICKNESS_STRATA) -> NDArray[np.intp]:
    """Which stratum each scan lies in; strata must adjoin and reach infinity."""
    return np.searchsorted([high for _, _, high in strata], np.asarray(thickness_mm, dtype=np.float64), side="left")
