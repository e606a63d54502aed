"""One page that answers which model segments how well: a self-contained HTML file without scripts or network.

Beside it lie the same tables as CSV and LaTeX (`tables/`) and the same figures as PNG (`figures/`).
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from data_modules.errors import UserError
from data_modules.files import replacing, write_text_atomic
from iac_lightning.evaluation.tables.comparison import compare, comparison_rows
from iac_lightning.report.html import page_template
from iac_lightning.report.models.answer import answer
from iac_lightning.report.models.charts import charts
from iac_lightning.report.models.tables import comparison_table, glance_table, model_rows, model_tables
from iac_lightning.report.page import (
    ExtraFigure,
    ModelResult,
    Overlay,
    ReportContext,
    Section,
    sample,
)
from iac_lightning.report.table_files import write_table
from iac_lightning.report.words import number


def write_report(
    out_dir: Path, models: Mapping[str, ModelResult], context: ReportContext, sections: Sequence[Section] = ()
) -> Path:
    """Write `index.html`; beside it `models.csv` and `comparisons.csv`, `tables/` and `figures/`.

    Args:
        out_dir: folder, made when missing; tables and figures of an earlier page are removed.
        models: name to result, in the order of the tables.
        context: see `ReportContext`.
        sections: further parts (`analysis_page`, `calibration_page`); one on slice thickness replaces the figure.

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
    comparisons = compare(models, "dice", context.seed, context.reference)
    every_prior = all("protocol_prior" in model.summary for model in models.values())
    prior = compare(models, "prior_dice", context.seed, context.reference) if every_prior else []
    thickness = not any(section.title == "Slice thickness" for section in sections)
    everything = sample(models, context)
    shown_charts = [
        *charts(models, comparisons, context, thickness=thickness),
        *(replace(f, source=f.source or everything) for f in context.figures),
    ]
    tables = model_tables(models, context)
    pairs = [comparison_table(found, models, context, prior=found is prior) for found in (comparisons, prior) if found]
    glance = glance_table(models, context)
    overlays = [
        (model, [_overlay_figure(model, k, overlay, context) for overlay in model.overlays])
        for k, model in enumerate(models.values())
    ]
    page = page_template("models/page.html.j2").render(
        context=context,
        first=next(iter(models.values())).summary,
        answer=answer(models, comparisons, context),
        glance=glance,
        tables=tables,
        pairs=pairs,
        charts=shown_charts,
        overlays=[(model, found) for model, found in overlays if found],
        sections=sections,
        contact_sheet=context.contact_sheet.read_bytes() if context.contact_sheet else None,
        everything=everything,
    )
    out_dir.mkdir(parents=True, exist_ok=True)
    for path in report_files(out_dir):
        if path.parent != out_dir:
            path.unlink()
    for table in (glance, *tables, *pairs, *(t for section in sections for t in section.tables)):
        if table.name:
            write_table(table, out_dir / "tables", context.command)
    of_sections = (f for section in sections for f in section.figures)
    for figure in (*shown_charts, *(f for _, found in overlays for f in found), *of_sections):
        if figure.name:
            with replacing(out_dir / "figures" / f"{figure.name}.png") as temporary:
                temporary.write_bytes(signed_png(figure, context.command))
    write_text_atomic(out_dir / "models.csv", pd.DataFrame(model_rows(models)).to_csv(index=False))
    write_text_atomic(out_dir / "comparisons.csv", comparison_rows(comparisons, prior).to_csv(index=False))
    write_text_atomic(out_dir / "index.html", page)
    return out_dir / "index.html"


def report_files(out_dir: Path) -> list[Path]:
    """What a page consists of, the page itself included."""
    beside = ("index.html", "models.csv", "comparisons.csv", "analysis.json")
    return [
        *(out_dir / name for name in beside if (out_dir / name).exists()),
        *sorted((out_dir / "tables").glob("*.csv")),
        *sorted((out_dir / "tables").glob("*.tex")),
        *sorted((out_dir / "figures").glob("*.png")),
    ]


def signed_png(figure: ExtraFigure, command: str) -> bytes:
    """The figure with what it shows, its sample and the command that makes it in the file's text fields."""
    facts = PngInfo()
    for key, text in (
        ("Title", figure.title),
        ("Description", figure.caption),
        ("Source", figure.source),
        ("Comment", figure.command or command),
    ):
        facts.add_itxt(key, text)
    buffer = io.BytesIO()
    with Image.open(io.BytesIO(figure.png)) as image:
        image.save(buffer, format="PNG", pnginfo=facts)
    return buffer.getvalue()


def _overlay_figure(model: ModelResult, k: int, overlay: Overlay, context: ReportContext) -> ExtraFigure:
    return ExtraFigure(
        name=f"overlay_{k + 1}_{overlay.kind}",
        title="",
        caption=f"{overlay.kind.capitalize()}: series {overlay.series_id}, Dice {number(overlay.dice)}.",
        png=overlay.png,
        source=f"{model.label}; 1 scan of 1 patient, {context.split} split, seed {context.seed}",
    )
