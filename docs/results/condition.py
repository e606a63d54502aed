"""What telling the network more has shown: `make sweep SWEEP=experiments/sweeps/condition_cpu.yaml`, then this file.

First the development Dice of each arm and its difference from the network that is told nothing, on the same scans.
Then, where `iac stress` has re-imaged the development scans, the slope of Dice per mm on the same heads. Intervals are
over patients and seeds together (`iac_lightning.evaluation.statistics.two_level`). Scans without a lesion are left out:
any mask there has a Dice of 0.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from iac_lightning.evaluation.statistics.two_level import patient_sums, percentile_interval, two_level, weighted_means
from iac_lightning.evaluation.tables.series_table import read_series_table

ARMS = ("nothing", "position", "thickness", "both")
COLUMNS = {"dice": "after the annotation protocol", "plain_dice": "of a threshold alone"}
EDGES_MM = {"all": (0, np.inf), "≤ 2 mm": (0, 2), "2–4 mm": (2, 4), "> 4 mm": (4, np.inf)}

Floats = NDArray[np.float64]


def tables(sweep: Path, file: str) -> dict[str, list[pd.DataFrame]]:
    """Arm to the rows with lesions of a table of each of its seeds, all in one order; arms without one are left out."""
    found: dict[str, list[pd.DataFrame]] = {}
    for arm in ARMS:
        paths = sorted(sweep.glob(f"{arm}_seed*/{file}"))
        read = [read_series_table(p).sort_values(["series_id", "slice_thickness_mm"], ignore_index=True) for p in paths]
        if read:
            found[arm] = [table[table["has_lesion"].astype(bool)] for table in read]
    return found


def compared(sums: Floats, counts: Floats, seeds: Sequence[int]) -> list[str]:
    """The value of each arm, then the difference of each from the first.

    Args:
        sums: `[cells, 1, patients]` numerators; cells of an arm lie together.
        counts: `[patients]` or as `sums`, denominators.
        seeds: cells of each arm.
    """
    draws = two_level(weighted_means(sums, counts), seeds, sums.shape[-1], seed=0, resamples=10_000)
    values, resampled = draws.estimate[:, 0], draws.resampled[..., 0]
    cells = [f"{value:.3f}" for value in values]
    for k in range(1, len(values)):
        low, high = percentile_interval(resampled[:, k] - resampled[:, 0])
        cells.append(f"{values[k] - values[0]:+.3f} [{low:+.3f}; {high:+.3f}]")
    return cells


def slopes(table: pd.DataFrame, column: str) -> tuple[Floats, Floats]:
    """Of each patient, by id, what the slope within patients is the ratio of: Σ (x − x̄)(y − ȳ) and Σ (x − x̄)²."""
    groups = [group for _, group in table.groupby("patient_id", sort=True)]
    x = [(g["slice_thickness_mm"] - g["slice_thickness_mm"].mean()).to_numpy() for g in groups]
    y = [(g[column] - g[column].mean()).to_numpy() for g in groups]
    return np.array([a @ b for a, b in zip(x, y, strict=True)]), np.array([a @ a for a in x])


def print_table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """In Markdown."""
    print("\n" + "\n".join(f"| {' | '.join(row)} |" for row in (titles, ["---"] * len(titles), *rows)))


def main(sweep: Path) -> None:
    """Print the tables."""
    found = tables(sweep, "evaluation/dev.csv")
    seeds = [len(of_arm) for of_arm in found.values()]
    print("trainings:", ", ".join(f"{arm} {n}" for arm, n in zip(found, seeds, strict=True)))
    first = found["nothing"][0]
    thickness_mm, patients = first["slice_thickness_mm"].to_numpy(), first["patient_id"].to_numpy().astype(str)
    for column, name in COLUMNS.items():
        rows = []
        for stratum, (low, high) in EDGES_MM.items():
            kept = (thickness_mm > low) & (thickness_mm <= high)
            values = np.array([t[column].to_numpy()[kept] for of_arm in found.values() for t in of_arm])
            sums, counts = patient_sums(values[:, None], patients[kept])
            rows.append([stratum, f"{kept.sum()} / {len(set(patients[kept]))}", *compared(sums, counts, seeds)])
        print_table(
            [f"Dice {name}", "scans / patients", *found, *(f"{arm} − nothing" for arm in list(found)[1:])], rows
        )
    stressed = tables(sweep, "stress/dev.csv")
    if not stressed:
        return
    rows = []
    for column, name in COLUMNS.items():
        parts = [slopes(t, column) for of_arm in stressed.values() for t in of_arm]
        sums = np.array([s for s, _ in parts])[:, None]
        rows.append([name, str(sums.shape[-1]), *compared(sums, parts[0][1], [len(v) for v in stressed.values()])])
    others = [f"{arm} − nothing" for arm in list(stressed)[1:]]
    print_table(["slope of Dice per mm", "heads", *stressed, *others], rows)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/condition_cpu"))
