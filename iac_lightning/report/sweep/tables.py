"""The tables of a sweep's page."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from iac_lightning.evaluation.ablation.claims import NOT_TESTED, Claim
from iac_lightning.evaluation.ablation.effects import Effect
from iac_lightning.evaluation.statistics.two_level import seed_remark
from iac_lightning.report.sweep.answer import EVALUATED, CellResult, SweepResult, source, sureness
from iac_lightning.report.words import Cell, duration, number, p_value


@dataclass(frozen=True, kw_only=True)
class SweepTable:
    """A table of the page.

    Attributes:
        header: name and unit or remark of each column.
        rows: a cell a column.
        legend: what the figures are and what they were taken from.
        words: names of the columns that hold words.
        holes: for each row whether it stands for something missing; empty where no row does.
    """

    header: Sequence[tuple[str, str]]
    rows: Sequence[Sequence[Cell]]
    legend: str = ""
    words: Collection[str] = ()
    holes: Sequence[bool] = ()


def leads_table(sweep: SweepResult) -> SweepTable | None:
    """For each factor its highest level, how far it is ahead, and how sure that is."""
    if not sweep.ablation:
        return None
    against = {(e.factor, e.level): e for e in sweep.ablation.differences}
    rows: list[list[Cell]] = []
    for factor, found in sweep.ablation.leads.items():
        if found is None:
            rows.append([factor, *["–"] * 6])
            continue
        baseline = sweep.ablation.baselines[factor]
        gain = against.get((factor, found.best.level))
        share = "–" if np.isnan(found.highest_share) else f"{100 * found.highest_share:.0f} %"
        gained = f"is the baseline ({baseline})" if gain is None else _over(gain)
        ahead = [_over(found.lead), share, sureness(sweep, found.lead)]
        rows.append([factor, found.best.level, _figure(found.best), *ahead, gained])
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
    return SweepTable(header=header, rows=rows, words=("factor", "highest"), legend=legend)


def design_table(sweep: SweepResult) -> SweepTable:
    """Every combination of levels: what became of its seeds, and its Dice; holes stay visible."""
    means = {} if not sweep.ablation else dict(zip(sweep.ablation.sample.cells, sweep.ablation.cells, strict=True))
    seeds = (
        {} if not sweep.ablation else dict(zip(sweep.ablation.sample.cells, sweep.ablation.sample.seeds, strict=True))
    )
    rows: list[list[Cell]] = []
    for combination in sweep.combinations:
        planned = sweep.of(combination)
        effect = means.get(combination)
        single = seeds.get(combination, {})
        rows.append(
            [
                *combination,
                _states(planned),
                _figure(effect) if effect else "–",
                ", ".join(number(v) for _, v in sorted(single.items())) or "–",
            ]
        )
    header = [
        *((factor, "") for factor in sweep.factors),
        ("result", ""),
        ("Dice", "mean over seeds, 95\u00a0% CI"),
        ("Dice", "single seeds"),
    ]
    return SweepTable(
        header=header,
        rows=rows,
        legend=f"{_sentence(source(sweep))} Dice: mean over scans with lesions, calibrated mask. {_covers(sweep)}",
        words=(*sweep.factors, "result"),
        holes=[row[-2] == "–" for row in rows],
    )


def differences_table(sweep: SweepResult) -> SweepTable:
    """Marginal mean of each level, and its difference from the factor's baseline."""
    assert sweep.ablation is not None
    against = {(e.factor, e.level): e for e in sweep.ablation.differences}
    rows: list[list[Cell]] = []
    for factor, means in sweep.ablation.levels.items():
        for mean in means:
            effect = against.get((factor, mean.level))
            rows.append(
                [
                    factor,
                    mean.level,
                    _figure(mean),
                    _figure(effect, signed=True) if effect else "baseline",
                    _p(effect.p) if effect else "",
                    _p(effect.adjusted_p) if effect else "",
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
        f"{_sentence(source(sweep))} {_covers(sweep)} p: Wilcoxon's signed-rank test over patients of their "
        "seed-averaged differences; it is about these networks and knows nothing of other seeds. Holm's correction "
        f"over the {len(against)} differences of this table. This page calls a difference established where its "
        "interval excludes 0, the corrected p is below 0.05 and cells were trained with more than one seed."
    )
    return SweepTable(header=header, rows=rows, legend=legend, words=("factor", "level"))


def trends_table(sweep: SweepResult) -> SweepTable | None:
    """Slopes per doubling of the numeric factors."""
    if not sweep.ablation or not sweep.ablation.trends:
        return None
    rows: list[list[Cell]] = [
        [e.factor, _figure(e, 4, signed=True), _p(e.p), _p(e.adjusted_p), f"{e.contexts} of {e.contexts_of}"]
        for e in sweep.ablation.trends
    ]
    header = [
        ("numeric factor", ""),
        ("Dice per doubling", "least-squares slope, 95\u00a0% CI"),
        ("p", "Wilcoxon, patients"),
        ("p", "after Holm"),
        ("averaged over", "combinations of the rest"),
    ]
    legend = f"{_sentence(source(sweep))} Doubling of a patch size: of the voxels that a patch holds."
    return SweepTable(header=header, rows=rows, legend=legend, words=("numeric factor",))


def interactions_table(sweep: SweepResult) -> SweepTable | None:
    """Differences of differences."""
    if not sweep.ablation or not sweep.ablation.interactions:
        return None
    rows: list[list[Cell]] = [
        [
            f"{e.factor}: {e.level} − {e.baseline}",
            f"{e.other}: {e.other_level} − {e.other_baseline}",
            _figure(e, signed=True),
            _p(e.p),
            _p(e.adjusted_p),
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
        f"{_sentence(source(sweep))} Interaction: the difference on the left at the first level of the second column, "
        "minus the same at its second. 0: the factors add up. Holm's correction over "
        f"the {len(rows)} interactions of this table."
    )
    return SweepTable(header=header, rows=rows, legend=legend, words=("difference", "how it changes with"))


def cost_table(sweep: SweepResult) -> SweepTable:
    """Training time and weights of each combination, pre-trainings below."""
    rows: list[list[Cell]] = []
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
    legend = f"Training time of all runs together: {duration(total)}. {_sentence(source(sweep))}"
    return SweepTable(header=header, rows=rows, legend=legend, words=("cell",))


def claims_table(claims: Sequence[Claim], where: str) -> SweepTable:
    """The claims, their figures, ours and the verdicts."""
    rows: list[list[Cell]] = [
        [
            c.claim,
            c.paper,
            c.ours or "–",
            c.verdict,
            c.compared[:1].upper() + c.compared[1:] + (f"; {c.remark}" if c.remark else ""),
            f"{c.n_cells}, {c.n_trainings}, {c.n_scans}, {c.n_patients}" if c.verdict != NOT_TESTED else "–",
        ]
        for c in claims
    ]
    header = [
        ("claim", ""),
        ("paper", ""),
        ("here", "95\u00a0% CI"),
        ("verdict", ""),
        ("compared, or needed", ""),
        ("n", "cells, trainings, scans, patients"),
    ]
    legend = (
        f"{_sentence(where)} Points are Dice × 100. What a cell is was read from its own settings; recipes were "
        "compared with all else equal and averaged over such pairs. Claims are not corrected for being five."
    )
    return SweepTable(
        header=header,
        rows=rows,
        legend=legend,
        words=tuple(name for name, _ in header[:5]),
        holes=[c.verdict == NOT_TESTED for c in claims],
    )


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


def _figure(effect: Effect, digits: int = 3, signed: bool = False) -> Cell:
    text = _signed(effect.estimate, digits) if signed else number(effect.estimate, digits)
    return text if np.isnan(effect.low) else (text, _range(effect, signed, digits))


def _over(effect: Effect) -> Cell:
    return f"{_signed(effect.estimate)} over {effect.baseline}", _range(effect, signed=True)


def _range(effect: Effect, signed: bool = False, digits: int = 3) -> str:
    if np.isnan(effect.low):
        return "no interval"
    low, high = (_signed(v, digits) if signed else number(v, digits) for v in (effect.low, effect.high))
    return f"{low}; {high}"


def _signed(value: float, digits: int = 3) -> str:
    return f"{round(value, digits) + 0.0:+.{digits}f}".replace("-", "−")  # no −0.000


def _p(p: float) -> str:
    return p_value(p).replace("p = ", "").replace("p ", "")


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."
