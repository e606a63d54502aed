"""Errors of volume by size: absolute ones grow with the volume, so that ratios are needed beside them."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pandas as pd
from numpy.typing import NDArray

EDGES_MM3 = (10.0, 50.0, 200.0)
"""Labelled volumes at which the sizes part."""

MIN_LIMITS = 5
"""Scans with both volumes below which limits of agreement are not worth showing."""


@dataclass(frozen=True, kw_only=True)
class Ratios:
    """Predicted over labelled volume, agreement on a logarithmic scale (Bland & Altman 1999, section 3.2).

    Attributes:
        ratio: geometric mean of the ratios.
        low: lower 95 % limit of agreement, as a ratio: exp(mean − 1.96 standard deviations of the logarithms).
        high: upper limit.
        n: scans where both volumes are above 0.
        n_missed: scans with a labelled volume alone.
        n_false: scans with a predicted volume alone.
    """

    ratio: float
    low: float
    high: float
    n: int
    n_missed: int
    n_false: int


@dataclass(frozen=True, kw_only=True)
class SizeRow:
    """Scans of one range of labelled volume.

    Attributes:
        size: its name.
        n: scans.
        n_patients: whose they are.
        bias_mm3: mean of predicted − labelled; nan without a scan.
        median_absolute_mm3: median of |predicted − labelled|.
        median_relative: median of |predicted − labelled| / labelled; nan where nothing is labelled.
        ratios: of these scans.
    """

    size: str
    n: int
    n_patients: int
    bias_mm3: float
    median_absolute_mm3: float
    median_relative: float
    ratios: Ratios


def volume_ratios(predicted: NDArray[np.float64], labelled: NDArray[np.float64]) -> Ratios:
    """Agreement of volumes `[n_scans]` in mm³ as ratios; limits are nan below two pairs above 0."""
    both = (predicted > 0) & (labelled > 0)
    logs = np.log(predicted[both] / labelled[both])
    mean = float(logs.mean()) if len(logs) else float("nan")
    spread = 1.96 * float(logs.std(ddof=1)) if len(logs) > 1 else float("nan")
    ratio, low, high = (float(np.exp(v)) for v in (mean, mean - spread, mean + spread))
    return Ratios(
        ratio=ratio,
        low=low,
        high=high,
        n=len(logs),
        n_missed=int(((predicted == 0) & (labelled > 0)).sum()),
        n_false=int(((predicted > 0) & (labelled == 0)).sum()),
    )


def by_size(table: pd.DataFrame) -> list[SizeRow]:
    """Errors of all scans and of each range of labelled volume; ranges without a scan are left out.

    Args:
        table: from `series_table`.
    """
    predicted, labelled = (table[c].to_numpy(dtype=float) for c in ("volume_mm3", "label_volume_mm3"))
    index = np.where(labelled > 0, 1 + np.searchsorted(EDGES_MM3, labelled, side="left"), 0)
    edges = [f"{edge:g}" for edge in EDGES_MM3]
    names = ["none", f"up to {edges[0]} mm³", *(f"{a}–{b} mm³" for a, b in pairwise(edges))]
    parts = [("all", np.ones(len(table), dtype=bool))]
    parts += [(name, index == k) for k, name in enumerate([*names, f"above {edges[-1]} mm³"])]
    rows = []
    for name, inside in parts:
        if not inside.any():
            continue
        p, g = predicted[inside], labelled[inside]
        error = p - g
        relative = np.abs(error[g > 0]) / g[g > 0]
        rows.append(
            SizeRow(
                size=name,
                n=len(p),
                n_patients=int(table.loc[inside, "patient_id"].nunique()),
                bias_mm3=float(error.mean()),
                median_absolute_mm3=float(np.median(np.abs(error))),
                median_relative=float(np.median(relative)) if len(relative) else float("nan"),
                ratios=volume_ratios(p, g),
            )
        )
    return rows
