"""The sections of the report that show an analysis: slice thickness, risk groups, volume intervals, detection."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from iac_lightning.evaluation.clinical.analysis import detection
from iac_lightning.evaluation.clinical.conformal import Coverage
from iac_lightning.evaluation.clinical.risk import GROUPS, RiskCutoffs
from iac_lightning.evaluation.tables.model_result import ModelResult
from iac_lightning.figures.risk import confusion_figure, coverage_figure, intervals_figure, roc_figure
from iac_lightning.report.models.thickness import thickness_section
from iac_lightning.report.page import ReportContext, Section, Table, drawn, source
from iac_lightning.report.words import TableCell, cell, number, p_cell, pair, sentence, share, share_cell


def analysis_sections(
    models: Mapping[str, ModelResult],
    dev_tables: Mapping[str, pd.DataFrame],
    analysis: Mapping[str, Any],
    context: ReportContext,
) -> list[Section]:
    """Tables and figures of an analysis; of risk groups and intervals only where it has them.

    Args:
        models: name to result.
        dev_tables: name to table of the development series.
        analysis: from `analyse` with these tables and the seed of the context.
        context: names split and seed.
    """
    everything = source(analysis["n_series"], analysis["n_patients"], context)
    sections = [thickness_section(models, analysis, context)]
    if analysis["cutoffs"]:
        sections.append(_risk(models, analysis, everything))
    if all("conformal" in model for model in analysis["models"].values()):
        sections.append(_intervals(models, dev_tables, analysis, everything))
    return [*sections, _detection(models, analysis, everything, context)]


def _risk(models: Mapping[str, ModelResult], analysis: Mapping[str, Any], everything: str) -> Section:
    cutoffs = RiskCutoffs(**analysis["cutoffs"])
    none, low, medium = (f"{limit:.3g}" for limit in cutoffs.limits_mm3)
    risks = {name: analysis["models"][name]["risk"] for name in models}
    table = Table(
        name="risk_groups",
        source=everything,
        header=[
            ("model", ""),
            ("misclassified", "scans"),
            ("accuracy", "share in the right group"),
            ("weighted κ", "quadratic weights"),
        ],
        rows=[
            [
                models[name].label,
                f"{risk['misclassified']} of {analysis['n_series']}",
                cell(risk["accuracy"]),
                cell(risk["kappa"]),
            ]
            for name, risk in risks.items()
        ],
        legend=(
            "Grey: 95\u00a0% interval over patients. κ is agreement beyond chance "
            "(1 perfect, 0 chance); a confusion of none with high weighs nine times one of neighbours."
        ),
    )
    tables = [table]
    if analysis["comparisons"]:
        tables.append(_risk_change(models, analysis, everything))
    confusions = {models[name].label: risk["confusion"] for name, risk in risks.items()}
    return Section(
        title="Risk groups",
        text=(
            f"By its volume a scan is in the group {GROUPS[0]} ({none}\u00a0mm³), {GROUPS[1]} (up to {low}\u00a0mm³), "
            f"{GROUPS[2]} (up to {medium}\u00a0mm³) or {GROUPS[3]}. It is misclassified when predicted and labelled "
            f"volume lie in different groups. Limits: {cutoffs.source}."
        ),
        tables=tables,
        figures=[
            drawn(
                "confusion",
                "Confusion of risk groups",
                "Rows are the groups of the labels, columns those of the predictions: what is not on the diagonal is "
                "misclassified, to the left of it too low, to the right too high.",
                confusion_figure(confusions, cutoffs, everything),
                everything,
            )
        ],
    )


def _risk_change(models: Mapping[str, ModelResult], analysis: Mapping[str, Any], everything: str) -> Table:
    baseline = models[analysis["settings"]["baseline"]].label
    rows: list[list[TableCell]] = []
    for comparison in analysis["comparisons"]:
        risk = comparison["risk"]
        patients, scans = risk["patients"], risk["mcnemar"]
        rows.append(
            [
                f"{models[comparison['model']].label} against {baseline}",
                f"{risk['misclassified']} against {risk['baseline_misclassified']}",
                share_cell(risk["relative_change"]),
                f"{patients['only_first']} / {patients['only_second']}",
                p_cell(patients["holm_p"]),
                f"{scans['only_first']} / {scans['only_second']}",
                p_cell(scans["holm_p"]),
            ]
        )
    return Table(
        name="risk_change",
        title="Change of misclassified scans",
        source=everything,
        header=[
            ("model against baseline", ""),
            ("misclassified", "scans"),
            ("relative change", "negative: fewer"),
            ("fewer / more errors", "patients"),
            ("p, patients", "sign test, Holm"),
            ("right alone: model / baseline", "scans"),
            ("p, scans", "McNemar, Holm"),
        ],
        rows=rows,
        legend=(
            "The baseline is the model given last. Relative change: (model − baseline)"
            " / baseline, with a 95\u00a0% interval over patients; a dash where the baseline makes no"
            " error. McNemar's test takes scans as independent, which several scans of one patient are not: "
            "where the two tests differ, believe the one over patients."
        ),
    )


def _intervals(
    models: Mapping[str, ModelResult],
    dev_tables: Mapping[str, pd.DataFrame],
    analysis: Mapping[str, Any],
    everything: str,
) -> Section:
    conformals = {name: analysis["models"][name]["conformal"] for name in models}
    promised = analysis["settings"]["coverage"]
    rows: list[list[TableCell]] = []
    for name, conformal in conformals.items():
        parts = conformal["coverage"]
        covered = [pair(*(share(part[key]) for key in ("coverage", "low", "high"))) for part in parts]
        rows.append([models[name].label, *covered, share(conformal["one_group_share"])])
        rows.append(["+ mean width, mm³", *(_width(part) for part in parts), ""])
    sizes = {(len(table), table["patient_id"].nunique()) for table in dev_tables.values()}
    fitted = " or ".join(f"{n} scans of {patients} patients" for n, patients in sorted(sizes))
    remarks = dict.fromkeys(remark for conformal in conformals.values() for remark in conformal["remarks"])
    table = Table(
        name="intervals",
        source=f"measured on {everything}; fitted on {fitted} of the development split",
        header=[
            (f"coverage, promised {share(promised)}", ""),
            *(
                (part["stratum"], f"{part['n']} scans, {part['n_patients']}\u00a0pat.")
                for part in next(iter(conformals.values()))["coverage"]
            ),
            ("in one risk group", "scans"),
        ],
        rows=rows,
        legend=" ".join(
            [
                "Coverage: mean over patients of the share of the patient's scans whose label lies inside; grey: exact "
                "95\u00a0% interval with patients as trials. The narrower at the promised coverage, the better; open: "
                "without upper end, left out of the mean. In one risk group: scans whose whole interval lies in one.",
                *(f"{sentence(remark)}" for remark in remarks),
            ]
        ),
    )
    coverages = {
        models[name].label: [Coverage(**_undefined_as_nan(row)) for row in conformal["coverage"]]
        for name, conformal in conformals.items()
    }
    figures = [
        drawn(
            "coverage",
            "Coverage and width",
            "Left: coverage measured (points, 95\u00a0% intervals) against the promise (dashed). Right: how wide the "
            "intervals are, for what they promise.",
            coverage_figure(coverages, promised, everything),
            everything,
        )
    ]
    for k, (name, conformal) in enumerate(conformals.items()):
        scans = pd.DataFrame(conformal["scans"])
        scans["high_mm3"] = scans["high_mm3"].astype(float).fillna(np.inf)
        label = models[name].label
        figures.append(
            drawn(
                f"intervals_{k + 1}",
                f"Intervals of the scans: {label}",
                "A grey bar is the interval of one scan; dotted lines part the risk groups.",
                intervals_figure(scans, RiskCutoffs(**analysis["cutoffs"]), promised, f"{label}; {everything}"),
                everything,
            )
        )
    return Section(
        title="Volume intervals",
        text=(
            "How far may a predicted volume be off? The errors on the development split give every scan an interval "
            f"that holds the labelled volume for {share(promised)} of new patients (conformal prediction, one radius "
            "a stratum of slice thickness), whatever the model. Where that split also chose checkpoint and "
            "threshold, the promise is a little too good; the coverage measured here counts."
        ),
        tables=[table],
        figures=figures,
    )


def _detection(
    models: Mapping[str, ModelResult], analysis: Mapping[str, Any], everything: str, context: ReportContext
) -> Section:
    n, positive = analysis["n_patients"], next(iter(analysis["models"].values()))["detection"]["n_positive"]
    text = (
        f"{positive} of {n} patients have calcification in a labelled scan. A patient is flagged when the largest "
        "predicted volume of the patient's scans is above a limit; the curve runs through all limits."
    )
    if not 0 < positive < n:
        return Section(title="Detection per patient", text=f"{text} With one kind of patient only there is no curve.")
    curves = {model.label: detection(model.table) for model in models.values()}
    rows: list[list[TableCell]] = [
        [model.label, cell(analysis["models"][name]["detection"]["auc"])] for name, model in models.items()
    ]
    return Section(
        title="Detection per patient",
        text=text,
        tables=[
            Table(
                name="detection",
                source=everything,
                header=[("model", ""), ("area under the ROC curve", f"{n} patients")],
                rows=rows,
                legend="Grey: 95\u00a0% interval over patients.",
            )
        ],
        figures=[
            drawn(
                "roc",
                "ROC over patients",
                "Area 1 parts all patients with calcification from all without, 0.5 is chance; brackets: 95\u00a0% "
                "interval over patients.",
                roc_figure(curves, everything),
                everything,
            )
        ],
    )


def _width(part: Mapping[str, Any]) -> str:
    width = number(part["mean_width_mm3"], 1)
    return f"{width} ({part['n_unbounded']} open)" if part["n_unbounded"] else width


def _undefined_as_nan(row: Mapping[str, Any]) -> dict[str, Any]:
    return {key: float("nan") if value is None else value for key, value in row.items()}
