"""Which trainings of a sweep are the same recipe, and which recipes differ in one thing alone.

What a training is (ViT or CNN, pre-trained or not, patch size, upsampling) is read from its own settings.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from math import prod
from typing import Any

import pandas as pd

MAE_VIT, SCRATCH_VIT, NO_TRANSFORMER = "ViT, MAE pre-trained", "ViT, from scratch", "ViT without transformer"
CNN, MAE_CNN, RULE = "CNN", "CNN, MAE pre-trained", "Rule"
VITS = (MAE_VIT, SCRATCH_VIT)
_USED = {"vit": ("model.vit.", "model.decoder."), "cnn": ("model.cnn.",), "rule": ("model.rule.",)}
"""Sections of the settings that each kind of network uses."""
_BETWEEN_FAMILIES = ("model.", "optimizer.", "trainer.", "pretraining", "data.sampling.", "data.batch_size")
"""Settings that ViT and CNN may each have their own of."""
PATCH = ("model.vit.patch_size", "pretraining.model.vit.patch_size")
UPSAMPLING = ("model.decoder.upsampling",)
DEPTH = ("model.vit.depth", "pretraining.model.vit.depth")
_START = ("pretraining", "optimizer.")
"""What a pre-trained network and one from scratch may each have their own of."""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """An evaluated training.

    Attributes:
        settings: those that decide its result, by dotted key (`decisive_settings`).
        pretraining: those of the run that its encoder came from; None where there is none or it is not at hand.
        table: from `series_table`.
        dev: of the development split, for cut-offs of risk groups.
        stress: the same scans at simulated slice thicknesses, where they were evaluated.
    """

    settings: Mapping[str, Any] = field(repr=False)
    pretraining: Mapping[str, Any] | None = field(default=None, repr=False)
    table: pd.DataFrame = field(repr=False)
    dev: pd.DataFrame | None = field(default=None, repr=False)
    stress: pd.DataFrame | None = field(default=None, repr=False)

    @property
    def name(self) -> str:
        """Of the run."""
        return str(self.settings["name"])


@dataclass(frozen=True)
class Recipe:
    """Trainings that differ in their seed alone."""

    family: str
    settings: Mapping[str, Any] = field(repr=False)
    trainings: Sequence[Candidate] = field(repr=False)

    def others(self, *ignored: str) -> str:
        """The settings that must be equal, as one word."""
        return json.dumps({k: v for k, v in self.settings.items() if not k.startswith(ignored)}, sort_keys=True)


def family(settings: Mapping[str, Any]) -> str:
    """What kind of network a training made."""
    name, begun = settings["model.name"], bool(settings["init_from"])
    if name == "cnn":
        return MAE_CNN if begun else CNN
    if name != "vit":
        return RULE if name == "rule" else str(name)
    if settings["model.vit.depth"] == 0:
        return NO_TRANSFORMER
    return MAE_VIT if begun else SCRATCH_VIT


def group_recipes(candidates: Sequence[Candidate]) -> list[Recipe]:
    """Trainings of equal settings together, in a fixed order."""
    grouped: dict[str, list[tuple[Candidate, dict[str, Any]]]] = {}
    for candidate in sorted(candidates, key=lambda c: (c.settings["seed"], c.name)):
        settings = recipe_settings(candidate)
        grouped.setdefault(json.dumps(settings, sort_keys=True), []).append((candidate, settings))
    return [
        Recipe(family(rows[0][0].settings), rows[0][1], [candidate for candidate, _ in rows])
        for _, rows in sorted(grouped.items())
    ]


def recipe_settings(candidate: Candidate) -> dict[str, Any]:
    """Dotted settings that decide what a training makes, its seed, name and place excepted.

    Sections that its kind of network does not use are left out; those of its pre-training begin with `pretraining`.
    """
    name = candidate.settings["model.name"]
    unused = [section for kind, used in _USED.items() if kind != name for section in used]
    settings = _without(candidate.settings, ("model.mae.", *unused))
    if candidate.settings["init_from"]:
        other = "model.vit." if name == "cnn" else "model.cnn."
        known = _without(candidate.pretraining or {}, ("model.decoder.", other, "loss."))
        settings |= {"pretraining": "MAE", **{f"pretraining.{k}": v for k, v in known.items()}}
    return settings


def _without(settings: Mapping[str, Any], unused: tuple[str, ...]) -> dict[str, Any]:
    dropped = ("name", "seed", "init_from")
    return {k: v for k, v in settings.items() if k not in dropped and not k.startswith(unused)}


def alike(recipes: Sequence[Recipe], ignored: tuple[str, ...], wanted: Callable[[Recipe], bool]) -> list[list[Recipe]]:
    """Recipes that are equal but for some settings."""
    sets: dict[str, list[Recipe]] = {}
    for recipe in recipes:
        if wanted(recipe):
            sets.setdefault(f"{recipe.family} {recipe.others(*ignored)}", []).append(recipe)
    return list(sets.values())


def patch_voxels(recipe: Recipe) -> int:
    """Volume of a ViT's patch, in voxels."""
    return prod(recipe.settings[PATCH[0]])


def patch_sets(recipes: Sequence[Recipe]) -> list[list[Recipe]]:
    """ViTs that differ in the patch size alone, in two volumes at least."""
    sets = alike(recipes, PATCH, lambda recipe: recipe.family in VITS and same_patch_before(recipe))
    return [members for members in sets if len({patch_voxels(recipe) for recipe in members}) > 1]


def upsampling_pairs(recipes: Sequence[Recipe]) -> list[tuple[Recipe, Recipe]]:
    """ViTs that differ in the decoder's upsampling alone: (interpolation, transposed)."""
    pairs = []
    for members in alike(recipes, UPSAMPLING, lambda recipe: recipe.family in VITS):
        by_name = {recipe.settings[UPSAMPLING[0]]: recipe for recipe in members}
        if {"interpolation", "transposed"} <= set(by_name):
            pairs.append((by_name["interpolation"], by_name["transposed"]))
    return pairs


def transformer_pairs(recipes: Sequence[Recipe]) -> list[tuple[Recipe, Recipe]]:
    """ViTs, each with the network that differs from it in having no transformer alone, trained the same way."""
    vits, without = ([r for r in recipes if r.family in kinds] for kinds in (VITS, (NO_TRANSFORMER,)))
    return [(v, w) for v, w in product(vits, without) if v.others(*DEPTH) == w.others(*DEPTH)]


def pretraining_pairs(recipes: Sequence[Recipe], first: str, second: str) -> list[tuple[Recipe, Recipe]]:
    """Pre-trained networks, each with the one from scratch that differs in its start and its optimiser alone."""
    begun, scratch = ([r for r in recipes if r.family == kind] for kind in (first, second))
    return [(b, s) for b, s in product(begun, scratch) if b.others(*_START) == s.others(*_START)]


def same_patch_before(recipe: Recipe) -> bool:
    """Whether the pre-training, where it is known, had the patch size of the fine-tuning."""
    before = recipe.settings.get(PATCH[1])
    return before is None or before == recipe.settings[PATCH[0]]


def family_pairs(recipes: Sequence[Recipe], first: str) -> list[tuple[Recipe, Recipe]]:
    """Each recipe of a family with each CNN of the same data and loss."""
    vits, cnns = ([r for r in recipes if r.family == kind] for kind in (first, CNN))
    return [(v, c) for v, c in product(vits, cnns) if v.others(*_BETWEEN_FAMILIES) == c.others(*_BETWEEN_FAMILIES)]


def absent_families(recipes: Sequence[Recipe], first: str) -> tuple[str, ...]:
    """Which of a family and CNN no recipe is of."""
    return tuple(kind for kind in (first, CNN) if not any(recipe.family == kind for recipe in recipes))
