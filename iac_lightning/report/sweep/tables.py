"""The tables of a sweep's page."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from iac_lightning.evaluation.ablation.effects import Effect
from iac_lightning.report.page import Table
from iac_lightning.report.sweep.answer import seed_remark, source, sureness
from iac_lightning.report.sweep.result import EVALUATED, CellResult, SweepResult
from iac_lightning.report.words import TableCell, duration, number, p_cell, sentence, signed


def leads_table(sweep: SweepResult) -> Table | None:
    """For each factor its highest level, how far it is ahead, and how sure that is."""
    if not sweep.ablation:
        return None
    against = {(e.factor, e.level): e for e in sweep.ablation.differences}
    rows: list[list[TableCell]] = []
    for factor, lead in sweep.ablation.leads.items():
        if lead is None:
            rows.append([factor, *["–"] * 6])
            continue
        baseline = sweep.ablation.baselines[factor]
        gain = against.get((factor, lead.best.level))
        share = "–" if np.isnan(lead.highest_share) else f"{100 * lead.highest_share:.0f} %"
        gained = f"is the baseline ({baseline})" if gain is None else _over(gain)
        ahead = [_over(lead.lead), share, sureness(sweep, lead.lead)]
        rows.append([factor, lead.best.level, _value(lead.best), *ahead, gained])
    header = [
        ("factor", ""),
        ("highest", ""),
        ("Dice", "averaged over the rest"),
        ("ahead of the second", "95\u00a0% CI"),
        ("highest in", "of resamples"),
        ("this lead", ""),
        ("ahead of the baseline", "95\u00a0% CI"),
    ]
    legend = (
        "Established: the interval excludes 0 and Wilcoxon's p over patients, after Holm, is below 0.05; for these "
        "networks: the same, with one seed. The highest level was picked on the scans that judge it, so its lead is on "
        "the favourable side."
    )
    return Table(header=header, rows=rows, words=("factor", "highest"), legend=legend)


def design_table(sweep: SweepResult) -> Table:
    """Every combination of levels: what became of its seeds, and its Dice; holes stay visible."""
    means = {} if not sweep.ablation else dict(zip(sweep.ablation.sample.cells, sweep.ablation.cells, strict=True))
    seeds = (
        {} if not sweep.ablation else dict(zip(sweep.ablation.sample.cells, sweep.ablation.sample.seeds, strict=True))
    )
    rows: list[list[TableCell]] = []
    for combination in sweep.combinations:
        planned = sweep.of(combination)
        effect = means.get(combination)
        single = seeds.get(combination, {})
        rows.append(
            [
                *combination,
                _states(planned),
                _value(effect) if effect else "–",
                ", ".join(number(v) for _, v in sorted(single.items())) or "–",
            ]
        )
    header = [
        *((factor, "") for factor in sweep.factors),
        ("result", ""),
        ("Dice", "mean over seeds, 95\u00a0% CI"),
        ("Dice", "single seeds"),
    ]
    return Table(
        header=header,
        rows=rows,
        legend=f"{sentence(source(sweep))} Dice: mean over scans with lesions, calibrated mask. {_covers(sweep)}",
        words=(*sweep.factors, "result"),
        holes=[row[-2] == "–" for row in rows],
    )


def differences_table(sweep: SweepResult) -> Table:
    """Marginal mean of each level, and its difference from the factor's baseline."""
    assert sweep.ablation is not None
    against = {(e.factor, e.level): e for e in sweep.ablation.differences}
    rows: list[list[TableCell]] = []
    for factor, means in sweep.ablation.levels.items():
        for mean in means:
            effect = against.get((factor, mean.level))
            rows.append(
                [
                    factor,
                    mean.level,
                    _value(mean),
                    _value(effect, sign=True) if effect else "baseline",
                    p_cell(effect.p) if effect else "",
                    p_cell(effect.adjusted_p) if effect else "",
                    f"{mean.contexts} of {mean.contexts_of}",
                    f"{mean.n_cells}, {mean.n_trainings}",
                ]
            )
    header = [
        ("factor", ""),
        ("level", ""),
        ("Dice", "marginal mean, 95\u00a0% CI"),
        ("difference", "from the baseline, 95\u00a0% CI"),
        ("p", "Wilcoxon, patients"),
        ("p", "after Holm"),
        ("averaged over", "combinations of the rest"),
        ("n", "cells, trainings"),
    ]
    legend = (
        f"{sentence(source(sweep))} {_covers(sweep)} p: Wilcoxon's signed-rank test over patients of their "
        "seed-averaged differences; it is about these networks and knows nothing of other seeds. Holm's correction "
        f"over the {len(against)} differences of this table. This page calls a difference established where its "
        "interval excludes 0, the corrected p is below 0.05 and cells were trained with more than one seed."
    )
    return Table(header=header, rows=rows, legend=legend, words=("factor", "level"))


def trends_table(sweep: SweepResult) -> Table | None:
    """Slopes per doubling of the numeric factors."""
    if not sweep.ablation or not sweep.ablation.trends:
        return None
    rows: list[list[TableCell]] = [
        [e.factor, _value(e, 4, sign=True), p_cell(e.p), p_cell(e.adjusted_p), f"{e.contexts} of {e.contexts_of}"]
        for e in sweep.ablation.trends
    ]
    header = [
        ("numeric factor", ""),
        ("Dice per doubling", "least-squares slope, 95\u00a0% CI"),
        ("p", "Wilcoxon, patients"),
        ("p", "after Holm"),
        ("averaged over", "combinations of the rest"),
    ]
    legend = f"{sentence(source(sweep))} Doubling of a patch size: of the voxels that a patch holds."
    return Table(header=header, rows=rows, legend=legend, words=("numeric factor",))


def interactions_table(sweep: SweepResult) -> Table | None:
    """Differences of differences."""
    if not sweep.ablation or not sweep.ablation.interactions:
        return None
    rows: list[list[TableCell]] = [
        [
            f"{e.factor}: {e.level} − {e.baseline}",
            f"{e.other}: {e.other_level} − {e.other_baseline}",
            _value(e, sign=True),
            p_cell(e.p),
            p_cell(e.adjusted_p),
            f"{e.contexts} of {e.contexts_of}",
        ]
        for e in sweep.ablation.interactions
    ]
    header = [
        ("difference", ""),
        ("how it changes with", ""),
        ("interaction", "Dice, 95\u00a0% CI"),
        ("p", "Wilcoxon, patients"),
        ("p", "after Holm"),
        ("averaged over", "combinations of the rest"),
    ]
    legend = (
        f"{sentence(source(sweep))} Interaction: the difference on the left at the first level of the second column, "
        "minus the same at its second. 0: the factors add up. Holm's correction over "
        f"the {len(rows)} interactions of this table."
    )
    return Table(header=header, rows=rows, legend=legend, words=("difference", "how it changes with"))


def cost_table(sweep: SweepResult) -> Table:
    """Training time and weights of each combination, pre-trainings below."""
    rows: list[list[TableCell]] = []
    groups = [(", ".join(c), sweep.of(c)) for c in sweep.combinations]
    before = [c for c in sweep.cells if c.kind == "pretrain"]
    groups += [(f"pre-training {', '.join(c.levels.values())}".strip(), [c]) for c in before]
    for name, cells in groups:
        seconds = [c.seconds for c in cells if c.seconds is not None]
        weights = sorted({c.parameters for c in cells if c.parameters is not None})
        if cells:
            rows.append(
                [
                    name,
                    f"{len(seconds)} of {len(cells)}",
                    duration(sum(seconds) / len(seconds)) if seconds else "–",
                    "–" if not weights else " / ".join(f"{w:,}" for w in weights),
                ]
            )
    total = sum(c.seconds for c in sweep.cells if c.seconds is not None)
    header = [("cell", ""), ("trained", "runs"), ("training time", "mean of a run"), ("trained weights", "")]
    legend = f"Training time of all runs together: {duration(total)}. {sentence(source(sweep))}"
    return Table(header=header, rows=rows, legend=legend, words=("cell",))


def _states(cells: Sequence[CellResult]) -> str:
    if not cells:
        return "left out of the plan"
    lacking = [c for c in cells if c.state != EVALUATED]
    if not lacking:
        return "all seeds" if len(cells) > 1 else f"seed {cells[0].seed}"
    words = [f"seed {c.seed} {c.state}{f': {c.reason}' if c.reason else ''}" for c in lacking]
    return f"{len(cells) - len(lacking)} of {len(cells)} seeds; {'; '.join(words)}"


def _covers(sweep: SweepResult) -> str:
    if not sweep.ablation:
        return ""
    return (
        f"95\u00a0% intervals by bootstrap, the same patients in all cells. {seed_remark(sweep.ablation.sample.draws)}"
    )


def _value(effect: Effect, digits: int = 3, *, sign: bool = False) -> TableCell:
    text = signed(effect.estimate, digits) if sign else number(effect.estimate, digits)
    return text if np.isnan(effect.low) else (text, _range(effect, digits, sign=sign))


def _over(effect: Effect) -> TableCell:
    return f"{signed(effect.estimate)} over {effect.baseline}", _range(effect, sign=True)


def _range(effect: Effect, digits: int = 3, *, sign: bool = False) -> str:
    if np.isnan(effect.low):
        return "no interval"
    show = signed if sign else number
    return f"{show(effect.low, digits)}; {show(effect.high, digits)}"
