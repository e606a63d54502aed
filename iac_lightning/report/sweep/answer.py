"""What the report of a sweep says first: the answer in words, and what it cannot say."""

from __future__ import annotations

from collections.abc import Sequence

from iac_lightning.evaluation.ablation.effects import Effect, complete_contexts
from iac_lightning.evaluation.statistics.intervals import MIN_PATIENTS, missing_interval
from iac_lightning.evaluation.statistics.two_level import Draws
from iac_lightning.evaluation.tables.comparison import SIGNIFICANT
from iac_lightning.report.sweep.result import EVALUATED, CellResult, SweepResult
from iac_lightning.report.words import plural


def source(sweep: SweepResult) -> str:
    """What figures and tables were taken from."""
    planned = sweep.trainings
    seeds = sorted({c.seed for c in planned})
    named = f"{'seed' if len(seeds) == 1 else 'seeds'} {', '.join(map(str, seeds))}"
    folds = {c.fold for c in planned} - {None}
    split = f"{len(folds)} folds, each patient by the run that has not seen it" if folds else f"{sweep.split} split"
    text = f"{split}, {len(sweep.evaluated)} of {len(planned)} trainings ({named})"
    if sweep.ablation:
        sample = sweep.ablation.sample
        text += f" in {len(sample.cells)} cells, {sample.n_scans} scans with lesions of {sample.n_patients} patients"
    return f"{text}; resamples from seed {sweep.seed}"


def established(effect: Effect) -> bool:
    """Whether interval (patients and seeds) and corrected test (patients) agree that it is more than chance."""
    return effect.excludes_zero and effect.adjusted_p < SIGNIFICANT


def sureness(sweep: SweepResult, effect: Effect) -> str:
    """In two or three words; a sweep with one seed cannot establish what a factor does."""
    if not established(effect):
        return "may be chance"
    return "established" if _repeated(sweep) else "for these networks"


def sweep_answer(sweep: SweepResult) -> list[str]:
    """Which level is best for each factor and whether that is sure, in a sentence or two."""
    if not sweep.ablation:
        return [
            f"No answer yet: none of the {len(sweep.trainings)} trainings was evaluated on the {sweep.split} split."
        ]
    sure: list[str] = []
    unsure: list[str] = []
    unknown: list[str] = []
    for factor, lead in sweep.ablation.leads.items():
        if lead is None:
            unknown.append(factor)
        else:
            (sure if established(lead.lead) else unsure).append(f"{lead.best.level} ({factor})")
    sentences = []
    if sure:
        how = ", and established" if _repeated(sweep) else " beyond chance of patients, of networks of a single seed"
        sentences.append(f"Highest Dice{how}: {', '.join(sure)}.")
    if unsure:
        sentences.append(f"Highest Dice here, but the lead over the second may be chance: {', '.join(unsure)}.")
    if unknown:
        sentences.append(f"Cannot be answered yet, because too few cells are there: {', '.join(unknown)}.")
    return sentences


def caveats(sweep: SweepResult) -> list[str]:
    """What the numbers cannot say: the file's word, missing trainings, few seeds or patients, incomplete averages."""
    sentences = [sweep.caveat] if sweep.caveat else []
    lacking = [c for c in sweep.trainings if c.state != EVALUATED]
    if lacking:
        states = list(dict.fromkeys(c.state for c in lacking))
        counts = ", ".join(f"{sum(c.state == s for c in lacking)} {s}" for s in states)
        sentences.append(
            f"{len(lacking)} of {len(sweep.trainings)} trainings have no result ({counts}); see the design."
        )
    if not sweep.ablation:
        return sentences
    for factor in sweep.ablation.levels:
        contexts, levels, total = complete_contexts(sweep.ablation.source(factor), factor)
        never = [level for level in sweep.ablation.source(factor).factors[factor] if level not in levels]
        if never:
            sentences.append(f"No cell of {factor} {', '.join(never)} is there.")
        if len(contexts) < total and len(levels) > 1:
            sentences.append(
                f"{factor[:1].upper()}{factor[1:]} is averaged over {len(contexts)} of {total} combinations of the "
                "other factors, those in which all its levels are there."
                if contexts
                else f"The levels of {factor} cannot be compared: no combination of the other factors has them all."
            )
    if not sweep.ablation.sample.draws.seed_df:
        sentences.append(seed_remark(sweep.ablation.sample.draws))
    elif any(_shares_pretraining(sweep.of(c)) for c in sweep.combinations):
        sentences.append(
            "All seeds of a cell start from one pre-training, so intervals do not cover what another pre-training "
            "would change."
        )
    if sweep.ablation.sample.n_patients < MIN_PATIENTS:
        sentences.append(
            f"{missing_interval(sweep.ablation.sample.n_patients).capitalize()}, so nothing is established."
        )
    return sentences


def seed_remark(draws: Draws) -> str:
    """What the intervals cover, in a sentence or two."""
    once = sum(n == 1 for n in draws.n_seeds)
    if not draws.seed_df:
        return (
            "Every cell was trained with one seed, so intervals cover patients only: how much another seed would "
            "change a cell cannot be known, and a difference may be the luck of one training."
        )
    text = f"Intervals cover patients and seeds; the spread over seeds rests on {plural(draws.seed_df, 'degree')} of "
    text += "freedom, which is little, and widens them." if draws.seed_df < 6 else "freedom."
    if once:
        text += f" {once} of {len(draws.n_seeds)} cells {'was' if once == 1 else 'were'} trained once and borrow"
        text += f"{'s' if once == 1 else ''} the spread of the others."
    return text


def _shares_pretraining(cells: Sequence[CellResult]) -> bool:
    starts = [name for cell in cells for name in cell.needs]
    return len(set(starts)) < len(starts)


def _repeated(sweep: SweepResult) -> bool:
    return sweep.ablation is not None and sweep.ablation.sample.draws.seed_df > 0
