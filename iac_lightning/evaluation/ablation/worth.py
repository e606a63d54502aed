"""What the transformer and its pre-training are worth: with against without, all else equal.

The transformer is compared with the same network of depth 0 (`model.vit.depth`), trained the same way: tokeniser and
decoder alone. Pre-trained networks are compared with those from scratch, each with its own optimiser settings.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from iac_lightning.evaluation.ablation.claims import MIN_PATIENTS
from iac_lightning.evaluation.ablation.recipe_statistics import (
    MeasuredRecipes,
    Value,
    contrast_of,
    mean_dice,
    pair_weights,
)
from iac_lightning.evaluation.ablation.recipes import (
    CNN,
    MAE_CNN,
    MAE_VIT,
    NO_TRANSFORMER,
    SCRATCH_VIT,
    Candidate,
    Recipe,
    group_recipes,
    pretraining_pairs,
    transformer_pairs,
)
from iac_lightning.evaluation.statistics.bootstrap import RESAMPLES

Part = Literal["transformer", "pre-training"]


@dataclass(frozen=True, kw_only=True)
class Worth:
    """What a part of the recipe adds to mean Dice over the scans with lesions.

    Attributes:
        part: of the recipe.
        families: with the part, and without it.
        difference: with − without, with its 95 % interval over patients and, where recipes were repeated, seeds.
        sides: mean Dice with the part, and without it.
        plain: the difference of the masks of a threshold alone; None where a table has it not.
        n_pairs: recipes that differ in the part alone, over which the difference is averaged.
        n_trainings: networks behind it.
        n_scans: scans with lesions.
        n_patients: whose they are.
        one_seed: whether every recipe was trained once, so that the interval covers patients only.
    """

    part: Part
    families: tuple[str, str]
    difference: Value
    sides: tuple[Value, Value]
    plain: Value | None
    n_pairs: int
    n_trainings: int
    n_scans: int
    n_patients: int
    one_seed: bool


def decided(value: Value, n_patients: int) -> bool:
    """Whether an interval excludes 0, of patients enough for it to be believed."""
    return n_patients >= MIN_PATIENTS and (value.low > 0 or value.high < 0)


def worths(candidates: Sequence[Candidate], *, seed: int, resamples: int = RESAMPLES) -> list[Worth]:
    """What each part is worth, where trainings with and without it are there.

    Args:
        candidates: evaluated trainings, each once, on the same scans.
        seed: decides the draws.
        resamples: number of resamples.
    """
    recipes = group_recipes(candidates)
    return [
        _worth(part, families, pairs, seed=seed, resamples=resamples)
        for part, families, pairs in _compared(recipes)
        if pairs
    ]


def _compared(recipes: Sequence[Recipe]) -> Iterator[tuple[Part, tuple[str, str], list[tuple[Recipe, Recipe]]]]:
    for kind in (SCRATCH_VIT, MAE_VIT):
        pairs = [pair for pair in transformer_pairs(recipes) if pair[0].family == kind]
        yield "transformer", (kind, NO_TRANSFORMER), pairs
    for kinds in ((MAE_VIT, SCRATCH_VIT), (MAE_CNN, CNN)):
        yield "pre-training", kinds, pretraining_pairs(recipes, *kinds)


def _worth(
    part: Part, families: tuple[str, str], pairs: Sequence[tuple[Recipe, Recipe]], seed: int, resamples: int
) -> Worth:
    recipes = [recipe for pair in pairs for recipe in pair]

    def measured(column: str) -> tuple[MeasuredRecipes, Value]:
        means = mean_dice(recipes, column, seed=seed, resamples=resamples)
        first, second = pair_weights(means, pairs)
        return means, contrast_of(means, first - second)

    means, difference = measured("dice")
    first, second = pair_weights(means, pairs)
    with_plain = all("plain_dice" in training.table for recipe in recipes for training in recipe.trainings)
    return Worth(
        part=part,
        families=families,
        difference=difference,
        sides=(contrast_of(means, first), contrast_of(means, second)),
        plain=measured("plain_dice")[1] if with_plain else None,
        n_pairs=len(pairs),
        n_trainings=sum(len(recipe.trainings) for recipe in means.recipes),
        n_scans=means.n_scans,
        n_patients=means.n_patients,
        one_seed=not means.draws.seed_df,
    )
