"""One page that answers which model segments how well: a self-contained HTML file without scripts or network.

Beside it lie the same tables as CSV and LaTeX (`tables/`) and the same figures as PNG (`figures/`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from data_modules.errors import UserError
from iac_lightning.evaluation.tables.comparison import compare
from iac_lightning.evaluation.tables.model_result import ModelResult
from iac_lightning.report.checklist.page import write_checklist
from iac_lightning.report.html import page_template
from iac_lightning.report.models.answer import answer_about_models
from iac_lightning.report.models.charts import charts
from iac_lightning.report.models.files import write_files, write_numbers
from iac_lightning.report.models.findings import described, described_sections, of_models
from iac_lightning.report.models.paired import measures_table
from iac_lightning.report.models.tables import comparison_table, glance_table, model_tables
from iac_lightning.report.page import ExtraFigure, Overlay, ReportContext, Section, sample
from iac_lightning.report.words import number


def write_report(
    out_dir: Path,
    models: Mapping[str, ModelResult],
    context: ReportContext,
    sections: Sequence[Section] = (),
    overlays: Mapping[str, Sequence[Overlay]] | None = None,
    worth: Sequence[str] = (),
    findings: Mapping[str, str] | None = None,
) -> Path:
    """Write `index.html`; beside it `models.csv` and `comparisons.csv`, `tables/` and `figures/`.

    Args:
        out_dir: folder, made when missing; tables and figures of an earlier page are removed.
        models: name to result, in the order of the tables.
        context: see `ReportContext`.
        sections: further parts (`analysis_page`, `calibration_page`); one on slice thickness replaces the figure.
        overlays: name to examples.
        worth: what tokens, transformer and pre-training are worth, in sentences.
        findings: name of a figure of the sections to what it shows (`of_analysis`).

    Returns:
        Path of the page.

    Raises:
        UserError: without a model, when labels repeat, or when the models were evaluated on different series.
    """
    if not models:
        raise UserError("a report needs at least one evaluated model")
    labels = [model.label for model in models.values()]
    if len(set(labels)) < len(labels):
        raise UserError(f"two models carry the same label ({', '.join(labels)}); give each its own")
    comparisons = compare(models, "dice", context.reference)
    every_plain = all("plain" in model.summary for model in models.values())
    plain = compare(models, "plain_dice", context.reference) if every_plain else []
    thickness = not any(section.title == "Slice thickness" for section in sections)
    everything = sample(models, context)
    shown_charts = [
        *charts(models, comparisons, context, thickness=thickness),
        *(replace(f, source=f.source or everything) for f in context.figures),
    ]
    words = {**of_models(models, comparisons), **(findings or {})}
    shown_charts, sections = described(shown_charts, words), described_sections(sections, words)
    tables = model_tables(models, context)
    pairs = [comparison_table(some, models, context, plain=some is plain) for some in (comparisons, plain) if some]
    if comparisons:
        pairs.insert(1, measures_table(comparisons, models, context))
    glance = glance_table(models, context)
    examples = [
        (model, [_overlay_figure(model, k, overlay, context) for overlay in (overlays or {}).get(name, ())])
        for k, (name, model) in enumerate(models.items())
    ]
    page = page_template("models/page.html.j2").render(
        context=context,
        first=next(iter(models.values())).summary,
        answer=answer_about_models(models, comparisons, context),
        worth=worth,
        glance=glance,
        tables=tables,
        pairs=pairs,
        charts=shown_charts,
        overlays=[(model, shown) for model, shown in examples if shown],
        sections=sections,
        contact_sheet=context.contact_sheet.read_bytes() if context.contact_sheet else None,
        contents=_contents(bool(pairs), any(shown for _, shown in examples), sections, context),
    )
    write_checklist(out_dir, context, page)
    write_numbers(out_dir, models, comparisons, plain)
    write_files(
        out_dir,
        page,
        (glance, *tables, *pairs, *(table for section in sections for table in section.tables)),
        (
            *shown_charts,
            *(figure for _, shown in examples for figure in shown),
            *(figure for section in sections for figure in section.figures),
        ),
        context.command,
    )
    return out_dir / "index.html"


def _contents(pairs: bool, overlays: bool, sections: Sequence[Section], context: ReportContext) -> list[str]:
    """Headings of the page, in its order."""
    return [
        "Models",
        *(["Paired comparisons"] if pairs else []),
        "Figures",
        *(["Best, median and worst scan"] if overlays else []),
        *(section.title for section in sections),
        *(["Data"] if context.data or context.contact_sheet else []),
        "How this was made",
    ]


def _overlay_figure(model: ModelResult, k: int, overlay: Overlay, context: ReportContext) -> ExtraFigure:
    return ExtraFigure(
        name=f"overlay_{k + 1}_{overlay.kind}",
        title="",
        caption=f"{overlay.kind.capitalize()}: {overlay.scan}, Dice {number(overlay.dice)}.",
        png=overlay.png,
        alt=f"{model.label}, {overlay.kind} scan ({overlay.scan}): Dice {number(overlay.dice)}; label and prediction "
        "outlined in three planes through the largest lesion.",
        source=f"{model.label}; 1 scan of 1 patient, {context.split} split, seed {context.seed}",
    )
