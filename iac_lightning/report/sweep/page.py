"""The page of an ablation sweep: question and answer first, then design, effects, cost and the paper's claims."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from data_modules.files import write_text_atomic
from iac_lightning.evaluation.ablation.ablation import Ablation
from iac_lightning.evaluation.ablation.claims import VERDICTS, Claim
from iac_lightning.evaluation.ablation.effects import Effect, seed_means, two_way_means
from iac_lightning.evaluation.ablation.worth import Worth
from iac_lightning.figures import ablation as effects_figures
from iac_lightning.figures.style import png
from iac_lightning.report.html import page_template
from iac_lightning.report.page import ExtraFigure, Section
from iac_lightning.report.sweep.answer import caveats, source, sweep_answer
from iac_lightning.report.sweep.claims import claims_table
from iac_lightning.report.sweep.files import write_tables
from iac_lightning.report.sweep.result import SweepResult
from iac_lightning.report.sweep.tables import (
    cost_table,
    design_table,
    differences_table,
    interactions_table,
    leads_table,
    trends_table,
)
from iac_lightning.report.words import number
from iac_lightning.report.worth import worth_sentence, worth_table

MOST_PAIRS = 6
"""Most figures of interactions; further pairs of factors stand in the table alone."""


@dataclass(frozen=True, kw_only=True)
class PageContext:
    """How the page was made.

    Attributes:
        title: of the page.
        seed: of the resamples.
        command: that makes it again.
        git: commit of the code of the first evaluated cell.
        fingerprint: of its prepared data.
        missing_arms: what cannot be said of transformer and pre-training, in a sentence.
        attention: what speaks against a fair judgement of cells, in sentences.
    """

    title: str
    seed: int
    command: str
    git: str = ""
    fingerprint: str = ""
    missing_arms: str = ""
    attention: Sequence[str] = ()


def write_sweep_page(
    out: Path, sweeps: Sequence[SweepResult], claims: Sequence[Claim], worths: Sequence[Worth], page: PageContext
) -> Path:
    """Write `index.html`, which needs no other file, and beside it the tables as CSV and LaTeX.

    Args:
        out: folder, made when missing.
        sweeps: what is reported.
        claims: pooled over them.
        worths: of transformer and pre-training, pooled likewise.
        page: see `PageContext`.

    Returns:
        Path of the page.
    """
    where = "; ".join(f"{s.name}: {source(s)}" if len(sweeps) > 1 else source(s) for s in sweeps)
    text = page_template("sweep/page.html.j2").render(
        page=page,
        sweeps=[_sweep(s) for s in sweeps],
        claims=claims_table(claims, where),
        worths=[worth_sentence(worth) for worth in worths],
        worth_table=worth_table(worths, where) if worths else None,
        verdicts=[(name, n) for name in VERDICTS if (n := sum(c.verdict == name for c in claims))],
    )
    out.mkdir(parents=True, exist_ok=True)
    write_tables(out, sweeps, claims, worths, where, page.command)
    write_text_atomic(out / "index.html", text)
    return out / "index.html"


def _sweep(sweep: SweepResult) -> dict[str, Any]:
    return {
        "name": sweep.name,
        "question": sweep.question,
        "answer": sweep_answer(sweep),
        "leads": leads_table(sweep),
        "source": source(sweep),
        "caveats": caveats(sweep),
        "sections": _sections(sweep),
    }


def _sections(sweep: SweepResult) -> list[Section]:
    design = Section(
        title="Design",
        text="Every combination of levels; a grey row has no result.",
        tables=[design_table(sweep)],
    )
    cost = Section(title="Cost", text="", tables=[cost_table(sweep)])
    if not sweep.ablation:
        return [design, cost]
    return [design, _main_effects(sweep, sweep.ablation), *_interactions(sweep, sweep.ablation), cost]


def _main_effects(sweep: SweepResult, ablation: Ablation) -> Section:
    shown = {name: means for name, means in ablation.levels.items() if means}
    drawn = []
    if shown:
        seeds = {name: seed_means(ablation.source(name), name) for name in shown}
        figure = effects_figures.main_effects_figure(shown, seeds, source(sweep))
        caption = (
            "Mean of each level with its 95\u00a0% interval, averaged over the other factors with equal weight of "
            "cells. Intervals of levels beside each other overlap even where their difference is sure, because the "
            "same patients are behind both: the table above compares them pairwise."
        )
        told = "; ".join(f"{name}: {_means(means)}" for name, means in shown.items())
        drawn = [_chart("Main effects", caption, figure, f"Mean Dice by level. {told}.")]
    text = "What each factor does, averaged over the others"
    if ablation.variants:
        text += "; calibration compares each network with itself, uncalibrated and cut at probability 0.5"
    tables = [differences_table(sweep), trends_table(sweep)]
    return Section(title="Main effects", text=f"{text}.", tables=[t for t in tables if t and t.rows], figures=drawn)


def _interactions(sweep: SweepResult, ablation: Ablation) -> list[Section]:
    names = list(sweep.factors)
    if len(names) < 2:
        table = interactions_table(sweep)
        return [Section(title="Interactions", text=_ADDITIVE, tables=[table])] if table else []
    charts = []
    for a, b in list(combinations(names, 2))[:MOST_PAIRS]:
        means, n, total = two_way_means(ablation.sample, a, b)
        if means:
            levels = (list(sweep.factors[a]), list(sweep.factors[b]))
            figure = effects_figures.interaction_figure(means, a, b, *levels, source(sweep))
            caption = f"Mean with 95\u00a0% interval{_averaged(n, total)}. Parallel lines: the factors add up."
            charts.append(_chart(f"{a} × {b}", caption, figure, f"Mean Dice by {a} and {b}: {_means(means.values())}."))
    table = interactions_table(sweep)
    parts = [Section(title="Interactions", text=_ADDITIVE, tables=[table] if table else [], figures=charts)]
    a, b = names[:2]
    means, n, total = two_way_means(ablation.sample, a, b)
    if means:
        figure = effects_figures.heat_map_figure(
            means, a, b, list(sweep.factors[a]), list(sweep.factors[b]), source(sweep)
        )
        caption = f"Mean Dice with 95\u00a0% interval{_averaged(n, total)}. Lighter is better; hatched: no result."
        told = f"Mean Dice by {a} and {b}: {_means(means.values())}."
        parts.append(Section(title="All cells", text="", figures=[_chart("All cells", caption, figure, told)]))
    return parts


_ADDITIVE = "Whether what one factor does depends on the level of another."


def _averaged(n: int, total: int) -> str:
    return "" if total == 1 else f", averaged over {n} of {total} combinations of the other factors"


def _chart(title: str, caption: str, figure: Figure, told: str) -> ExtraFigure:
    return ExtraFigure(title=title, caption=caption, png=png(figure), alt=told)


def _means(means: Iterable[Effect]) -> str:
    """Levels, or pairs of them, with their means."""
    return ", ".join(
        f"{' with '.join(filter(None, (mean.level, mean.other_level)))} {number(mean.estimate)}" for mean in means
    )
