"""The section of the report on slice thickness: every measure as a slope per mm and by stratum."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from iac_lightning.evaluation.statistics.bootstrap import Interval
from iac_lightning.evaluation.tables.measures import MEASURES
from iac_lightning.figures import figures
from iac_lightning.figures import risk as risk_figures
from iac_lightning.report.page import ModelResult, ReportContext, Section, Table, drawn, sample
from iac_lightning.report.words import Cell, cell


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
                risk_figures.slope_figure(tables, estimates, lesions, seed=context.seed),
                lesions,
            ),
            drawn(
                "thickness_strata",
                "Mean Dice of the strata",
                "A faint point is a scan, a large one the mean of a stratum with its 95\u00a0% interval over patients; "
                "models are shifted sideways a little so that they do not hide each other.",
                figures.thickness_figure(tables, summaries, lesions, context.strata),
                lesions,
            ),
        ],
    )


def _parts(models: Mapping[str, ModelResult], analysis: Mapping[str, Any]) -> list[tuple[str, bool, Mapping[str, Any]]]:
    """Label, whether it is a difference, and figures by measure, of each model and each pair."""
    found = [(model.label, False, analysis["models"][name]["thickness"]) for name, model in models.items()]
    found += [
        (f"+ {models[c['model']].label} − {models[c['baseline']].label}", True, c["thickness"])
        for c in analysis["comparisons"]
    ]
    return found


def _slopes(parts: list[tuple[str, bool, Mapping[str, Any]]], first: Mapping[str, Any], everything: str) -> Table:
    rows: list[list[Cell]] = []
    kinds = (("", "slope_per_mm"), (", within patients", "slope_within_patients_per_mm"))
    for measure, figures_of_first in first.items():
        for words, key in kinds:
            label = f"{'+ ' if words else ''}{MEASURES[measure].words}{words}"
            slopes = [cell(by_measure[measure][key], _digits(measure) + 1, sign=True) for _, _, by_measure in parts]
            rows.append([label, f"{figures_of_first[key]['n']} / {figures_of_first[key]['n_patients']}", *slopes])
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
            "Grey: 95\u00a0% bootstrap interval over patients. Columns with a minus: difference of the two models' "
            "slopes, for Dice above 0 where the first loses less on thick slices. Within patients: only those with "
            "scans of several thicknesses."
        ),
    )


def _strata(
    parts: list[tuple[str, bool, Mapping[str, Any]]], measure: str, first: Mapping[str, Any], everything: str
) -> Table:
    rows: list[list[Cell]] = [
        [label, *(cell(stratum, _digits(measure), sign=difference) for stratum in by_measure[measure]["strata"])]
        for label, difference, by_measure in parts
    ]
    words = MEASURES[measure].words
    return Table(
        name=f"thickness_{measure}",
        source=everything,
        header=[(f"mean {words}", ""), *((s["stratum"], _sample(s)) for s in first[measure]["strata"])],
        rows=rows,
        legend=f"Mean {words} by stratum of slice thickness, 95\u00a0% interval over patients; below, differences.",
        folded="Every other measure by slice thickness" if measure != "dice" else "",
    )


def _agreement(models: Mapping[str, ModelResult], everything: str) -> Table:
    first = next(iter(models.values())).summary["thickness"]
    rows: list[list[Cell]] = []
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
            "Grey, in all tables by stratum: 95\u00a0% bootstrap interval over patients; a dash where there is no "
            "scan, no interval where there is one patient. False alarms: lesion-free scans with a prediction."
        ),
    )


def _digits(measure: str) -> int:
    return MEASURES[measure].digits


def _sample(figure: Mapping[str, Any]) -> str:
    return f"{figure['n']} scans, {figure['n_patients']}\u00a0pat."


def _interval(figure: Mapping[str, Any]) -> Interval:
    estimate, low, high = (float("nan") if v is None else v for v in (figure["value"], *figure["ci95"]))
    return Interval(estimate=estimate, low=low, high=high, n=figure["n"], n_patients=figure["n_patients"])
