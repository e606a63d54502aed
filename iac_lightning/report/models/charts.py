"""The figures that every report has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from iac_lightning.evaluation.tables.comparison import Comparison
from iac_lightning.evaluation.tables.model_result import ModelResult
from iac_lightning.figures.models import dice_figure, difference_figure, thickness_figure, volume_figure
from iac_lightning.report.page import ExtraFigure, ReportContext, drawn, sample


def charts(
    models: Mapping[str, ModelResult], comparisons: Sequence[Comparison], context: ReportContext, *, thickness: bool
) -> list[ExtraFigure]:
    """Dice, paired differences and volumes; slice thickness only where no section is about it."""
    tables = {m.label: m.table for m in models.values()}
    summaries = {m.label: m.summary for m in models.values()}
    lesions, everything = sample(models, context, lesions=True), sample(models, context)
    drawings = [
        drawn(
            "dice",
            "Dice of each model",
            "A point is a patient (mean over the patient's scans with lesions); the black bar is the mean over scans, "
            "its line the 95\u00a0% interval over patients. Hollow points: masks of a threshold alone.",
            dice_figure(tables, summaries, lesions),
            lesions,
        )
    ]
    if comparisons:
        pairs = [(f"{c.first} − {c.second}", c.patients, c.paired) for c in comparisons]
        drawings.append(
            drawn(
                "differences",
                "Differences on the same scans",
                "A point is a patient. An interval (black line) that crosses the dashed line does not tell the two "
                "models apart; one that does not cross it is not yet corrected for the number of comparisons.",
                difference_figure(pairs, lesions),
                lesions,
            )
        )
    if thickness:
        drawings.append(
            drawn(
                "thickness",
                "Slice thickness",
                "Thick slices average small lesions away. A faint point is a scan, a large one the mean of a stratum "
                "with its 95\u00a0% interval over patients; models are shifted sideways a little so that they do not "
                "hide each other.",
                thickness_figure(tables, summaries, lesions, context.strata),
                lesions,
            )
        )
    drawings.append(
        drawn(
            "volumes",
            "Agreement of volumes",
            "A point is a scan, with or without lesions. Solid line: mean difference (bias); dashed lines: 95\u00a0% "
            "limits of agreement, within which 95\u00a0% of the scans are expected.",
            volume_figure(tables, summaries, everything),
            everything,
        )
    )
    return drawings
