"""The section of the report on subgroups: makers of scanners, kernels, slice thickness."""

from __future__ import annotations

from collections.abc import Mapping

from iac_lightning.evaluation.tables.model_result import ModelResult
from iac_lightning.evaluation.tables.subgroups import MIN_PATIENTS, Subgroup, attributes_of, corrected, subgroups
from iac_lightning.report.page import ReportContext, Section, Table, sample
from iac_lightning.report.words import TableCell, number, p_cell, p_value, pair, signed


def subgroups_section(
    models: Mapping[str, ModelResult], given: Mapping[str, Mapping[str, str]], context: ReportContext
) -> Section | None:
    """A table a model; None where nothing parts the scans.

    Args:
        models: name to result, of the same series.
        given: attribute to level by series, as the cohort table has it.
        context: names split and strata.
    """
    order = [name for name, _, _ in context.strata]
    rows: list[tuple[str, Subgroup]] = []
    for model in models.values():
        attributes = attributes_of(model.table, given, context.strata)
        rows += [(model.label, row) for row in subgroups(model.table, attributes, order)]
    if not rows:
        return None
    tested = [(label, row) for (label, _), row in zip(rows, corrected([row for _, row in rows]), strict=True)]
    everything = sample(models, context)
    absent = [attribute for attribute in given if attribute not in {row.attribute for _, row in rows}]
    return Section(
        title="Subgroups",
        text=" ".join(
            [
                "Does a model do worse on some scanners? Each row against all other scans of the split. Makers, "
                "kernels and thickness go together in most hospitals, so that no row says what causes a difference.",
                *([f"All scans are alike, or the cohort table does not say: {', '.join(absent)}."] if absent else []),
                *_established(tested),
            ]
        ),
        tables=[
            _table(
                f"subgroups_{k + 1}", model.label, [row for label, row in tested if label == model.label], everything
            )
            for k, model in enumerate(models.values())
        ],
    )


def _established(tested: list[tuple[str, Subgroup]]) -> list[str]:
    found = [(label, row) for label, row in tested if row.established]
    if not found:
        return ["No difference is established after correction for their number."]
    return [
        f"Established: {label}, {row.attribute} {row.level}: Dice {signed(row.difference)} "
        f"[{signed(row.low)}; {signed(row.high)}] against the others (corrected {p_value(row.holm_p)})."
        for label, row in found
    ]


def _table(name: str, label: str, rows: list[Subgroup], everything: str) -> Table:
    cells: list[list[TableCell]] = [
        [
            f"{row.attribute}: {row.level}",
            f"{row.n} / {row.n_patients}",
            number(row.dice),
            pair(*(signed(v) for v in (row.difference, row.low, row.high))),
            p_cell(row.holm_p),
            number(row.lesion_f1),
            signed(row.bias_mm3, 1),
            f"{row.n_false_alarm} of {row.n_free}",
        ]
        for row in rows
    ]
    return Table(
        name=name,
        title=label,
        header=[
            ("subgroup", ""),
            ("scans / patients", ""),
            ("Dice", "scans with lesions"),
            ("against all others", "difference in Dice"),
            ("p, corrected", "Holm"),
            ("lesion F1", ""),
            ("volume bias", "mm³"),
            ("false alarms", "lesion-free scans"),
        ],
        rows=cells,
        legend=(
            "Grey: 95\u00a0% interval over patients (left out one by one, Student's t). Holm's correction runs over "
            f"the subgroups of all models of this page. A dash: fewer than {MIN_PATIENTS} patients with lesions in the "
            "subgroup or outside."
        ),
        source=everything,
    )
