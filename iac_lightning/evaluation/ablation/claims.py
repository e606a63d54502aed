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
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_modules.errors import UserError
from iac_lightning.evaluation.ablation.cells import identity
from iac_lightning.evaluation.ablation.effects import slope_weights
from iac_lightning.evaluation.ablation.recipe_statistics import (
    figure_of,
    mean_dice,
    misclassified_shares,
    pair_weights,
    same_stress,
    thickness_slopes,
)
from iac_lightning.evaluation.ablation.recipes import (
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
from iac_lightning.evaluation.clinical.risk import RiskCutoffs, cutoffs_from_development
from iac_lightning.evaluation.statistics.bootstrap import RESAMPLES, ratio
from iac_lightning.evaluation.statistics.two_level import (
    percentile_interval,
)

SUPPORTED, CONTRADICTED, UNDECIDED, NOT_TESTED = "supported", "contradicted", "undecided", "not tested here"
MIN_PATIENTS = 6
"""With fewer, no sign pattern reaches p < 0.05 in a two-sided Wilcoxon signed-rank test (2/2⁵ = 0.063)."""
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
    claims = (
        _ahead(recipes, **draw),
        _patches(recipes, **draw),
        _upsampling(recipes, **draw),
        _thick_slices(recipes, **draw),
        _risk(recipes, cutoffs, **draw),
    )
    return [with_enough_patients(claim) for claim in claims]


def with_enough_patients(claim: Claim) -> Claim:
    """The claim, undecided where too few patients speak: a bootstrap of few patients is far too sure."""
    if claim.verdict not in (SUPPORTED, CONTRADICTED) or claim.n_patients >= MIN_PATIENTS:
        return claim
    few = f"{claim.n_patients} patients are too few to decide (at least {MIN_PATIENTS})"
    return replace(claim, verdict=UNDECIDED, remark="; ".join(filter(None, (claim.remark, few))))


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
    found = mean_dice([r for pair in pairs for r in pair], **draw)
    vit, cnn = pair_weights(found, pairs)
    own = figure_of(found, 100 * vit)
    figure = figure_of(found, 100 * (vit - cnn))
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
    found = mean_dice([r for rows in sets for r in rows], **draw)
    weights = np.zeros(len(found.recipes))
    for rows in sets:
        for recipe, weight in zip(rows, slope_weights([np.log2(voxels(r)) for r in rows]), strict=True):
            weights[found.place(recipe)] += weight / len(sets)
    figure = figure_of(found, 100 * weights)
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
    found = mean_dice([r for pair in pairs for r in pair], **draw)
    first, second = pair_weights(found, pairs)
    figure = figure_of(found, 100 * (first - second))
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
    stressed = same_stress(used)
    found = thickness_slopes(used, stressed, **draw)
    if found is None:
        return Claim(**text, compared="needs scans with lesions of at least two slice thicknesses")
    vit, cnn = pair_weights(found, pairs)
    each = [_words(figure_of(found, 100 * w), 2, signed=True) for w in (vit, cnn)]
    figure = figure_of(found, 100 * (vit - cnn))
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
    found = misclassified_shares(used, cutoffs, **draw)
    vit, cnn = pair_weights(found, pairs)

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
