"""The section of the report on two readers: how far people agree, beside the models."""

from __future__ import annotations

from collections.abc import Mapping
from math import isnan

from iac_lightning.evaluation.clinical.readers import SECOND, Agreement, Reading, readings
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
    unmeasured = ", ".join(reading.name for reading in found.rows if reading.second is None)
    again = f" Not measured against the second reader: {unmeasured} (evaluate again)." if unmeasured else ""
    return Section(
        title="Readers",
        text=(
            "A second reader marked the same scans (label_2 of the cohort table). How far the two agree with each "
            "other is as far as a model can be known to agree with either: who agrees with the first reader better "
            "than the second does has learnt this reader, not the truth."
        ),
        tables=[
            Table(
                name="readers",
                title="Against the first reader",
                header=[
                    ("reader or model", ""),
                    ("Dice", f"{plural(found.n_lesion, 'scan')} with lesions"),
                    ("− second reader", "difference in Dice"),
                    ("p, corrected", "Wilcoxon, Holm"),
                    ("lesion F1", ""),
                    ("volume bias", "mm³, limits of agreement"),
                    ("volume ICC(2,1)", plural(found.n, "scan")),
                ],
                rows=[_row(reading) for reading in found.rows],
                legend=(
                    "Grey: 95\u00a0% interval over patients, or why there is none; of the volume bias, 95\u00a0% "
                    "limits of agreement. Holm's correction over the models. The label is the first reader's; models "
                    "may have learnt from labels of the same reader."
                ),
                source=origin,
            ),
            Table(
                name="readers_each",
                title="Against either reader",
                header=[
                    ("reader or model", ""),
                    ("Dice, first reader", f"{plural(found.n_lesion, 'scan')} that this one marked"),
                    ("Dice, second reader", f"{plural(found.n_lesion_2, 'scan')} that this one marked"),
                    ("volume bias, first", "mm³, limits of agreement"),
                    ("volume bias, second", "mm³, limits of agreement"),
                    ("volume ICC(2,1), first", plural(found.n, "scan")),
                    ("volume ICC(2,1), second", plural(found.n, "scan")),
                ],
                rows=[_row_of_each(reading) for reading in found.rows],
                legend=(
                    "First line: the readers against each other, the human ceiling; each is measured as a model is. "
                    f"Grey as above.{again}"
                ),
                source=origin,
            ),
        ],
    )


def _row(reading: Reading) -> list[TableCell]:
    against = reading.against_reader
    return [
        reading.name,
        cell(reading.first.dice),
        cell(against["difference"], sign=True) if against else "–",
        p_cell(against["holm_p"]) if against else "–",
        cell(reading.lesion_f1),
        _bias(reading.first),
        cell(reading.first.volume_icc),
    ]


def _row_of_each(reading: Reading) -> list[TableCell]:
    both = (reading.first, reading.second)
    return [
        "The other reader" if reading.name == SECOND else reading.name,
        *(cell(each.dice) if each else "–" for each in both),
        *(_bias(each) if each else "–" for each in both),
        *(cell(each.volume_icc) if each else "–" for each in both),
    ]


def _bias(agreement: Agreement) -> TableCell:
    low, high = agreement.limits_mm3
    bias = signed(agreement.bias_mm3, 1)
    return bias if isnan(low) else pair(bias, signed(low, 1), signed(high, 1))
