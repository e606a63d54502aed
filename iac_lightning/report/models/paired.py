"""Every pair of models in every headline measure, corrected for the number of tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from iac_lightning.evaluation.clinical.analysis import paired_measure
from iac_lightning.evaluation.statistics.plain import correct
from iac_lightning.evaluation.tables.comparison import SIGNIFICANT, Comparison
from iac_lightning.evaluation.tables.measures import MEASURES
from iac_lightning.evaluation.tables.model_result import ModelResult
from iac_lightning.report.page import ReportContext, Table, sample
from iac_lightning.report.words import TableCell, cell, p_cell

HEADLINE = (
    "dice",
    "sensitivity",
    "ppv",
    "lesion_sensitivity",
    "lesion_f1",
    "nsd_1mm",
    "absolute_volume_error_mm3",
)
"""Keys of `measures.MEASURES` that are tested for every pair."""


def measures_table(
    comparisons: Sequence[Comparison], models: Mapping[str, ModelResult], context: ReportContext
) -> Table:
    """Differences of the pairs in every headline measure, and p after Holm's correction over the whole table.

    Args:
        comparisons: which pairs (`comparison.compare`).
        models: name to result.
        context: names split and seed.
    """
    tables = {m.label: m.table.sort_values("series_id", ignore_index=True) for m in models.values()}
    found = [
        {measure: paired_measure(tables[c.first], tables[c.second], measure) for measure in HEADLINE}
        for c in comparisons
    ]
    correct([result for of_pair in found for result in of_pair.values()], "wilcoxon_p")
    rows: list[list[TableCell]] = []
    for c, of_pair in zip(comparisons, found, strict=True):
        rows.append([f"{c.first} − {c.second}", *(_cell(measure, of_pair[measure]) for measure in HEADLINE)])
        rows.append(["+ p, corrected", *(p_cell(of_pair[measure]["holm_p"]) for measure in HEADLINE)])
    return Table(
        name="comparisons_all",
        title="Every headline measure",
        header=[
            ("first − second", ""),
            *((MEASURES[m].words, "lower is better" if MEASURES[m].better < 0 else "") for m in HEADLINE),
        ],
        rows=rows,
        legend=(
            "Mean difference on the same scans, grey its 95\u00a0% interval over patients; means as in the table of "
            "models. p: Wilcoxon's signed-rank test over patients after Holm's correction over all "
            f"{len(found) * len(HEADLINE)} tests of this table. * established: corrected p below {SIGNIFICANT} and "
            "interval without 0. It corrects for more tests than the table above, so that a difference can be "
            "established there and not here."
        ),
        source=sample(models, context),
    )


def _cell(measure: str, result: Mapping[str, Any]) -> TableCell:
    shown = cell(result["difference"], MEASURES[measure].digits, sign=True)
    low, high = result["difference"]["ci95"]
    p = result["holm_p"]
    sure = p is not None and p < SIGNIFICANT and low is not None and not low <= 0 <= high
    return shown if isinstance(shown, str) or not sure else (f"{shown[0]}*", shown[1])
