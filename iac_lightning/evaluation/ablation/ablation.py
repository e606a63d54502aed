"""A sweep's measured cells turned into everything its report shows."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod

from iac_lightning.evaluation.ablation.cells import CALIBRATION, VARIANTS, Sample, Training, measure
from iac_lightning.evaluation.ablation.effects import (
    Effect,
    Lead,
    adjusted,
    cell_means,
    differences,
    interactions,
    lead,
    level_means,
    trend,
)
from iac_lightning.evaluation.statistics.bootstrap import RESAMPLES

UNCALIBRATED = list(VARIANTS)[1]


@dataclass(frozen=True, kw_only=True)
class Ablation:
    """Effects of a sweep. Those of calibration come from `variants`, all others from the calibrated figures alone.

    Attributes:
        sample: calibrated cells.
        variants: each cell calibrated and uncalibrated; None where the tables do not hold both.
        baselines: factor to the level that others are compared with.
        cells: mean of each cell.
        levels: factor to the marginal means of its levels; empty where no context is complete.
        leads: factor to its highest level; None below two levels that can be compared.
        differences: of each level from the baseline, Holm's correction over all of them.
        interactions: of each two factors, Holm's correction over all of them.
        trends: of the numeric factors, per doubling, Holm's correction over all of them.
    """

    sample: Sample
    variants: Sample | None
    baselines: Mapping[str, str]
    cells: Sequence[Effect]
    levels: Mapping[str, Sequence[Effect]]
    leads: Mapping[str, Lead | None]
    differences: Sequence[Effect]
    interactions: Sequence[Effect]
    trends: Sequence[Effect]

    def source(self, factor: str) -> Sample:
        """The sample that a factor's effect comes from."""
        return self.variants if factor == CALIBRATION and self.variants else self.sample

    @property
    def effects(self) -> list[Effect]:
        """All of them, as one table."""
        means = [effect for found in self.levels.values() for effect in found]
        return [*self.cells, *means, *self.differences, *self.interactions, *self.trends]


def analyse_ablation(
    trainings: Sequence[Training],
    factors: Mapping[str, Sequence[str]],
    *,
    baselines: Mapping[str, str] | None = None,
    numeric: Mapping[str, Mapping[str, float]] | None = None,
    variants: Sequence[str] = (),
    seed: int,
    resamples: int = RESAMPLES,
) -> Ablation:
    """All effects on Dice.

    Args:
        trainings: evaluated trainings.
        factors: factor to its levels.
        baselines: factor to its baseline; by default its first level, of calibration the uncalibrated network.
        numeric: factor to level to number, for trends; by default the volume of levels such as 4×4×4.
        variants: both of `cells.VARIANTS` where calibration is a factor.
        seed: decides the draws.
        resamples: number of resamples.

    Raises:
        UserError: as `cells.measure`.
    """
    sample = measure(trainings, factors, seed=seed, resamples=resamples)
    both = None
    if len(variants) > 1:
        both = measure(trainings, factors, variants=variants, seed=seed, resamples=resamples)
    names = [*factors, *([CALIBRATION] if both else [])]
    against = (
        {name: levels[0] for name, levels in factors.items()} | {CALIBRATION: UNCALIBRATED} | dict(baselines or {})
    )
    own = {name: both if name == CALIBRATION and both else sample for name in names}
    crossed = interactions(sample, against)
    if both:
        crossed += [e for e in interactions(both, against) if e.other == CALIBRATION]
    numbers = {name: (numeric or {}).get(name) or volumes(levels) for name, levels in factors.items()}
    slopes = [trend(sample, name, found) for name, found in numbers.items() if found]
    leads = {name: lead(own[name], name) for name in names}
    return Ablation(
        sample=sample,
        variants=both,
        baselines={name: against[name] for name in names},
        cells=cell_means(sample),
        levels={name: level_means(own[name], name) for name in names},
        leads=_adjusted_leads(leads),
        differences=adjusted([e for name in names for e in differences(own[name], name, against[name])]),
        interactions=adjusted(crossed),
        trends=adjusted([e for e in slopes if e is not None]),
    )


def volumes(levels: Sequence[str]) -> dict[str, float]:
    """Level to the product of its sizes where every level is written like 8×8×4; empty otherwise."""
    if not all(re.fullmatch(r"\d+([×x]\d+)+", level) for level in levels):
        return {}
    return {level: float(prod(map(int, re.split("[×x]", level)))) for level in levels}


def _adjusted_leads(leads: Mapping[str, Lead | None]) -> dict[str, Lead | None]:
    found = {name: x for name, x in leads.items() if x is not None}
    corrected = adjusted([x.lead for x in found.values()])
    return dict(leads) | {
        name: replace(x, lead=effect) for (name, x), effect in zip(found.items(), corrected, strict=True)
    }
