"""Trainings of one recipe that differ in their seed or fold alone: how much a figure moves between them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from math import nan

import numpy as np

from iac_lightning.evaluation.ablation.recipes import Candidate, recipe_settings
from iac_lightning.evaluation.tables.measures import values

REPEATED = ("dice", "lesion_f1", "sensitivity", "absolute_volume_error_mm3")
"""Keys of `measures.MEASURES` whose spread is shown."""

_PLACE = ("data.fold", "data.more_folds")


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Means of one measure of the trainings of a recipe.

    Attributes:
        means: of each training, over its scans.
        mean: of these means.
        sd: their standard deviation (n − 1).
    """

    means: tuple[float, ...]
    mean: float
    sd: float


@dataclass(frozen=True, kw_only=True)
class Repeats:
    """The trainings of one recipe.

    Attributes:
        names: of the runs, in the order of seeds and folds.
        seeds: of each.
        folds: held out for development by each; None where the cohort's own split decides.
        spreads: by measure of `REPEATED`.
    """

    names: tuple[str, ...]
    seeds: tuple[int, ...]
    folds: tuple[int | None, ...]
    spreads: dict[str, Spread]


def repeats(candidates: Sequence[Candidate]) -> list[Repeats]:
    """Recipes that were trained twice or more, in a fixed order.

    Args:
        candidates: evaluated on the same series.
    """
    grouped: dict[str, list[Candidate]] = {}
    for candidate in candidates:
        settings = {
            key: value
            for key, value in recipe_settings(candidate).items()
            if key.removeprefix("pretraining.") not in _PLACE
        }
        grouped.setdefault(json.dumps(settings, sort_keys=True), []).append(candidate)
    return [_repeats(members) for members in grouped.values() if len(members) > 1]


def _repeats(members: Sequence[Candidate]) -> Repeats:
    ordered = sorted(members, key=lambda c: (c.settings["seed"], c.settings.get("data.fold") or 0, c.name))
    spreads = {}
    for measure in REPEATED:
        means = [_mean(values(candidate.table, measure)) for candidate in ordered]
        spreads[measure] = Spread(means=tuple(means), mean=float(np.mean(means)), sd=float(np.std(means, ddof=1)))
    return Repeats(
        names=tuple(candidate.name for candidate in ordered),
        seeds=tuple(int(candidate.settings["seed"]) for candidate in ordered),
        folds=tuple(candidate.settings.get("data.fold") for candidate in ordered),
        spreads=spreads,
    )


def _mean(x: np.ndarray) -> float:
    return nan if np.isnan(x).all() else float(np.nanmean(x))
