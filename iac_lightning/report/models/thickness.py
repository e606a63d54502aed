"""The section of the report on slice thickness: every measure as a slope per mm and by stratum."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from iac_lightning.evaluation.statistics.intervals import Interval
from iac_lightning.evaluation.statistics.paired import SIGNIFICANT
from iac_lightning.evaluation.tables.measures import MEASURES
from iac_lightning.evaluation.tables.model_result import ModelResult
from iac_lightning.figures.models import thickness_figure
from iac_lightning.figures.risk import slope_figure
from iac_lightning.report.page import ReportContext, Section, Table, drawn, sample
from iac_lightning.report.words import TableCell, cell


def thickness_section(
    models: Mapping[str, ModelResult], analysis: Mapping[str, Any], context: ReportContext
) -> Section:
    """Slopes per mm, figures by stratum and the plot.

    Args:
        models: name to result.
        analysis: from `analyse`.
        context: names split and seed.
    """
    everything, lesions = sample(models, context), sample(models, context, lesions=True)
    parts = _parts(models, analysis)
    first = analysis["models"][next(iter(models))]["thickness"]
    estimates = {
        model.label: _interval(analysis["models"][name]["thickness"]["dice"]["slope_per_mm"])
        for name, model in models.items()
    }
    tables = {model.label: model.table for model in models.values()}
    summaries = {model.label: model.summary for model in models.values()}
    return Section(
        title="Slice thickness",
        text=(
            "Change of a figure per mm of slice thickness (slope of the least-squares line): negative means that it "
            "falls on thicker slices. A slope over all scans also compares different patients; the slope within "
            "patients (scans of one head at several thicknesses) and the difference of two models' slopes on the same "
            "scans do not."
        ),
        tables=[
            _slopes(parts, first, everything),
            *(_strata(parts, measure, first, everything) for measure in MEASURES if measure in first),
            _agreement(models, everything),
        ],
        figures=[
            drawn(
                "thickness_slopes",
                "Dice by slice thickness",
                "A faint point is a scan with lesions, shifted sideways a little by model; lines with 95\u00a0% bands.",
                slope_figure(tables, estimates, lesions),
                lesions,
            ),
            drawn(
                "thickness_strata",
                "Mean Dice of the strata",
                "A faint point is a scan, a large one the mean of a stratum with its 95\u00a0% interval over patients; "
                "models are shifted sideways a little so that they do not hide each other.",
                thickness_figure(tables, summaries, lesions, context.strata),
                lesions,
            ),
        ],
    )


def _parts(models: Mapping[str, ModelResult], analysis: Mapping[str, Any]) -> list[tuple[str, bool, Mapping[str, Any]]]:
    """Label, whether it is a difference, and values by measure, of each model and each pair."""
    parts = [(model.label, False, analysis["models"][name]["thickness"]) for name, model in models.items()]
    parts += [
        (f"+ {models[c['model']].label} − {models[c['baseline']].label}", True, c["thickness"])
        for c in analysis["comparisons"]
    ]
    return parts


def _slopes(parts: list[tuple[str, bool, Mapping[str, Any]]], first: Mapping[str, Any], everything: str) -> Table:
    rows: list[list[TableCell]] = []
    kinds = (("", "slope_per_mm"), (", within patients", "slope_within_patients_per_mm"))
    for measure, of_first in first.items():
        for words, key in kinds:
            label = f"{'+ ' if words else ''}{MEASURES[measure].words}{words}"
            slopes = [_tested(by_measure[measure][key], _digits(measure) + 1) for _, _, by_measure in parts]
            rows.append([label, f"{of_first[key]['n']} / {of_first[key]['n_patients']}", *slopes])
    return Table(
        name="thickness_slopes",
        title="Change per mm of slice thickness",
        source=everything,
        header=[
            ("slope per mm", ""),
            ("scans / patients", ""),
            *((label.removeprefix("+ "), "") for label, _, _ in parts),
        ],
        rows=rows,
        legend=(
            "Grey: 95\u00a0% interval over patients; * p below 0.05 after Holm's correction over all slopes of the "
            "kind and all models, or pairs. Columns with a minus: difference of the two models' "
            "slopes, for Dice above 0 where the first loses less on thick slices. Within patients: only those with "
            "scans of several thicknesses."
        ),
    )


def _strata(
    parts: list[tuple[str, bool, Mapping[str, Any]]], measure: str, first: Mapping[str, Any], everything: str
) -> Table:
    rows: list[list[TableCell]] = [
        [
            label,
            *(
                _tested(stratum, _digits(measure)) if difference else cell(stratum, _digits(measure))
                for stratum in by_measure[measure]["strata"]
            ),
        ]
        for label, difference, by_measure in parts
    ]
    words = MEASURES[measure].words
    return Table(
        name=f"thickness_{measure}",
        source=everything,
        header=[(f"mean {words}", ""), *((s["stratum"], _sample(s)) for s in first[measure]["strata"])],
        rows=rows,
        legend=f"Mean {words} by stratum of slice thickness, 95\u00a0% interval over patients; below, differences: "
        "* p below 0.05 after Holm's correction over the strata of all measures and pairs. Scans and patients: "
        "those on which the measure is defined, for most those with lesions.",
        folded="Every other measure by slice thickness" if measure != "dice" else "",
    )


def _agreement(models: Mapping[str, ModelResult], everything: str) -> Table:
    first = next(iter(models.values())).summary["thickness"]
    rows: list[list[TableCell]] = []
    for model in models.values():
        strata = model.summary["thickness"]
        rows.append([model.label, *(cell(s["volume_icc"]) for s in strata)])
        rows.append(["+ false alarms", *(f"{s['n_false_alarm']} of {s['n_lesion_free']}" for s in strata)])
    return Table(
        name="thickness_volume_icc",
        source=everything,
        header=[
            ("ICC(2,1) of volumes", ""),
            *((s["stratum"], _sample(s["volume_icc"])) for s in first),
        ],
        rows=rows,
        folded="Every other measure by slice thickness",
        legend=(
            "Grey, in all tables by stratum: 95\u00a0% interval over patients; a dash where there is no "
            "scan. False alarms: lesion-free scans with a prediction."
        ),
    )


def _tested(value: Mapping[str, Any], digits: int) -> TableCell:
    """A slope or difference, with an asterisk where it is established after correction."""
    found = cell(value, digits, sign=True)
    low, high = value["ci95"]
    p = value.get("holm_p")
    if p is None or p >= SIGNIFICANT or low is None or low <= 0 <= high or isinstance(found, str):
        return found
    return f"{found[0]}*", found[1]


def _digits(measure: str) -> int:
    return MEASURES[measure].digits


def _sample(value: Mapping[str, Any]) -> str:
    return f"{value['n']} scans, {value['n_patients']}\u00a0pat."


def _interval(value: Mapping[str, Any]) -> Interval:
    estimate, low, high = (float("nan") if v is None else v for v in (value["value"], *value["ci95"]))
    return Interval(estimate=estimate, low=low, high=high, n=value["n"], n_patients=value["n_patients"])
