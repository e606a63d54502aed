"""What the page of a report is made of: tables, figures and sections, and what they are about."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from matplotlib.figure import Figure

from iac_lightning.evaluation.statistics.strata import THICKNESS_STRATA, Stratum
from iac_lightning.evaluation.tables.model_result import ModelResult
from iac_lightning.figures.style import png
from iac_lightning.report.words import TableCell


@dataclass(frozen=True, kw_only=True)
class Overlay:
    """A scan with outlines.

    Attributes:
        kind: best, median or worst (`example_series`).
        scan: what the scan is called on the page (`scan_names`).
        dice: its Dice.
        png: the picture (`scans.overlay_figure`).
    """

    kind: str
    scan: str
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
        alt: what the figure shows, in words and values, for who does not see it; by default its title or caption.
    """

    title: str
    caption: str
    png: bytes
    name: str = ""
    source: str = ""
    command: str = ""
    alt: str = ""


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table of a page, which is also kept as CSV and LaTeX.

    Attributes:
        header: name and unit or remark of each column.
        rows: a cell a column; a row whose first cell begins with "+ " belongs to the one above.
        legend: what the values are.
        name: of its files `tables/<name>.csv` and `.tex`.
        title: heading above it; empty where the section's is enough.
        source: n, split and seed, where the legend does not say.
        command: what makes it; by default what makes the page.
        folded: heading under which it is shown on demand, with neighbours of the same heading; empty: always shown.
        words: names of the columns that hold words, set flush left; in LaTeX, long columns of such a table are broken.
        holes: for each row whether it stands for something missing; empty where no row does.
    """

    header: Sequence[tuple[str, str]]
    rows: Sequence[Sequence[TableCell]]
    legend: str = ""
    name: str = ""
    title: str = ""
    source: str = ""
    command: str = ""
    folded: str = ""
    words: Collection[str] = ()
    holes: Sequence[bool] = ()


@dataclass(frozen=True, kw_only=True)
class FlowStep:
    """A step of one split.

    Attributes:
        words: what is left, and how many.
        left_out: what was left out before it, and why.
    """

    words: str
    left_out: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class Flow:
    """The series of one split from the cohort table to what they were used for."""

    split: str
    steps: Sequence[FlowStep]


@dataclass(frozen=True, kw_only=True)
class Section:
    """A part of the page.

    Attributes:
        title: heading.
        text: what is asked and how to read the answer.
        flows: shown first.
        tables: shown next.
        figures: shown below them.
    """

    title: str
    text: str
    tables: Sequence[Table] = ()
    figures: Sequence[ExtraFigure] = ()
    flows: Sequence[Flow] = ()


@dataclass(frozen=True, kw_only=True)
class ReportContext:
    """What the figures are about and how they were made.

    Attributes:
        title: of the page.
        question: what is asked, in one sentence.
        caveat: what the figures cannot say, shown beside the answer; empty when there is none.
        split: which split is reported.
        seed: of the resamples and the runs.
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
        run_files: names of files that lie in the folder of every model.
        trainings: what intervals leave out of how networks were trained, in a sentence.
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
    run_files: Sequence[str] = ()
    trainings: str = "One training of each model: how much another seed would change is not in these intervals."


def source(n: int, n_patients: int, context: ReportContext) -> str:
    """What a figure was taken from."""
    return f"{n} scans of {n_patients} patients, {context.split} split, seed {context.seed}"


def sample(models: Mapping[str, ModelResult], context: ReportContext, *, lesions: bool = False) -> str:
    """What the figures of all models were taken from: every scan, or those with lesions."""
    first = next(iter(models.values())).summary
    if lesions:
        return source(first["dice"]["n"], first["dice"]["n_patients"], context).replace("scans", "scans with lesions")
    return source(first["n_series"], first["n_patients"], context)


def drawn(name: str, title: str, caption: str, figure: Figure, origin: str, alt: str = "") -> ExtraFigure:
    """A figure of the page from a matplotlib figure; `origin` is n, split and seed, `alt` the finding in words."""
    return ExtraFigure(name=name, title=title, caption=caption, png=png(figure), source=origin, alt=alt)
