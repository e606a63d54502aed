"""Which trainings of a sweep are the same recipe, and which recipes differ in one thing alone.

What a training is (ViT or CNN, pre-trained or not, patch size, upsampling) is read from its own settings.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import pandas as pd

from iac_lightning.config.reading import config_dict, is_decisive
from iac_lightning.config.schema import ExperimentConfig

MAE_VIT, SCRATCH_VIT, CNN = "ViT, MAE pre-trained", "ViT, from scratch", "CNN"
_BETWEEN_FAMILIES = ("model.", "optimizer.", "trainer.", "pretraining", "data.sampling.", "data.batch_size")
"""Settings that ViT and CNN may each have their own of."""
PATCH = ("model.vit.patch_size", "pretraining.model.vit.patch_size")
UPSAMPLING = ("model.decoder.upsampling",)


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """An evaluated training.

    Attributes:
        config: its settings.
        pretraining: those of the run that its encoder came from; None where there is none or it is not at hand.
        table: from `series_table`.
        dev: of the development split, for cut-offs of risk groups.
        stress: the same scans at simulated slice thicknesses, where they were evaluated.
    """

    config: ExperimentConfig = field(repr=False)
    pretraining: ExperimentConfig | None = field(default=None, repr=False)
    table: pd.DataFrame = field(repr=False)
    dev: pd.DataFrame | None = field(default=None, repr=False)
    stress: pd.DataFrame | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Recipe:
    """Trainings that differ in their seed alone."""

    family: str
    settings: Mapping[str, Any] = field(repr=False)
    trainings: Sequence[Candidate] = field(repr=False)

    def others(self, *ignored: str) -> str:
        """The settings that must be equal, as one word."""
        return json.dumps({k: v for k, v in self.settings.items() if not k.startswith(ignored)}, sort_keys=True)


def family(config: ExperimentConfig) -> str:
    """What kind of network a training made."""
    if config.model.name == "cnn":
        return CNN
    return MAE_VIT if config.init_from else SCRATCH_VIT


def group_recipes(candidates: Sequence[Candidate]) -> list[Recipe]:
    """Trainings of equal settings together, in a fixed order."""
    grouped: dict[str, list[tuple[Candidate, dict[str, Any]]]] = {}
    for candidate in sorted(candidates, key=lambda c: (c.config.seed, c.config.name)):
        settings = recipe_settings(candidate)
        grouped.setdefault(json.dumps(settings, sort_keys=True), []).append((candidate, settings))
    return [Recipe(family(rows[0][0].config), rows[0][1], [c for c, _ in rows]) for _, rows in sorted(grouped.items())]


def recipe_settings(candidate: Candidate) -> dict[str, Any]:
    """Dotted settings that decide what a training makes, its seed, name and place excepted.

    Sections that its kind of network does not use are left out; those of its pre-training begin with `pretraining`.
    """
    other = ("model.vit.", "model.decoder.") if candidate.config.model.name == "cnn" else ("model.cnn.",)
    settings = _flat(candidate.config, ("model.mae.", *other))
    if candidate.config.init_from:
        before = candidate.pretraining
        known = {} if before is None else _flat(before, ("model.decoder.", "model.cnn.", "loss."))
        settings |= {"pretraining": "MAE", **{f"pretraining.{k}": v for k, v in known.items()}}
    return settings


def _flat(config: ExperimentConfig, unused: tuple[str, ...]) -> dict[str, Any]:
    def walk(value: Any, key: str) -> dict[str, Any]:
        if isinstance(value, dict):
            return {
                k: v for name, below in value.items() for k, v in walk(below, f"{key}.{name}" if key else name).items()
            }
        return {key: value}

    dropped = ("name", "seed", "init_from")
    found = walk(config_dict(config), "")
    return {k: v for k, v in found.items() if is_decisive(k) and k not in dropped and not k.startswith(unused)}


def alike(recipes: Sequence[Recipe], ignored: tuple[str, ...], wanted: Callable[[Recipe], bool]) -> list[list[Recipe]]:
    """Recipes that are equal but for some settings."""
    found: dict[str, list[Recipe]] = {}
    for recipe in recipes:
        if wanted(recipe):
            found.setdefault(f"{recipe.family} {recipe.others(*ignored)}", []).append(recipe)
    return list(found.values())


def same_patch_before(recipe: Recipe) -> bool:
    """Whether the pre-training, where it is known, had the patch size of the fine-tuning."""
    before = recipe.settings.get(PATCH[1])
    return before is None or before == recipe.settings[PATCH[0]]


def family_pairs(recipes: Sequence[Recipe], first: str) -> list[tuple[Recipe, Recipe]]:
    """Each recipe of a family with each CNN of the same data and loss."""
    vits, cnns = ([r for r in recipes if r.family == kind] for kind in (first, CNN))
    return [(v, c) for v, c in product(vits, cnns) if v.others(*_BETWEEN_FAMILIES) == c.others(*_BETWEEN_FAMILIES)]


def need_families(recipes: Sequence[Recipe], first: str) -> str:
    """What is lacking for such a pair, for readers."""
    lacking = [kind for kind in (first, CNN) if not any(r.family == kind for r in recipes)]
    if lacking:
        return f"needs cells of both kinds, {first} and {CNN}; there is no {' and no '.join(lacking)}"
    return f"needs {first} and {CNN} with the same data settings and loss; those here differ in them"
