"""What each factor of an ablation does to a metric: level means, differences, interactions and trends.

Every one is a linear contrast of the means of cells (a cell: one level of each factor), so the estimate, the resamples
of `two_level` and the patients' own values all come from the same weights. In a balanced design the marginal means and
contrasts are those of ordinary least squares.

A factor's effect is averaged over *contexts*, the combinations of the other factors, each with equal weight, and only
over those in which all its levels are there: a missing cell takes its context out instead of tilting a mean.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, product
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from iac_lightning.evaluation.ablation.cells import CALIBRATION, Combination, Sample
from iac_lightning.evaluation.statistics.paired import holm
from iac_lightning.evaluation.statistics.two_level import percentile_interval


@dataclass(frozen=True, kw_only=True)
class Effect:
    """A contrast of cell means with its uncertainty.

    Attributes:
        kind: cell, level, difference, interaction or trend.
        factor: whose effect; of a cell empty.
        level: the level (of a cell all levels, joined).
        baseline: level it is compared with; empty where it is a mean.
        other: second factor of an interaction, with its level and baseline.
        other_level: see `other`.
        other_baseline: see `other`.
        estimate: of the sample.
        low: of the 95 % interval (`two_level`); nan below five patients.
        high: see `low`.
        p: Wilcoxon signed-rank test over patients of their seed-averaged contrasts; of these networks, it knows
            nothing of other seeds. 1 where all are 0, nan for means.
        adjusted_p: after Holm's correction over the table.
        contexts: combinations of the other factors it is averaged over.
        contexts_of: how many the design has.
        n_cells: cells behind it.
        n_trainings: trained networks behind it.
        n_scans: scans.
        n_patients: patients.
    """

    kind: str
    factor: str = ""
    level: str = ""
    baseline: str = ""
    other: str = ""
    other_level: str = ""
    other_baseline: str = ""
    estimate: float
    low: float
    high: float
    p: float = float("nan")
    adjusted_p: float = float("nan")
    contexts: int = 1
    contexts_of: int = 1
    n_cells: int
    n_trainings: int
    n_scans: int
    n_patients: int

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval lies on one side of 0."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True, kw_only=True)
class Lead:
    """The highest level of a factor, and how far it is ahead.

    Attributes:
        best: its marginal mean.
        lead: difference to the second highest level.
        highest_share: share of the resamples in which it is the highest; nan below five patients.
    """

    best: Effect
    lead: Effect
    highest_share: float


def contrast(sample: Sample, weights: NDArray[np.float64], *, tested: bool = True, **facts: Any) -> Effect:
    """An effect from the weights of the cells `[n_cells]`."""
    low, high = percentile_interval(sample.draws.resampled[:, :, 0] @ weights)
    used = np.flatnonzero(weights)
    if not len(sample.factors) or CALIBRATION not in sample.factors:
        trained = sum(len(sample.seeds[i]) for i in used)
    else:  # both variants of a training are one network
        trained = sum({sample.cells[i][:-1]: len(sample.seeds[i]) for i in used}.values())
    return Effect(
        estimate=float(sample.draws.estimate[:, 0] @ weights),
        low=low,
        high=high,
        p=signed_rank_p(weights @ sample.by_patient) if tested else float("nan"),
        n_cells=len(used),
        n_trainings=trained,
        n_scans=sample.n_scans,
        n_patients=sample.n_patients,
        **facts,
    )


def signed_rank_p(by_patient: NDArray[np.float64]) -> float:
    """Two-sided Wilcoxon signed-rank test of the patients' differences; 1 when all are 0."""
    rounded = np.round(by_patient, 12)  # so that ties are ties
    return float(stats.wilcoxon(rounded).pvalue) if rounded.any() else 1.0


def cell_means(sample: Sample) -> list[Effect]:
    """The mean of each cell."""
    units = np.eye(len(sample.cells))
    return [
        contrast(sample, w, tested=False, kind="cell", level=", ".join(cell))
        for w, cell in zip(units, sample.cells, strict=True)
    ]


def complete_contexts(sample: Sample, factor: str) -> tuple[list[Combination], tuple[str, ...], int]:
    """Where a factor's levels can be compared with all else equal.

    Returns:
        Combinations of the other factors in which every level that was trained at all is there; those levels; how many
        combinations the design has.
    """
    at = list(sample.factors).index(factor)
    trained = set(sample.cells)
    levels = tuple(level for level in sample.factors[factor] if any(cell[at] == level for cell in trained))
    others = [levels_ for name, levels_ in sample.factors.items() if name != factor]
    contexts = list(product(*others))
    complete = [c for c in contexts if all((*c[:at], level, *c[at:]) in trained for level in levels)]
    return complete, levels, len(contexts)


def level_means(sample: Sample, factor: str) -> list[Effect]:
    """Marginal mean of each level over the complete contexts; none where there is no such context."""
    contexts, levels, total = complete_contexts(sample, factor)
    facts: dict[str, Any] = {
        "kind": "level",
        "factor": factor,
        "contexts": len(contexts),
        "contexts_of": total,
        "tested": False,
    }
    return [
        contrast(sample, _marginal(sample, factor, {level: 1.0}, contexts), level=level, **facts)
        for level in (levels if contexts else ())
    ]


def differences(sample: Sample, factor: str, baseline: str) -> list[Effect]:
    """Each other level − baseline, over the complete contexts; p not yet adjusted (`adjusted`)."""
    contexts, levels, total = complete_contexts(sample, factor)
    facts: dict[str, Any] = {"kind": "difference", "factor": factor, "contexts": len(contexts), "contexts_of": total}
    if not contexts or baseline not in levels:
        return []
    return [
        contrast(
            sample,
            _marginal(sample, factor, {level: 1.0, baseline: -1.0}, contexts),
            level=level,
            baseline=baseline,
            **facts,
        )
        for level in levels
        if level != baseline
    ]


def interactions(sample: Sample, baselines: Mapping[str, str]) -> list[Effect]:
    """For each two factors how much a difference from the baseline depends on the other factor's level.

    (level − baseline) at the other factor's level − the same at its baseline, averaged over the contexts of the
    remaining factors in which all four cells are there; without one it is left out.
    """
    effects = []
    names = list(sample.factors)
    place = {cell: i for i, cell in enumerate(sample.cells)}
    for a, b in combinations(names, 2):
        rest = [name for name in names if name not in (a, b)]
        contexts = [dict(zip(rest, c, strict=True)) for c in product(*(sample.factors[name] for name in rest))]
        for x, y in product(sample.factors[a], sample.factors[b]):
            if x == baselines[a] or y == baselines[b]:
                continue
            weights, complete = np.zeros(len(sample.cells)), 0
            corners = [(x, y, 1), (baselines[a], y, -1), (x, baselines[b], -1), (baselines[a], baselines[b], 1)]
            for context in contexts:
                four = [(tuple({**context, a: i, b: j}[name] for name in names), sign) for i, j, sign in corners]
                if all(cell in place for cell, _ in four):
                    complete += 1
                    for cell, sign in four:
                        weights[place[cell]] += sign
            if complete:
                facts: dict[str, Any] = {"other_level": y, "other_baseline": baselines[b], "contexts_of": len(contexts)}
                facts |= {"factor": a, "level": x, "baseline": baselines[a], "other": b, "contexts": complete}
                effects.append(contrast(sample, weights / complete, kind="interaction", **facts))
    return effects


def trend(sample: Sample, factor: str, numeric: Mapping[str, float]) -> Effect | None:
    """Least-squares slope of the means per doubling of a numeric factor, averaged over the complete contexts.

    Args:
        sample: from `cells.measure_cells`.
        factor: whose levels have numbers.
        numeric: level to a positive number, such as the voxels of a patch.

    Returns:
        None below two different numbers, or without a complete context.
    """
    contexts, levels, total = complete_contexts(sample, factor)
    if not contexts or len({numeric[level] for level in levels}) < 2:
        return None
    slopes = slope_weights([np.log2(numeric[level]) for level in levels])
    weights = _marginal(sample, factor, dict(zip(levels, slopes, strict=True)), contexts)
    return contrast(sample, weights, kind="trend", factor=factor, contexts=len(contexts), contexts_of=total)


def two_way_means(sample: Sample, a: str, b: str) -> tuple[dict[tuple[str, str], Effect], int, int]:
    """Mean of each combination of two factors, averaged over the contexts that hold every combination trained at all.

    Returns:
        (level of a, level of b) to mean, combinations without a training left out; how many contexts it is averaged
        over, and how many the design has. Without a context in common there are no means.
    """
    names = list(sample.factors)
    i, j = names.index(a), names.index(b)
    rest = [k for k in range(len(names)) if k not in (i, j)]
    held: dict[Combination, set[tuple[str, str]]] = {}
    for cell in sample.cells:
        held.setdefault(tuple(cell[k] for k in rest), set()).add((cell[i], cell[j]))
    pairs = set().union(*held.values())
    contexts = [context for context, trained in held.items() if trained == pairs]
    total = int(np.prod([len(sample.factors[names[k]]) for k in rest], initial=1))
    means = {}
    for x, y in product(sample.factors[a], sample.factors[b]):
        if contexts and (x, y) in pairs:
            weights = np.array(
                [(cell[i], cell[j]) == (x, y) and tuple(cell[k] for k in rest) in contexts for cell in sample.cells]
            )
            facts: dict[str, Any] = {"level": x, "other": b, "other_level": y, "contexts": len(contexts)}
            means[x, y] = contrast(
                sample, weights / len(contexts), tested=False, kind="mean", factor=a, contexts_of=total, **facts
            )
    return means, len(contexts), total


def seed_means(sample: Sample, factor: str) -> dict[str, dict[int, float]]:
    """Marginal mean of each level for single seeds: level to seed to mean, seeds lacking in a cell left out."""
    contexts, levels, _ = complete_contexts(sample, factor)
    at = list(sample.factors).index(factor)
    place = {cell: k for k, cell in enumerate(sample.cells)}
    means: dict[str, dict[int, float]] = {}
    for level in levels if contexts else ():
        cells = [sample.seeds[place[(*c[:at], level, *c[at:])]] for c in contexts]
        common = sorted(set.intersection(*(set(cell) for cell in cells)))
        means[level] = {seed: float(np.mean([cell[seed] for cell in cells])) for seed in common}
    return means


def slope_weights(x: Sequence[float]) -> NDArray[np.float64]:
    """Weights of the ordinates in a least-squares slope."""
    centred = np.asarray(x, dtype=np.float64) - np.mean(x)
    weights: NDArray[np.float64] = centred / (centred**2).sum()
    return weights


def lead(sample: Sample, factor: str) -> Lead | None:
    """The highest marginal mean of a factor against the second; None below two levels that can be compared."""
    contexts, levels, total = complete_contexts(sample, factor)
    if not contexts or len(levels) < 2:
        return None
    means = level_means(sample, factor)
    order = sorted(range(len(means)), key=lambda i: -means[i].estimate)
    best, second = levels[order[0]], levels[order[1]]
    weights = np.stack([_marginal(sample, factor, {level: 1.0}, contexts) for level in levels])
    resampled = sample.draws.resampled[:, :, 0] @ weights.T
    share = float("nan") if np.isnan(resampled).any() else float((resampled.argmax(axis=1) == order[0]).mean())
    facts: dict[str, Any] = {"kind": "difference", "factor": factor, "contexts": len(contexts), "contexts_of": total}
    ahead = contrast(sample, weights[order[0]] - weights[order[1]], level=best, baseline=second, **facts)
    return Lead(best=means[order[0]], lead=ahead, highest_share=share)


def adjusted(effects: Sequence[Effect]) -> list[Effect]:
    """The same with p after Holm's correction over all of them."""
    return [replace(e, adjusted_p=float(p)) for e, p in zip(effects, holm([e.p for e in effects]), strict=True)]


def _marginal(
    sample: Sample, factor: str, weight: Mapping[str, float], contexts: Sequence[Combination]
) -> NDArray[np.float64]:
    """Weights of the cells: those of the levels, the same in each context."""
    at = list(sample.factors).index(factor)
    allowed = set(contexts)
    return np.array(
        [
            weight.get(cell[at], 0.0) / len(contexts) if (*cell[:at], *cell[at + 1 :]) in allowed else 0.0
            for cell in sample.cells
        ]
    )
