"""What recipes reach on the same scans, with what it might have been: Dice, slopes over thickness, risk groups."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from data_modules.csv_files import as_text
from iac_lightning.evaluation.ablation.recipes import Recipe
from iac_lightning.evaluation.clinical.risk import RiskCutoffs, risk_groups
from iac_lightning.evaluation.statistics.jackknife import ratio
from iac_lightning.evaluation.statistics.two_level import (
    Draws,
    Statistic,
    patient_sums,
    percentile_interval,
    two_level,
    weighted_means,
)


class Value(NamedTuple):
    """A number with its 95 % interval; nan where it is undefined."""

    estimate: float
    low: float
    high: float


UNDEFINED = Value(float("nan"), float("nan"), float("nan"))


@dataclass(frozen=True)
class MeasuredRecipes:
    """Recipes with draws of a value.

    Attributes:
        recipes: each once, in the order of the draws.
        draws: one variant.
        n_scans: scans behind every value.
        n_patients: whose they are.
    """

    recipes: Sequence[Recipe]
    draws: Draws
    n_scans: int
    n_patients: int

    def place(self, recipe: Recipe) -> int:
        """Where a recipe stands in the draws."""
        return [id(r) for r in self.recipes].index(id(recipe))

    def basis(self) -> dict[str, Any]:
        """What a value rests on: fields of `claims.Claim`."""
        return {
            "n_cells": len(self.recipes),
            "n_trainings": sum(len(r.trainings) for r in self.recipes),
            "n_scans": self.n_scans,
            "n_patients": self.n_patients,
            "one_seed": not self.draws.seed_df,
        }


def mean_dice(recipes: Sequence[Recipe], column: str = "dice", **draw: int) -> MeasuredRecipes:
    """Mean Dice (another `column` than the plain one) over the scans with lesions; `draw`: seed and resamples."""
    tables, unique = _tables(recipes, "table")
    kept = tables[0]["has_lesion"].to_numpy(dtype=bool)
    values = np.array([t[column].to_numpy(dtype=float)[kept] for t in tables])
    sums, counts = patient_sums(values[:, None], as_text(tables[0]["patient_id"])[kept])
    return _measured(unique, weighted_means(sums, counts), int(kept.sum()), counts, **draw)


def thickness_slopes(recipes: Sequence[Recipe], stressed: bool, **draw: int) -> MeasuredRecipes | None:
    """Least-squares slopes of Dice per mm, of simulated thicknesses within patients; None without two thicknesses.

    Its two variants: the slopes, and the mean Dice of the same scans.
    """
    tables, unique = _tables(recipes, "stress" if stressed else "table")
    kept = tables[0]["has_lesion"].to_numpy(dtype=bool)
    x = tables[0]["slice_thickness_mm"].to_numpy(dtype=float)[kept]
    if len(np.unique(x)) < 2:
        return None
    y = np.array([t["dice"].to_numpy(dtype=float)[kept] for t in tables])
    patients = as_text(tables[0]["patient_id"])[kept]
    dice = patient_sums(y, patients)[0]
    if stressed:  # what thicker slices do to the same head: deviations from each patient's means
        x, y = (v - _patient_means(v, patients) for v in (x, y))
    (sx, sxx), counts = patient_sums(np.stack([x, x**2]), patients)
    sy, sxy = (patient_sums(v, patients)[0] for v in (y, x * y))

    def slopes(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        n, mean, square = weights @ counts, weights @ sx, weights @ sxx
        spread = square - mean**2 / n
        covariance = weights @ sxy.T - (mean / n)[:, None] * (weights @ sy.T)
        slope = ratio(covariance, np.where(spread > 1e-12 * square, spread, 0.0)[:, None])
        return np.stack([slope, (weights @ dice.T) / n[:, None]], axis=-1)

    spread = sxx - 2 * x.mean() * sx + x.mean() ** 2 * counts  # of the thicknesses around their mean
    return _measured(unique, slopes, int(kept.sum()), np.maximum(spread, 0), **draw)


def same_stress(recipes: Sequence[Recipe]) -> bool:
    """Whether all trainings were evaluated on the same scans at the same simulated thicknesses."""
    tables = [t.stress for r in recipes for t in r.trainings]
    rows = [None if t is None else sorted(zip(t["series_id"], t["slice_thickness_mm"], strict=True)) for t in tables]
    return rows[0] is not None and all(other == rows[0] for other in rows)


def _patient_means(values: NDArray[np.float64], patients: NDArray[np.str_]) -> NDArray[np.float64]:
    """Each scan's value replaced by the mean over its patient's scans, `[..., n_scans]`."""
    sums, counts = patient_sums(values, patients)
    means: NDArray[np.float64] = (sums / counts)[..., np.unique(patients, return_inverse=True)[1]]
    return means


def misclassified_shares(recipes: Sequence[Recipe], cutoffs: RiskCutoffs, **draw: int) -> MeasuredRecipes:
    """Share of all scans whose predicted volume falls into another risk group than the labelled one."""
    tables, unique = _tables(recipes, "table")
    right = risk_groups(tables[0]["label_volume_mm3"].to_numpy(dtype=float), cutoffs)
    wrong = np.array([risk_groups(t["volume_mm3"].to_numpy(dtype=float), cutoffs) != right for t in tables])
    sums, counts = patient_sums(wrong[:, None].astype(np.float64), as_text(tables[0]["patient_id"]))
    return _measured(unique, weighted_means(sums, counts), len(right), counts, **draw)


def _measured(
    recipes: Sequence[Recipe], statistic: Statistic, n_scans: int, leverage: NDArray[np.float64], **draw: int
) -> MeasuredRecipes:
    draws = two_level(statistic, [len(r.trainings) for r in recipes], leverage, **draw)
    return MeasuredRecipes(recipes, draws, n_scans, len(leverage))


def _tables(recipes: Sequence[Recipe], name: str) -> tuple[list[pd.DataFrame], list[Recipe]]:
    """Tables of the trainings, rows in the same order, and the recipes, each once."""
    unique = list({id(r): r for r in recipes}.values())
    order = ["series_id", "slice_thickness_mm"]
    return [getattr(t, name).sort_values(order) for r in unique for t in r.trainings], unique


def pair_weights(
    measured: MeasuredRecipes, pairs: Sequence[Sequence[Recipe]]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Weights `[n_recipes]` of the means over the pairs' first and second recipes."""
    weights = np.zeros((2, len(measured.recipes)))
    for pair in pairs:
        for side, recipe in enumerate(pair):
            weights[side, measured.place(recipe)] += 1 / len(pairs)
    return weights[0], weights[1]


def contrast_of(measured: MeasuredRecipes, weights: NDArray[np.float64]) -> Value:
    """A contrast of recipes from their weights `[n_recipes]`."""
    resampled = measured.draws.resampled[:, :, 0] @ weights
    return Value(float(measured.draws.estimate[:, 0] @ weights), *percentile_interval(resampled))


def relative_slopes(measured: MeasuredRecipes, first: NDArray[np.float64], second: NDArray[np.float64]) -> Value:
    """Difference of two contrasts of `thickness_slopes`, each as a share of its own mean Dice.

    Weights `[n_recipes]` of each sum to the unit of the shares (100: per cent).
    """

    def difference(values: NDArray[np.float64]) -> NDArray[np.float64]:
        slopes, level = values[..., 0], np.maximum(values[..., 1], 0)
        return ratio(slopes @ first, level @ first / first.sum()) - ratio(
            slopes @ second, level @ second / second.sum()
        )

    draws = measured.draws
    return Value(float(difference(draws.estimate[None])[0]), *percentile_interval(difference(draws.resampled)))
