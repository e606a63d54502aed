"""The cells of a sweep's design, measured on the same scans, with what they might have been."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from data_modules.csv_files import as_text
from data_modules.errors import UserError
from iac_lightning.evaluation.statistics.bootstrap import RESAMPLES
from iac_lightning.evaluation.statistics.two_level import Draws, patient_sums, two_level, weighted_means

CALIBRATION = "calibration"
"""The factor within a training: its calibrated results and those of the same network uncalibrated."""

VARIANTS = {"calibrated": "", "uncalibrated": "uncalibrated_"}
"""Level of that factor to prefix of the columns."""

Combination = tuple[str, ...]
"""A level of each factor, in the order of the factors."""


@dataclass(frozen=True, kw_only=True)
class Training:
    """One evaluated training of a sweep.

    Attributes:
        levels: factor to level.
        seed: of the training.
        table: from `series_table`.
    """

    levels: Mapping[str, str]
    seed: int
    table: pd.DataFrame = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Measured cells of a design.

    Attributes:
        metric: column that was measured.
        factors: factor to all its levels, also those without a cell.
        cells: the combinations that were trained.
        draws: `[n_cells]` means with their resamples, one variant.
        by_patient: `[n_cells, n_patients]` mean over a patient's scans and the cell's seeds.
        seeds: seed to value of the single trainings of each cell.
        n_scans: scans behind every value (those with lesions).
        n_patients: whose they are.
        n_trainings: trained networks.
    """

    metric: str
    factors: Mapping[str, tuple[str, ...]]
    cells: tuple[Combination, ...]
    draws: Draws = field(repr=False)
    by_patient: NDArray[np.float64] = field(repr=False)
    seeds: tuple[Mapping[int, float], ...]
    n_scans: int
    n_patients: int
    n_trainings: int

    @property
    def missing(self) -> list[Combination]:
        """Combinations of the design without a training."""
        return [c for c in product(*self.factors.values()) if c not in set(self.cells)]


def measure_cells(
    trainings: Sequence[Training],
    factors: Mapping[str, Sequence[str]],
    *,
    metric: str = "dice",
    variants: Sequence[str] = (),
    seed: int,
    resamples: int = RESAMPLES,
) -> Sample:
    """Cell means of a metric over the scans with lesions, with what they might have been.

    Args:
        trainings: of one sweep, on the same scans. Scans where the metric is undefined for any of them are left out.
        factors: factor to its levels, in the order of the tables.
        metric: a column of the tables.
        variants: of `VARIANTS`; two make calibration a factor.
        seed: decides the draws.
        resamples: number of resamples.

    Raises:
        UserError: when trainings were evaluated on different scans, two have the same levels and seed, or a level is
            not among the factor's.
    """
    if not trainings:
        raise UserError("no training of the sweep was evaluated: there is nothing to compare")
    _check(trainings, factors)
    prefixes = [VARIANTS[v] for v in variants] or [""]
    levels = list(product(*factors.values()))
    grouped = sorted(trainings, key=lambda t: (levels.index(_combination(t, factors)), t.seed))
    recipes = list(dict.fromkeys(_combination(t, factors) for t in grouped))
    n_seeds = [sum(_combination(t, factors) == r for t in grouped) for r in recipes]
    tables = [t.table[t.table["has_lesion"].astype(bool)].sort_values("series_id") for t in grouped]
    values = np.array([[table[p + metric].to_numpy(dtype=float) for p in prefixes] for table in tables])
    defined = np.isfinite(values).all(axis=(0, 1))
    if not defined.any():
        raise UserError(f"no scan has lesions and a defined {metric} in every cell: there is nothing to average")
    sums, counts = patient_sums(values[..., defined], as_text(tables[0]["patient_id"])[defined])
    draws = two_level(weighted_means(sums, counts), n_seeds, counts, seed=seed, resamples=resamples)
    ends = np.cumsum(n_seeds)
    spans = [slice(end - n, end) for end, n in zip(ends, n_seeds, strict=True)]
    extra = {CALIBRATION: tuple(variants)} if len(variants) > 1 else {}
    cells = [(*r, v) if extra else r for r in recipes for v in variants or ("",)]
    return Sample(
        metric=metric,
        factors={**{name: tuple(levels_) for name, levels_ in factors.items()}, **extra},
        cells=tuple(cells),
        draws=replace(
            draws,
            estimate=draws.estimate.reshape(-1, 1),
            resampled=draws.resampled.reshape(len(draws.resampled), -1, 1),
        ),
        by_patient=np.concatenate([(sums[span] / counts).mean(axis=0) for span in spans]),
        seeds=tuple(
            {t.seed: float(draws.trainings[i, v]) for i, t in enumerate(grouped) if span.start <= i < span.stop}
            for span in spans
            for v in range(len(prefixes))
        ),
        n_scans=int(defined.sum()),
        n_patients=len(counts),
        n_trainings=len(grouped),
    )


def _combination(training: Training, factors: Mapping[str, Sequence[str]]) -> Combination:
    return tuple(training.levels[name] for name in factors)


def _check(trainings: Sequence[Training], factors: Mapping[str, Sequence[str]]) -> None:
    first, seen = trainings[0], set()
    for training in trainings:
        what = f"{', '.join(f'{k} {v}' for k, v in training.levels.items())}, seed {training.seed}"
        for name, levels in factors.items():
            if training.levels.get(name) not in levels:
                raise UserError(
                    f"cell ({what}): {name} is {training.levels.get(name)!r}, expected one of {', '.join(levels)}"
                )
        key = (_combination(training, factors), training.seed)
        if key in seen:
            raise UserError(f"cell ({what}) is there twice; each training may count once")
        seen.add(key)
        if identity(training.table) != identity(first.table):
            raise UserError(
                f"cell ({what}) was not evaluated on the same scans with the same labels as the first; evaluate all "
                "cells on the same split of the same cohort"
            )


def identity(table: pd.DataFrame) -> set[tuple[str, str, float]]:
    """Which scans a table is about: series, patient, labelled volume."""
    columns = (table[c] for c in ("series_id", "patient_id", "label_volume_mm3"))
    return {(str(s), str(p), round(float(v), 3)) for s, p, v in zip(*columns, strict=True)}
