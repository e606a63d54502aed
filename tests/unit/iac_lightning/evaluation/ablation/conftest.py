"""Trainings of a small sweep that nobody ran."""

from __future__ import annotations

from itertools import product

import pandas as pd

from iac_lightning.evaluation.ablation.cells import Training
from tests.synthetic_sweep import invented

FACTORS = {"size": ("small", "middle", "large"), "up": ("a", "b")}
MEAN = {("small", "a"): 0.6, ("small", "b"): 0.7, ("middle", "a"): 0.55, ("middle", "b"): 0.6}
MEAN |= {("large", "a"): 0.5, ("large", "b"): 0.4}


def trainings(seeds=(0, 1), factors=FACTORS, **settings) -> list[Training]:
    cells = []
    for k, combination in enumerate(product(*factors.values())):
        for seed in seeds:
            table = invented(MEAN[combination], (k, seed), **{"patients": 12, **settings})
            cells.append(Training(levels=dict(zip(factors, combination, strict=True)), seed=seed, table=table))
    return cells


def by_hand(rows: list[tuple[str, str, float]]) -> pd.DataFrame:
    """Series of patients with Dice; everything else as `invented` has it."""
    table = invented(0.5, (0,), patients=len(rows), scans=1).iloc[: len(rows)].copy()
    table["series_id"], table["patient_id"], table["dice"] = map(list, zip(*rows, strict=True))
    return table.assign(has_lesion=True, label_volume_mm3=10.0)
