"""The claims of the paper, tested with the trainings of a sweep.

The paper: Jin, Mair, Wardlaw, Valdés Hernández, "Calibrated Self-supervised Vision Transformers Improve Intracranial
Arterial Calcification Segmentation from Clinical CT Head Scans", arXiv 2507.01744.

What a cell is (ViT or CNN, pre-trained or not, patch size, upsampling) is read from its own settings. Recipes are
compared with all else equal: patch sizes and upsamplings among ViTs that differ in that setting alone (patch size also
in their pre-training, which must have the same), ViT and CNN on the same data and loss, each with its own
optimisation, training length and sampling of patches. Verdicts look at each claim by itself, without correction for
five. Where several such pairs exist, the average over them decides, so that no winner is picked on the split that
judges it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from data_modules.errors import UserError
from iac_lightning.evaluation.ablation.cells import identity
from iac_lightning.evaluation.ablation.effects import slope_weights
from iac_lightning.evaluation.ablation.recipe_statistics import (
    UNDEFINED,
    MeasuredRecipes,
    Value,
    contrast_of,
    mean_dice,
    misclassified_shares,
    pair_weights,
    relative_slopes,
    same_stress,
    thickness_slopes,
)
from iac_lightning.evaluation.ablation.recipes import (
    MAE_VIT,
    SCRATCH_VIT,
    Candidate,
    Recipe,
    absent_families,
    family_pairs,
    group_recipes,
    patch_sets,
    patch_voxels,
    upsampling_pairs,
)
from iac_lightning.evaluation.clinical.risk import RiskCutoffs, cutoffs_from_development
from iac_lightning.evaluation.statistics.bootstrap import RESAMPLES
from iac_lightning.evaluation.statistics.jackknife import ratio
from iac_lightning.evaluation.statistics.two_level import percentile_interval

SUPPORTED, CONTRADICTED, UNDECIDED, NOT_TESTED = "supported", "contradicted", "undecided", "not tested here"
MIN_PATIENTS = 6
"""With fewer, no sign pattern reaches p < 0.05 in a two-sided Wilcoxon signed-rank test (2/2⁵ = 0.063)."""
VERDICTS = (SUPPORTED, CONTRADICTED, UNDECIDED, NOT_TESTED)

HUNDRED = 100
"""Values are points of Dice (Dice × 100) and per cent."""

ClaimName = Literal["vit ahead", "small patches", "interpolation", "thick slices", "risk groups"]


@dataclass(frozen=True)
class Lack:
    """Why a claim cannot be tested with the trainings at hand.

    Attributes:
        what: families: none of a kind of network; pairs: none with the same data settings and loss; patch sizes,
            upsamplings, thicknesses: no two of them, all else equal; development: the split was not evaluated;
            cut-offs: it gives none.
        names: the families that are absent, or why there are no cut-offs.
    """

    what: Literal["families", "pairs", "patch sizes", "upsamplings", "thicknesses", "development", "cut-offs"]
    names: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Claim:
    """What became of a claim.

    Attributes:
        name: which claim.
        value: what decides, in points of Dice or per cent, with its 95 % interval (`two_level`); nan where nothing
            could be compared.
        sides: of pairs, the mean of the first recipes and of the second ones, in the same unit.
        relative: of slopes, the same difference with each side in % of its own mean Dice; None of other claims.
        verdict: one of `VERDICTS`.
        lack: why it was not tested; None where it was.
        n_sets: pairs (or sets, of a slope) of recipes that the value is averaged over.
        family: of the first recipes of pairs.
        patch_voxels: volumes of the patches that were compared.
        simulated: whether slice thicknesses are simulated ones of the same heads.
        cutoffs: of the risk groups.
        n_cells: recipes behind it.
        n_trainings: trained networks.
        n_scans: scans.
        n_patients: patients.
        one_seed: whether every recipe was trained once, so that the interval covers patients only.
        too_few_patients: whether it is undecided because fewer than `MIN_PATIENTS` speak.
    """

    name: ClaimName
    value: Value = UNDEFINED
    sides: tuple[Value, Value] | None = None
    relative: Value | None = None
    verdict: str = NOT_TESTED
    lack: Lack | None = None
    n_sets: int = 0
    family: str = ""
    patch_voxels: tuple[int, ...] = ()
    simulated: bool = False
    cutoffs: RiskCutoffs | None = None
    n_cells: int = 0
    n_trainings: int = 0
    n_scans: int = 0
    n_patients: int = 0
    one_seed: bool = False
    too_few_patients: bool = False


@dataclass(frozen=True, kw_only=True)
class Compared:
    """Recipes that a claim compares.

    Attributes:
        sets: recipes alike in all but what the claim is about; of a difference pairs (first, second).
        facts: further fields of `Claim`.
    """

    sets: Sequence[Sequence[Recipe]]
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def recipes(self) -> list[Recipe]:
        """All of them, set by set; a recipe may come twice."""
        return [recipe for recipes in self.sets for recipe in recipes]


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Recipes with what was measured of them, and further fields of `Claim`."""

    values: MeasuredRecipes
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ClaimSpec:
    """How a claim is tested.

    Attributes:
        name: which claim.
        compare: picks the recipes.
        measure: what is measured of each recipe; gets cut-offs of risk groups and the draws of `two_level`.
        decide: the value that decides, and the means of both sides of pairs.
        direction: 1 where the claim says that the value lies above 0, −1 where it says below.
        relative: of slopes, the same in % of each side's own level. Both must point one way, or nothing is decided: a
            network with little Dice has little to lose.
    """

    name: ClaimName
    compare: Callable[[Sequence[Recipe]], Compared | Lack]
    measure: Callable[..., Measured | Lack]
    decide: Callable[[MeasuredRecipes, Sequence[Sequence[Recipe]]], tuple[Value, tuple[Value, Value] | None]]
    direction: int
    relative: Callable[[MeasuredRecipes, Sequence[Sequence[Recipe]]], Value] | None = None


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
                f"'{candidates[0].name}' and '{candidate.name}' were not evaluated on the same scans with the same "
                "labels, so no claim can pool them; report sweeps of different cohorts or splits singly"
            )
    recipes = group_recipes(candidates)
    return [
        with_enough_patients(assess(spec, recipes, cutoffs, seed=seed, resamples=resamples)) for spec in CLAIM_SPECS
    ]


def assess(spec: ClaimSpec, recipes: Sequence[Recipe], cutoffs: RiskCutoffs | None, **draw: int) -> Claim:
    """A claim, tested with the recipes at hand; `draw`: seed and resamples of `two_level`."""
    compared = spec.compare(recipes)
    if isinstance(compared, Lack):
        return Claim(name=spec.name, lack=compared)
    measured = spec.measure(compared.recipes, cutoffs, **draw)
    if isinstance(measured, Lack):
        return Claim(name=spec.name, lack=measured)
    value, sides = spec.decide(measured.values, compared.sets)
    relative = spec.relative(measured.values, compared.sets) if spec.relative else None
    verdicts = {verdict(v.low, v.high, spec.direction) for v in (value, relative) if v is not None}
    return Claim(
        name=spec.name,
        value=value,
        sides=sides,
        relative=relative,
        verdict=verdicts.pop() if len(verdicts) == 1 else UNDECIDED,
        n_sets=len(compared.sets),
        **compared.facts,
        **measured.facts,
        **measured.values.basis(),
    )


def with_enough_patients(claim: Claim) -> Claim:
    """The claim, undecided where too few patients speak: a bootstrap of few patients is far too sure."""
    if claim.verdict not in (SUPPORTED, CONTRADICTED) or claim.n_patients >= MIN_PATIENTS:
        return claim
    return replace(claim, verdict=UNDECIDED, too_few_patients=True)


def verdict(low: float, high: float, direction: int) -> str:
    """Whether an interval lies on the claimed side of 0 (`direction` 1: above), on the other, or on both."""
    if low > 0 or high < 0:
        return SUPPORTED if (low > 0) == (direction > 0) else CONTRADICTED
    return UNDECIDED


# --- which recipes ----------------------------------------------------------------------------------------------------


def _mae_vit_and_cnn(recipes: Sequence[Recipe]) -> Compared | Lack:
    pairs = family_pairs(recipes, MAE_VIT)
    if not pairs:
        absent = absent_families(recipes, MAE_VIT)
        return Lack("families", absent) if absent else Lack("pairs")
    return Compared(sets=pairs, facts={"family": MAE_VIT})


def _any_vit_and_cnn(recipes: Sequence[Recipe]) -> Compared | Lack:
    """Pairs of ViT and CNN, from scratch where none is pre-trained: slices are thick for every ViT."""
    pre_trained = _mae_vit_and_cnn(recipes)
    if isinstance(pre_trained, Lack) and (pairs := family_pairs(recipes, SCRATCH_VIT)):
        return Compared(sets=pairs, facts={"family": SCRATCH_VIT})
    return pre_trained


def _patch_sizes(recipes: Sequence[Recipe]) -> Compared | Lack:
    sets = patch_sets(recipes)
    voxels = sorted({patch_voxels(recipe) for recipes in sets for recipe in recipes})
    return Compared(sets=sets, facts={"patch_voxels": tuple(voxels)}) if sets else Lack("patch sizes")


def _upsamplings(recipes: Sequence[Recipe]) -> Compared | Lack:
    pairs = upsampling_pairs(recipes)
    return Compared(sets=pairs) if pairs else Lack("upsamplings")


# --- what is measured of each -----------------------------------------------------------------------------------------


def _dice(recipes: Sequence[Recipe], cutoffs: RiskCutoffs | None, **draw: int) -> Measured:
    return Measured(values=mean_dice(recipes, "dice", **draw))


def _dice_per_mm(recipes: Sequence[Recipe], cutoffs: RiskCutoffs | None, **draw: int) -> Measured | Lack:
    simulated = same_stress(recipes)
    slopes = thickness_slopes(recipes, simulated, **draw)
    return Lack("thicknesses") if slopes is None else Measured(values=slopes, facts={"simulated": simulated})


def _misclassified(recipes: Sequence[Recipe], cutoffs: RiskCutoffs | None, **draw: int) -> Measured | Lack:
    if cutoffs is None:
        development = next((t.dev for recipe in recipes for t in recipe.trainings if t.dev is not None), None)
        if development is None:
            return Lack("development")
        try:
            cutoffs = cutoffs_from_development(development)
        except UserError as error:
            return Lack("cut-offs", (str(error),))
    return Measured(values=misclassified_shares(recipes, cutoffs, **draw), facts={"cutoffs": cutoffs})


# --- what decides -----------------------------------------------------------------------------------------------------


def _difference(
    measured: MeasuredRecipes, pairs: Sequence[Sequence[Recipe]]
) -> tuple[Value, tuple[Value, Value] | None]:
    """Mean of the first recipes − mean of the second."""
    first, second = pair_weights(measured, pairs)
    return contrast_of(measured, HUNDRED * (first - second)), _sides(measured, first, second)


def _relative_change(
    measured: MeasuredRecipes, pairs: Sequence[Sequence[Recipe]]
) -> tuple[Value, tuple[Value, Value] | None]:
    """The same difference as a share of the second mean; undefined where that is 0."""
    first, second = pair_weights(measured, pairs)

    def change(means: NDArray[np.float64]) -> NDArray[np.float64]:
        before = np.maximum(means @ second, 0)  # seeds' deviations may carry a small share below 0
        return HUNDRED * ratio(means @ first - means @ second, np.where(before > 1e-12, before, 0))

    estimate = float(change(measured.draws.estimate[None, :, 0])[0])
    interval = percentile_interval(change(measured.draws.resampled[:, :, 0]))
    return Value(estimate, *interval), _sides(measured, first, second)


def _relative_slopes(measured: MeasuredRecipes, pairs: Sequence[Sequence[Recipe]]) -> Value:
    return relative_slopes(measured, *(HUNDRED * weights for weights in pair_weights(measured, pairs)))


def _slope_per_doubling(
    measured: MeasuredRecipes, sets: Sequence[Sequence[Recipe]]
) -> tuple[Value, tuple[Value, Value] | None]:
    """Least-squares slope over the logarithm of the patch's voxels, averaged over the sets."""
    weights = np.zeros(len(measured.recipes))
    for recipes in sets:
        slope = slope_weights([np.log2(patch_voxels(recipe)) for recipe in recipes])
        for recipe, weight in zip(recipes, slope, strict=True):
            weights[measured.place(recipe)] += weight / len(sets)
    return contrast_of(measured, HUNDRED * weights), None


def _sides(measured: MeasuredRecipes, first: NDArray[np.float64], second: NDArray[np.float64]) -> tuple[Value, Value]:
    return contrast_of(measured, HUNDRED * first), contrast_of(measured, HUNDRED * second)


CLAIM_SPECS = (
    ClaimSpec("vit ahead", _mae_vit_and_cnn, _dice, _difference, 1),
    ClaimSpec("small patches", _patch_sizes, _dice, _slope_per_doubling, -1),
    ClaimSpec("interpolation", _upsamplings, _dice, _difference, 1),
    ClaimSpec("thick slices", _any_vit_and_cnn, _dice_per_mm, _difference, 1, _relative_slopes),
    ClaimSpec("risk groups", _mae_vit_and_cnn, _misclassified, _relative_change, -1),
)
"""The claims, in the order of the paper."""
