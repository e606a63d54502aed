"""What the page of a report is made of: models, tables, figures and sections."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from iac_lightning.evaluation.statistics.strata import THICKNESS_STRATA, Stratum
from iac_lightning.figures.figures import png
from iac_lightning.report.words import Cell


@dataclass(frozen=True, kw_only=True)
class Overlay:
    """A scan with outlines.

    Attributes:
        kind: best, median or worst (`example_series`).
        series_id: which series.
        dice: its Dice.
        png: the figure (`figures.png(figures.overlay_figure(…))`).
    """

    kind: str
    series_id: str
    dice: float
    png: bytes


@dataclass(frozen=True, kw_only=True)
class ExtraFigure:
    """A figure of the page, which is also kept as a file.

    Attributes:
        title: heading above it.
        caption: what is seen.
        png: the figure.
        name: of its file `figures/<name>.png`.
        source: n, split and seed.
        command: what makes it; by default what makes the page.
    """

    title: str
    caption: str
    png: bytes
    name: str = ""
    source: str = ""
    command: str = ""


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table of the page, which is also kept as CSV and LaTeX.

    Attributes:
        header: name and unit or remark of each column.
        rows: a cell a column; a row whose first cell begins with "+ " belongs to the one above.
        legend: what the figures are.
        name: of its files `tables/<name>.csv` and `.tex`.
        title: heading above it; empty where the section's is enough.
        source: n, split and seed.
        command: what makes it; by default what makes the page.
        folded: heading under which it is shown on demand, with neighbours of the same heading; empty: always shown.
    """

    header: Sequence[tuple[str, str]]
    rows: Sequence[Sequence[Cell]]
    legend: str
    name: str = ""
    title: str = ""
    source: str = ""
    command: str = ""
    folded: str = ""


@dataclass(frozen=True, kw_only=True)
class Section:
    """A part of the page.

    Attributes:
        title: heading.
        text: what is asked and how to read the answer.
        tables: shown first.
        figures: shown below them.
    """

    title: str
    text: str
    tables: Sequence[Table] = ()
    figures: Sequence[ExtraFigure] = ()


@dataclass(frozen=True, kw_only=True)
class ModelResult:
    """One model on one split.

    Attributes:
        name: name of its run.
        label: how the reader knows it.
        table: from `series_table`.
        summary: from `summarise`.
        threshold: decision threshold of the plain prediction; None where masks were given.
        prior_threshold: threshold of the prediction with the protocol prior.
        parameters: number of trained weights.
        train_seconds: wall time of its training.
        overlays: examples.
        looks: how often the test split was looked at (`n`, `n_configs`, `n_weights`); None on other splits.
        calibration: what was fitted on the development split, with its quality before and after; None without.
    """

    name: str
    label: str
    table: pd.DataFrame
    summary: dict[str, Any]
    threshold: float | None
    prior_threshold: float | None = None
    parameters: int | None = None
    train_seconds: float | None = None
    overlays: Sequence[Overlay] = ()
    looks: Mapping[str, int] | None = None
    calibration: Mapping[str, Any] | None = None


@dataclass(frozen=True, kw_only=True)
class ReportContext:
    """What the figures are about and how they were made.

    Attributes:
        title: of the page.
        question: what is asked, in one sentence.
        caveat: what the figures cannot say, shown beside the answer; empty when there is none.
        split: which split is reported.
        seed: of the bootstrap and the runs.
        reference: name of the model that all others are compared with; without one, every pair is compared.
        command: how to make the page again.
        git: commit of the code.
        fingerprint: of the prepared data.
        contact_sheet: picture of the data, PNG.
        data: sentences about the data.
        notes: further remarks.
        figures: further figures.
        missing: what the page lacks and why, in one sentence; empty when nothing.
        mend: commands that make it.
        strata: of slice thickness.
    """

    title: str
    question: str
    split: str
    seed: int
    caveat: str = ""
    reference: str | None = None
    command: str = ""
    git: str = ""
    fingerprint: str = ""
    contact_sheet: Path | None = None
    data: Sequence[str] = ()
    notes: Sequence[str] = ()
    figures: Sequence[ExtraFigure] = ()
    missing: str = ""
    mend: Sequence[str] = ()
    strata: Sequence[Stratum] = field(default=THICKNESS_STRATA)


def source(n: int, n_patients: int, context: ReportContext) -> str:
    """What a figure was taken from."""
    return f"{n} scans of {n_patients} patients, {context.split} split, seed {context.seed}"


def sample(models: Mapping[str, ModelResult], context: ReportContext, *, lesions: bool = False) -> str:
    """What the figures of all models were taken from: every scan, or those with lesions."""
    first = next(iter(models.values())).summary
    if lesions:
        return source(first["dice"]["n"], first["dice"]["n_patients"], context).replace("scans", "scans with lesions")
    return source(first["n_series"], first["n_patients"], context)


def drawn(name: str, title: str, caption: str, figure: Figure, origin: str) -> ExtraFigure:
    """A figure of the page from a matplotlib figure; `origin` is n, split and seed."""
    return ExtraFigure(name=name, title=title, caption=caption, png=png(figure), source=origin)
