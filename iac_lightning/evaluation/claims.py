"""The claims of the paper beside what a sweep shows, each with its uncertainty.

The paper: Jin, Mair, Wardlaw, Valdés Hernández, "Calibrated Self-supervised Vision Transformers Improve Intracranial
Arterial Calcification Segmentation from Clinical CT Head Scans", arXiv 2507.01744.

What a cell is (ViT or CNN, pre-trained or not, patch size, upsampling) is read from its own settings. Recipes are
compared with all else equal: patch sizes and upsamplings among ViTs that differ in that setting alone (patch size also
in their pre-training, which must have the same), ViT and CNN on the same data and loss, each with its own
optimisation, training length and sampling of patches. Verdicts look at each claim by itself, without correction for
five. Where several such pairs exist, the average over them is reported, so that no winner is picked on the split that
judges it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from data_modules.errors import UserError
from iac_lightning.evaluation.bootstrap import RESAMPLES, ratio
from iac_lightning.evaluation.cells import identity
from iac_lightning.evaluation.effects import slope_weights
from iac_lightning.evaluation.recipes import (
    CNN,
    MAE_VIT,
    PATCH,
    SCRATCH_VIT,
    UPSAMPLING,
    Candidate,
    Recipe,
    alike,
    family_pairs,
    group_recipes,
    need_families,
    same_patch_before,
)
from iac_lightning.evaluation.risk import RiskCutoffs, cutoffs_from_development, risk_groups
from iac_lightning.evaluation.two_level import (
    Draws,
    Statistic,
    patient_sums,
    percentile_interval,
    two_level,
    weighted_means,
)

SUPPORTED, CONTRADICTED, UNDECIDED, NOT_TESTED = "supported", "contradicted", "undecided", "not tested here"
VERDICTS = (SUPPORTED, CONTRADICTED, UNDECIDED, NOT_TESTED)


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A claim and what became of it.

    Attributes:
        claim: in words.
        paper: its figure there.
        measure: what ours is, with its unit.
        ours: the figure in words, with what it is the difference of.
        estimate: the figure that decides; nan where nothing could be compared.
        low: of its 95 % interval (`two_level`).
        high: see `low`.
        verdict: one of the four.
        compared: what was compared; or what is needed.
        n_cells: recipes behind it.
        n_trainings: trained networks.
        n_scans: scans.
        n_patients: patients.
        remark: what the interval does not cover.
    """

    claim: str
    paper: str
    measure: str
    ours: str = ""
    estimate: float = float("nan")
    low: float = float("nan")
    high: float = float("nan")
    verdict: str = NOT_TESTED
    compared: str
    n_cells: int = 0
    n_trainings: int = 0
    n_scans: int = 0
    n_patients: int = 0
    remark: str = ""


def assess_claims(
    candidates: Sequence[Candidate], *, cutoffs: RiskCutoffs | None = None, seed: int, resamples: int = RESAMPLES
) -> list[Claim]:
    """The five claims, in the order of the paper.

    Args:
        candidates: evaluated trainings of one sweep or several, each once, on the same scans.
        cutoffs: of the risk groups; by default quantiles of the labels of the development split.
        seed: decides the draws.
        resamples: number of resamples.

    Raises:
        UserError: when the candidates were not evaluated on the same scans with the same labels.
    """
    for candidate in candidates[1:]:
        if identity(candidate.table) != identity(candidates[0].table):
            raise UserError(
                f"'{candidates[0].config.name}' and '{candidate.config.name}' were not evaluated on the same scans "
                "with the same labels, so no claim can pool them; report sweeps of different cohorts or splits singly"
            )
    recipes = group_recipes(candidates)
    draw = {"seed": seed, "resamples": resamples}
    return [
        _ahead(recipes, **draw),
        _patches(recipes, **draw),
        _upsampling(recipes, **draw),
        _thick_slices(recipes, **draw),
        _risk(recipes, cutoffs, **draw),
    ]


def verdict(low: float, high: float, direction: int) -> str:
    """Whether an interval lies on the claimed side of 0 (`direction` 1: above), on the other, or on both."""
    if low > 0 or high < 0:
        return SUPPORTED if (low > 0) == (direction > 0) else CONTRADICTED
    return UNDECIDED


# --- the claims -----------------------------------------------------------------------------------------------------


def _ahead(recipes: Sequence[Recipe], **draw: int) -> Claim:
    text: dict[str, Any] = {
        "claim": "The calibrated, MAE-pre-trained ViT segments better than nnU-Net",
        "paper": "Dice 65.1 [62.0; 68.4], 3.2 points ahead",
        "measure": "ViT − CNN, points of Dice (Dice × 100)",
    }
    pairs = family_pairs(recipes, MAE_VIT)
    if not pairs:
        return Claim(**text, compared=need_families(recipes, MAE_VIT))
    found = _dice([r for pair in pairs for r in pair], **draw)
    vit, cnn = _pair_weights(found, pairs)
    own = _figure(found, 100 * vit)
    figure = _figure(found, 100 * (vit - cnn))
    return Claim(
        **text,
        ours=f"Dice {_words(own, 1)}, {_words(figure, 1, signed=True)} points ahead",
        **_values(figure, +1),
        compared=_said(pairs, "the calibrated ViT against the nnU-Net-style CNN of this project"),
        **found.facts(),
    )


def _patches(recipes: Sequence[Recipe], **draw: int) -> Claim:
    text: dict[str, Any] = {
        "claim": "Small patches are crucial: Dice falls as the patch grows",
        "paper": "falls (no slope given)",
        "measure": "slope per doubling of the patch's volume, points of Dice",
    }

    def voxels(recipe: Recipe) -> int:
        return prod(recipe.settings["model.vit.patch_size"])

    sets = [
        rows
        for rows in alike(recipes, PATCH, lambda r: r.family != CNN and same_patch_before(r))
        if len({voxels(r) for r in rows}) > 1
    ]
    if not sets:
        need = "ViT cells that differ in model.vit.patch_size alone (and in that of their pre-training)"
        return Claim(**text, compared=f"needs {need}, in two volumes at least")
    found = _dice([r for rows in sets for r in rows], **draw)
    weights = np.zeros(len(found.recipes))
    for rows in sets:
        for recipe, weight in zip(rows, slope_weights([np.log2(voxels(r)) for r in rows]), strict=True):
            weights[found.place(recipe)] += weight / len(sets)
    figure = _figure(found, 100 * weights)
    volumes = sorted({voxels(r) for r in found.recipes})
    return Claim(
        **text,
        ours=f"{_words(figure, 1, signed=True)} points per doubling",
        **_values(figure, -1),
        compared=f"{len(volumes)} volumes from {volumes[0]} to {volumes[-1]} voxels, slope averaged over {len(sets)} "
        f"{_plural(len(sets), 'set')} of ViTs alike but for the patch",
        **found.facts(),
    )


def _upsampling(recipes: Sequence[Recipe], **draw: int) -> Claim:
    text: dict[str, Any] = {
        "claim": "Interpolation with regular convolution beats transposed convolution in ViT decoders",
        "paper": "better (no figure given)",
        "measure": "interpolation − transposed, points of Dice",
    }
    pairs = []
    for rows in alike(recipes, UPSAMPLING, lambda r: r.family != CNN):
        by_name = {r.settings["model.decoder.upsampling"]: r for r in rows}
        if {"interpolation", "transposed"} <= set(by_name):
            pairs.append((by_name["interpolation"], by_name["transposed"]))
    if not pairs:
        need = "ViT cells with model.decoder.upsampling interpolation and transposed that differ in nothing else"
        return Claim(**text, compared=f"needs {need}")
    found = _dice([r for pair in pairs for r in pair], **draw)
    first, second = _pair_weights(found, pairs)
    figure = _figure(found, 100 * (first - second))
    return Claim(
        **text,
        ours=f"{_words(figure, 1, signed=True)} points",
        **_values(figure, +1),
        compared=_said(pairs, "ViTs alike but for the upsampling"),
        **found.facts(),
    )


def _thick_slices(recipes: Sequence[Recipe], **draw: int) -> Claim:
    text: dict[str, Any] = {
        "claim": "As slices get thicker, the ViT loses less Dice than the CNN",
        "paper": "loses less (no slope given)",
        "measure": "slope of the ViT − slope of the CNN, points of Dice per mm of slice thickness",
    }
    kind = MAE_VIT if family_pairs(recipes, MAE_VIT) else SCRATCH_VIT
    pairs = family_pairs(recipes, kind)
    if not pairs:
        return Claim(**text, compared=need_families(recipes, MAE_VIT))
    used = [r for pair in pairs for r in pair]
    stressed = all(t.stress is not None for r in used for t in r.trainings)
    found = _slopes(used, stressed, **draw)
    if found is None:
        return Claim(**text, compared="needs scans with lesions of at least two slice thicknesses")
    vit, cnn = _pair_weights(found, pairs)
    each = [_words(_figure(found, 100 * w), 2, signed=True) for w in (vit, cnn)]
    figure = _figure(found, 100 * (vit - cnn))
    where = "the same heads at simulated thicknesses (iac stress)" if stressed else "scans as they were acquired"
    return Claim(
        **text,
        ours=f"ViT {each[0]}, CNN {each[1]}; difference {_words(figure, 2, signed=True)} points per mm",
        **_values(figure, +1),
        compared=_said(pairs, f"{kind} against CNN, {where}"),
        **found.facts(),
    )


def _risk(recipes: Sequence[Recipe], cutoffs: RiskCutoffs | None, **draw: int) -> Claim:
    text: dict[str, Any] = {
        "claim": "Risk groups by predicted volume are right more often than with nnU-Net",
        "paper": "improves by 46 %",
        "measure": "relative change of misclassified scans, ViT against CNN, %",
    }
    pairs = family_pairs(recipes, MAE_VIT)
    if not pairs:
        return Claim(**text, compared=need_families(recipes, MAE_VIT))
    used = [r for pair in pairs for r in pair]
    if cutoffs is None:
        dev = next((t.dev for r in used for t in r.trainings if t.dev is not None), None)
        if dev is None:
            need = "an evaluation of the development split (iac evaluate RUN --split dev), or fixed cut-offs"
            return Claim(**text, compared=f"needs {need}")
        try:
            cutoffs = cutoffs_from_development(dev)
        except UserError as error:
            return Claim(**text, compared=f"needs cut-offs: {error}")
    found = _misclassified(used, cutoffs, **draw)
    vit, cnn = _pair_weights(found, pairs)

    def change(shares: NDArray[np.float64]) -> NDArray[np.float64]:
        before = np.maximum(shares @ cnn, 0)  # seeds' deviations may carry a small share below 0
        return 100 * ratio(shares @ vit - shares @ cnn, np.where(before > 1e-12, before, 0))

    estimate = float(change(found.draws.estimate[None, :, 0])[0])
    figure = (estimate, *percentile_interval(change(found.draws.resampled[:, :, 0])))
    shares = [f"{100 * float(found.draws.estimate[:, 0] @ w):.1f} %" for w in (vit, cnn)]
    return Claim(
        **text,
        ours=f"{_words(figure, 0, signed=True)} % ({shares[0]} of scans misclassified against {shares[1]})",
        **_values(figure, -1),
        compared=_said(
            pairs,
            f"{MAE_VIT} against CNN; none ≤ {cutoffs.none_mm3:g} < low ≤ {cutoffs.low_mm3:.3g} < medium ≤ "
            f"{cutoffs.medium_mm3:.3g} < high mm³ ({cutoffs.source})",
        ),
        **found.facts(),
    )


# --- figures ---


@dataclass(frozen=True)
class _Measured:
    """Recipes with draws of a figure."""

    recipes: Sequence[Recipe]
    draws: Draws
    n_scans: int
    n_patients: int

    def place(self, recipe: Recipe) -> int:
        return [id(r) for r in self.recipes].index(id(recipe))

    def facts(self) -> dict[str, Any]:
        return {
            "n_cells": len(self.recipes),
            "n_trainings": sum(len(r.trainings) for r in self.recipes),
            "n_scans": self.n_scans,
            "n_patients": self.n_patients,
            "remark": "" if self.draws.seed_df else "one seed a cell: the interval covers patients only",
        }


def _dice(recipes: Sequence[Recipe], **draw: int) -> _Measured:
    tables, unique = _tables(recipes, "table")
    kept = tables[0]["has_lesion"].to_numpy(dtype=bool)
    values = np.array([t["dice"].to_numpy(dtype=float)[kept] for t in tables])
    sums, counts = patient_sums(values[:, None], tables[0]["patient_id"].to_numpy(dtype=str)[kept])
    return _measured(unique, weighted_means(sums, counts), int(kept.sum()), len(counts), **draw)


def _slopes(recipes: Sequence[Recipe], stressed: bool, **draw: int) -> _Measured | None:
    """Least-squares slopes of Dice per mm, of simulated thicknesses within patients; None without two thicknesses."""
    tables, unique = _tables(recipes, "stress" if stressed else "table")
    kept = tables[0]["has_lesion"].to_numpy(dtype=bool)
    x = tables[0]["slice_thickness_mm"].to_numpy(dtype=float)[kept]
    if len(np.unique(x)) < 2:
        return None
    y = np.array([t["dice"].to_numpy(dtype=float)[kept] for t in tables])
    patients = tables[0]["patient_id"].to_numpy(dtype=str)[kept]
    if stressed:  # what thicker slices do to the same head: deviations from each patient's means
        x, y = (v - _patient_means(v, patients) for v in (x, y))
    (sx, sxx), counts = patient_sums(np.stack([x, x**2]), patients)
    sy, sxy = (patient_sums(v, patients)[0] for v in (y, x * y))

    def slopes(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        n, mean, square = weights @ counts, weights @ sx, weights @ sxx
        spread = square - mean**2 / n
        figure = weights @ sxy.T - (mean / n)[:, None] * (weights @ sy.T)
        return ratio(figure, np.where(spread > 1e-12 * square, spread, 0.0)[:, None])[..., None]

    return _measured(unique, slopes, int(kept.sum()), len(counts), **draw)


def _patient_means(values: NDArray[np.float64], patients: NDArray[np.str_]) -> NDArray[np.float64]:
    """Each scan's value replaced by the mean over its patient's scans, `[..., n_scans]`."""
    sums, counts = patient_sums(values, patients)
    means: NDArray[np.float64] = (sums / counts)[..., np.unique(patients, return_inverse=True)[1]]
    return means


def _misclassified(recipes: Sequence[Recipe], cutoffs: RiskCutoffs, **draw: int) -> _Measured:
    tables, unique = _tables(recipes, "table")
    right = risk_groups(tables[0]["label_volume_mm3"].to_numpy(dtype=float), cutoffs)
    wrong = np.array([risk_groups(t["volume_mm3"].to_numpy(dtype=float), cutoffs) != right for t in tables])
    sums, counts = patient_sums(wrong[:, None].astype(np.float64), tables[0]["patient_id"].to_numpy(dtype=str))
    return _measured(unique, weighted_means(sums, counts), len(right), len(counts), **draw)


def _measured(recipes: Sequence[Recipe], statistic: Statistic, n_scans: int, n_patients: int, **draw: int) -> _Measured:
    draws = two_level(statistic, [len(r.trainings) for r in recipes], n_patients, **draw)
    return _Measured(recipes, draws, n_scans, n_patients)


def _tables(recipes: Sequence[Recipe], name: str) -> tuple[list[pd.DataFrame], list[Recipe]]:
    """Tables of the trainings, rows in the same order, and the recipes, each once."""
    unique = list({id(r): r for r in recipes}.values())
    order = ["series_id", "slice_thickness_mm"]
    return [getattr(t, name).sort_values(order) for r in unique for t in r.trainings], unique


def _pair_weights(
    found: _Measured, pairs: Sequence[tuple[Recipe, Recipe]]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Weights `[n_recipes]` of the means over the pairs' first and second recipes."""
    weights = np.zeros((2, len(found.recipes)))
    for pair in pairs:
        for side, recipe in enumerate(pair):
            weights[side, found.place(recipe)] += 1 / len(pairs)
    return weights[0], weights[1]


def _figure(found: _Measured, weights: NDArray[np.float64]) -> tuple[float, float, float]:
    resampled = found.draws.resampled[:, :, 0] @ weights
    return float(found.draws.estimate[:, 0] @ weights), *percentile_interval(resampled)


def _values(figure: tuple[float, float, float], direction: int) -> dict[str, Any]:
    estimate, low, high = figure
    return {"estimate": estimate, "low": low, "high": high, "verdict": verdict(low, high, direction)}


def _words(figure: tuple[float, float, float], digits: int, signed: bool = False) -> str:
    texts = [f"{v:{'+' if signed else ''}.{digits}f}".replace("-", "−") for v in figure]
    return texts[0] if np.isnan(figure[1]) else f"{texts[0]} [{texts[1]}; {texts[2]}]"


def _said(pairs: Sequence[Any], what: str) -> str:
    return f"{what}; mean of {len(pairs)} {_plural(len(pairs), 'pair')}"


def _plural(n: int, word: str) -> str:
    return word if n == 1 else f"{word}s"
