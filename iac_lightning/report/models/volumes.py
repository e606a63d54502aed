"""The section of the report on volumes by size: ratios beside differences."""

from __future__ import annotations

from collections.abc import Mapping

from iac_lightning.evaluation.tables.model_result import ModelResult
from iac_lightning.evaluation.tables.volume_size import MIN_LIMITS, SizeRow, by_size
from iac_lightning.figures.volumes import ratio_figure
from iac_lightning.report.page import ReportContext, Section, Table, drawn, sample
from iac_lightning.report.words import TableCell, number, pair, share, signed


def volumes_section(models: Mapping[str, ModelResult], context: ReportContext) -> Section:
    """Errors of volume by labelled volume, and agreement on a logarithmic scale."""
    everything = sample(models, context)
    sizes = {model.label: by_size(model.table) for model in models.values()}
    rows: list[list[TableCell]] = []
    for label, found in sizes.items():
        for row in found:
            rows.append(_row(label if row.size == "all" else f"+ labelled {row.size}", row))
    tables = {model.label: model.table for model in models.values()}
    return Section(
        title="Volumes by size",
        text=(
            "Differences in mm³ grow with the volume, so that limits of agreement over all sizes are too wide "
            "for small volumes and too narrow for large ones. Ratios on a logarithmic scale hold for every size "
            "alike, as far as errors are proportional."
        ),
        tables=[
            Table(
                name="volumes_by_size",
                header=[
                    ("model", ""),
                    ("scans / patients", ""),
                    ("bias", "mm³"),
                    ("|error|", "median, mm³"),
                    ("|error| / labelled", "median"),
                    ("predicted / labelled", "geometric mean, limits of agreement"),
                    ("nothing found", "scans"),
                ],
                rows=rows,
                legend=(
                    "Grey: 95\u00a0% limits of agreement of the ratio, exp(mean ± 1.96 standard deviations of its "
                    "logarithm), over the scans where label and prediction are both above 0: about 95 in 100 scans of "
                    "further patients lie between them, if the logarithms are normal and the scans many; "
                    f"none below {MIN_LIMITS} scans. They are no interval of the mean."
                ),
                source=everything,
            )
        ],
        figures=[
            drawn(
                "volume_ratios",
                "Agreement of volumes as ratios",
                "A point is a scan with both volumes above 0; both axes are logarithmic. Solid line: geometric mean; "
                "dashed lines: 95\u00a0% limits of agreement. Triangles at the lower edge: labelled volume, nothing "
                "found; at the upper edge: nothing labelled, volume predicted.",
                ratio_figure(tables, everything),
                everything,
                alt=" ".join(_finding(label, found[0]) for label, found in sizes.items()),
            )
        ],
    )


def _finding(label: str, row: SizeRow) -> str:
    r = row.ratios
    limits = f", limits of agreement {number(r.low, 2)} to {number(r.high, 2)}" if r.n >= MIN_LIMITS else ""
    return (
        f"{label}: predicted over labelled volume {number(r.ratio, 2)} on average{limits} over {r.n} scans; nothing "
        f"found in {r.n_missed}, a false volume in {r.n_false}."
    )


def _row(name: str, row: SizeRow) -> list[TableCell]:
    r = row.ratios
    return [
        name,
        f"{row.n} / {row.n_patients}",
        signed(row.bias_mm3, 1),
        number(row.median_absolute_mm3, 1),
        share(row.median_relative),
        pair(*(number(v, 2) for v in (r.ratio, r.low, r.high))) if r.n >= MIN_LIMITS else number(r.ratio, 2),
        f"{r.n_missed} of {r.n + r.n_missed}" if r.n + r.n_missed else "–",
    ]
