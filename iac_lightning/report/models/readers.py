"""The section of the report on two readers: how far people agree, beside the models."""

from __future__ import annotations

from collections.abc import Mapping
from math import isnan

from iac_lightning.evaluation.clinical.readers import Reading, readings
from iac_lightning.evaluation.tables.model_result import ModelResult
from iac_lightning.report.page import ReportContext, Section, Table
from iac_lightning.report.words import TableCell, cell, p_cell, pair, plural, signed


def readers_section(models: Mapping[str, ModelResult], context: ReportContext) -> Section | None:
    """Table of the second reader and the models on the same scans; None where the cohort has no second reader."""
    found = readings({model.label: model.table for model in models.values()})
    if found is None:
        return None
    origin = (
        f"{plural(found.n, 'scan')} of {plural(found.n_patients, 'patient')} with two readers, {context.split} split, "
        f"seed {context.seed}"
    )
    return Section(
        title="Readers",
        text=(
            "A second reader marked the same scans (label_2 of the cohort table). Against the first reader's label the "
            "second is judged as the models are: who agrees with the label better than the second reader has learnt "
            "this reader, not the truth."
        ),
        tables=[
            Table(
                name="readers",
                header=[
                    ("against the first reader", ""),
                    ("Dice", f"{found.n_lesion} scans with lesions"),
                    ("− second reader", "difference in Dice"),
                    ("p, corrected", "Wilcoxon, Holm"),
                    ("lesion F1", ""),
                    ("volume bias", "mm³, limits of agreement"),
                    ("volume ICC(2,1)", f"{found.n} scans"),
                ],
                rows=[_row(reading) for reading in found.rows],
                legend=(
                    "Grey: 95\u00a0% interval over patients, or why there is none; of the volume bias, 95\u00a0% "
                    "limits of agreement. Holm's correction over the models. The label is the first reader's; models "
                    "may have learnt from labels of the same reader."
                ),
                source=origin,
            )
        ],
    )


def _row(reading: Reading) -> list[TableCell]:
    against = reading.against_reader
    low, high = reading.limits_mm3
    return [
        reading.name,
        cell(reading.dice),
        cell(against["difference"], sign=True) if against else "–",
        p_cell(against["holm_p"]) if against else "–",
        cell(reading.lesion_f1),
        signed(reading.bias_mm3, 1) if isnan(low) else pair(*(signed(v, 1) for v in (reading.bias_mm3, low, high))),
        cell(reading.volume_icc),
    ]
