"""What the sweep of training targets has shown: `make sweep SWEEP=experiments/sweeps/targets_cpu.yaml`, then this file.

First, how much of what inference lets through the loss has seen. Then the development Dice, overall and by slice
thickness: of each of the four arms, and what each setting does on average over the other, on the same scans. Intervals
are over patients and seeds together (`iac_lightning.evaluation.statistics.two_level`). Scans without a lesion are left
out: any mask there has a Dice of 0.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from data_modules.config import DataConfig
from data_modules.prepare.store import open_store
from data_modules.scan.geometry import Volume
from data_modules.scan.resampling import resample_probability
from iac_lightning.config.reading import load_experiment
from iac_lightning.evaluation.statistics.two_level import patient_sums, percentile_interval, two_level, weighted_means
from iac_lightning.evaluation.tables.series_table import read_series_table

ARMS = (("occupancy", "common"), ("occupancy", "native"), ("protocol", "common"), ("protocol", "native"))
EFFECTS = {
    "protocol − occupancy": np.array([-0.5, -0.5, 0.5, 0.5]),
    "native − common": np.array([-0.5, 0.5, -0.5, 0.5]),
}
RESTRICT_HU = 100
COLUMNS = {"dice": "after the annotation protocol", "plain_dice": "of a threshold alone"}
EDGES_MM = {"all": (0, np.inf), "≤ 2 mm": (0, 2), "2–4 mm": (2, 4), "> 4 mm": (4, np.inf)}


def tables(sweep: Path) -> dict[tuple[str, str], list[pd.DataFrame]]:
    """(label, loss) to the development scans with lesions of each of its seeds, all in the same order."""
    arms: dict[tuple[str, str], list[pd.DataFrame]] = {}
    for cell in json.loads((sweep / "sweep.json").read_text(encoding="utf-8"))["cells"]:
        path = sweep / cell["name"] / "evaluation" / "dev.csv"
        if path.is_file():
            table = read_series_table(path).sort_values("series_id", ignore_index=True)
            arms.setdefault((cell["levels"]["label"], cell["levels"]["loss"]), []).append(
                table[table["has_lesion"].astype(bool)]
            )
    return arms


def row(values: list[NDArray[np.float64]], patients: NDArray[np.str_]) -> list[str]:
    """The mean Dice of each arm, and what each of the two settings does on average over the other.

    Args:
        values: of each of `ARMS`, `[n_seeds, n_scans]`.
        patients: `[n_scans]`.
    """
    sums, counts = patient_sums(np.concatenate(values)[:, None], patients)
    draws = two_level(weighted_means(sums, counts), [len(v) for v in values], len(counts), seed=0, resamples=10_000)
    cells = [f"{mean:.3f}" for mean in draws.estimate[:, 0]]
    for effect in EFFECTS.values():
        low, high = percentile_interval(draws.resampled[..., 0] @ effect)
        cells.append(f"{draws.estimate[:, 0] @ effect:+.3f} [{low:+.3f}; {high:+.3f}]")
    return cells


def print_unseen(cohort: Path) -> None:
    """Of the native voxels of 100 HU or more, the share whose probability comes mostly from where the loss counts not.

    And the share of the common grid where it does count. Both are of the labelled scans of training and development.
    """
    grid = load_experiment(Path("experiments/sweeps/cpu/cnn.yaml")).data.grid
    series = open_store(DataConfig(cohort=str(cohort), grid=grid), ("finetune", "dev")).series
    for name in ("common", "native"):
        n_bright = n_unseen = n_counted = n_voxels = 0
        for item in series:
            occupancy, hu = item.occupancy(), item.peak_hu() if name == "native" else item.hu()
            assert occupancy is not None
            counted = (hu >= RESTRICT_HU) | (occupancy > 0)
            n_counted, n_voxels = n_counted + int(counted.sum()), n_voxels + counted.size
            everywhere = Volume(np.ones(counted.shape, dtype=np.float32), item.grid)
            weight, inside = (
                resample_probability(volume, item.native_grid).data
                for volume in (everywhere.with_data(counted.astype(np.float32)), everywhere)
            )
            bright = (item.native_hu() >= RESTRICT_HU) & (inside > 0)
            n_bright, n_unseen = n_bright + int(bright.sum()), n_unseen + int((weight[bright] < 0.5).sum())
        print(f"{name}: {n_unseen / n_bright:.2%} of the bright voxels unseen; {n_counted / n_voxels:.0%} counted")


def main(sweep: Path, cohort: Path) -> None:
    """Print the shares, and a table in Markdown for each kind of Dice."""
    print_unseen(cohort)
    arms = tables(sweep)
    first = arms[ARMS[0]][0]
    thickness_mm, patients = first["slice_thickness_mm"].to_numpy(), first["patient_id"].to_numpy().astype(str)
    print("trainings:", ", ".join(f"{' + '.join(arm)} {len(arms[arm])}" for arm in ARMS))
    for column, name in COLUMNS.items():
        titles = [f"Dice {name}", "scans / patients", *(" + ".join(arm) for arm in ARMS), *EFFECTS]
        print(f"\n| {' | '.join(titles)} |\n" + "|---" * len(titles) + "|")
        for stratum, (low, high) in EDGES_MM.items():
            kept = (thickness_mm > low) & (thickness_mm <= high)
            values = [np.array([table[column].to_numpy()[kept] for table in arms[arm]]) for arm in ARMS]
            count = f"{kept.sum()} / {len(set(patients[kept]))}"
            print(f"| {' | '.join([stratum, count, *row(values, patients[kept])])} |")


if __name__ == "__main__":
    main(Path("runs/targets_cpu"), Path("data/targets/cohort.csv"))
