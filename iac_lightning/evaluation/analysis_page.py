"""The sections of the report that show an analysis: risk groups, volume intervals, slice thickness, detection."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from iac_lightning.evaluation import risk_figures
from iac_lightning.evaluation.analysis import METRICS, detection
from iac_lightning.evaluation.bootstrap import Interval
from iac_lightning.evaluation.conformal import Coverage
from iac_lightning.evaluation.figures import png
from iac_lightning.evaluation.report import (
    Cell,
    ExtraFigure,
    ModelResult,
    ReportContext,
    Section,
    Table,
    number,
    p_value,
    source,
)
from iac_lightning.evaluation.risk import GROUPS, RiskCutoffs

_METRIC_NAMES = {"dice": "Dice", "sensitivity": "sensitivity", "ppv": "PPV", "lesion_f1": "lesion F1"}


def analysis_sections(
    models: Mapping[str, ModelResult],
    dev_tables: Mapping[str, pd.DataFrame],
    analysis: Mapping[str, Any],
    context: ReportContext,
) -> list[Section]:
    """Tables and figures of an analysis.

    Args:
        models: name to result.
        dev_tables: name to table of the development series.
        analysis: from `analyse` with these tables and the seed of the context.
        context: names split and seed.
    """
    everything = source(analysis["n_series"], analysis["n_patients"], context)
    return [
        _risk(models, analysis, everything),
        _intervals(models, dev_tables, analysis, everything),
        _thickness(models, analysis, context),
        _detection(models, analysis, everything, context),
    ]


def _risk(models: Mapping[str, ModelResult], analysis: Mapping[str, Any], everything: str) -> Section:
    cutoffs = RiskCutoffs(**analysis["cutoffs"])
    none, low, medium = (f"{limit:.3g}" for limit in cutoffs.limits_mm3)
    found = {name: analysis["models"][name]["risk"] for name in models}
    table = Table(
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
                _cell(risk["accuracy"]),
                _cell(risk["kappa"]),
            ]
            for name, risk in found.items()
        ],
        legend=(
            f"{_sentence(everything)} Grey: 95\u00a0% bootstrap interval over patients. κ is agreement beyond chance "
            "(1 perfect, 0 chance); a confusion of none with high weighs nine times one of neighbours."
        ),
    )
    tables = [table]
    if analysis["comparisons"]:
        baseline = models[analysis["settings"]["baseline"]].label
        rows: list[list[Cell]] = []
        for comparison in analysis["comparisons"]:
            risk = comparison["risk"]
            patients, scans = risk["patients"], risk["mcnemar"]
            rows.append(
                [
                    f"{models[comparison['model']].label} against {baseline}",
                    f"{risk['misclassified']} against {risk['baseline_misclassified']}",
                    _percent(risk["relative_change"]),
                    f"{patients['only_first']} / {patients['only_second']}",
                    _p(patients["holm_p"]),
                    f"{scans['only_first']} / {scans['only_second']}",
                    _p(scans["holm_p"]),
                ]
            )
        tables.append(
            Table(
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
                    f"{_sentence(everything)} The baseline is the model given last. Relative change: (model − baseline)"
                    " / baseline, with a 95\u00a0% bootstrap interval over patients; a dash where the baseline makes no"
                    " error. McNemar's test takes scans as independent, which several scans of one patient are not: "
                    "where the two tests differ, believe the one over patients."
                ),
            )
        )
    confusions = {models[name].label: risk["confusion"] for name, risk in found.items()}
    return Section(
        title="Risk groups",
        text=(
            f"By its volume a scan is in the group {GROUPS[0]} ({none}\u00a0mm³), {GROUPS[1]} (up to {low}\u00a0mm³), "
            f"{GROUPS[2]} (up to {medium}\u00a0mm³) or {GROUPS[3]}. It is misclassified when predicted and labelled "
            f"volume lie in different groups. Limits: {cutoffs.source}."
        ),
        tables=tables,
        figures=[
            _figure(
                "Confusion of risk groups",
                "Rows are the groups of the labels, columns those of the predictions: what is not on the diagonal is "
                "misclassified, to the left of it too low, to the right too high.",
                risk_figures.confusion_figure(confusions, cutoffs, everything),
            )
        ],
    )


def _intervals(
    models: Mapping[str, ModelResult],
    dev_tables: Mapping[str, pd.DataFrame],
    analysis: Mapping[str, Any],
    everything: str,
) -> Section:
    found = {name: analysis["models"][name]["conformal"] for name in models}
    promised = analysis["settings"]["coverage"]
    rows: list[list[Cell]] = []
    for name, conformal in found.items():
        parts = conformal["coverage"]
        covered = [_pair(*(_share(part[key]) for key in ("coverage", "low", "high"))) for part in parts]
        rows.append([models[name].label, *covered, _share(conformal["one_group_share"])])
        rows.append(["+ mean width, mm³", *(_width(part) for part in parts), ""])
    sizes = {(len(table), table["patient_id"].nunique()) for table in dev_tables.values()}
    fitted = " or ".join(f"{n} scans of {patients} patients" for n, patients in sorted(sizes))
    remarks = dict.fromkeys(remark for conformal in found.values() for remark in conformal["remarks"])
    table = Table(
        header=[
            (f"coverage, promised {_share(promised)}", ""),
            *((part["stratum"], _sample(part)) for part in next(iter(found.values()))["coverage"]),
            ("in one risk group", "scans"),
        ],
        rows=rows,
        legend=" ".join(
            [
                f"Measured on {everything}; fitted on {fitted} of the development split.",
                "Coverage: mean over patients of the share of the patient's scans whose label lies inside; grey: exact "
                "95\u00a0% interval with patients as trials. The narrower at the promised coverage, the better; open: "
                "without upper end, left out of the mean. In one risk group: scans whose whole interval lies in one.",
                *(f"{_sentence(remark)}" for remark in remarks),
            ]
        ),
    )
    coverages = {
        models[name].label: [Coverage(**_undefined_as_nan(row)) for row in conformal["coverage"]]
        for name, conformal in found.items()
    }
    figures = [
        _figure(
            "Coverage and width",
            "Left: coverage measured (points, 95\u00a0% intervals) against the promise (dashed). Right: how wide the "
            "intervals are, for what they promise.",
            risk_figures.coverage_figure(coverages, promised, everything),
        )
    ]
    for name, conformal in found.items():
        scans = pd.DataFrame(conformal["scans"])
        scans["high_mm3"] = scans["high_mm3"].astype(float).fillna(np.inf)
        label = models[name].label
        figures.append(
            _figure(
                f"Intervals of the scans: {label}",
                "A grey bar is the interval of one scan; dotted lines part the risk groups.",
                risk_figures.intervals_figure(
                    scans, RiskCutoffs(**analysis["cutoffs"]), promised, f"{label}; {everything}"
                ),
            )
        )
    return Section(
        title="Volume intervals",
        text=(
            "How far may a predicted volume be off? The errors on the development split give every scan an interval "
            f"that holds the labelled volume for {_share(promised)} of new patients (conformal prediction, one radius "
            "a stratum of slice thickness), whatever the model. The development split also chose checkpoint and "
            "threshold, which makes the promise a little too good; the coverage measured here counts."
        ),
        tables=[table],
        figures=figures,
    )


def _thickness(models: Mapping[str, ModelResult], analysis: Mapping[str, Any], context: ReportContext) -> Section:
    found = {name: analysis["models"][name]["thickness"] for name in models}
    first = next(iter(found.values()))
    lesions = source(first["dice"]["slope_per_mm"]["n"], first["dice"]["slope_per_mm"]["n_patients"], context)
    within = first["dice"]["slope_within_patients_per_mm"]

    def slopes(label: str, figures: Mapping[str, Any]) -> list[Cell]:
        keys = [("dice", "slope_per_mm"), ("dice", "slope_within_patients_per_mm")]
        keys += [(metric, "slope_per_mm") for metric in METRICS[1:]]
        return [label, *(_cell(figures[metric][key], sign=True) for metric, key in keys)]

    rows = [slopes(models[name].label, figures) for name, figures in found.items()]
    strata: list[list[Cell]] = [
        [models[name].label, *(_cell(stratum) for stratum in figures["dice"]["strata"])]
        for name, figures in found.items()
    ]
    for comparison in analysis["comparisons"]:
        label = f"+ {models[comparison['model']].label} − {models[comparison['baseline']].label}"
        differences = {metric: figure["thickness"] for metric, figure in comparison["metrics"].items()}
        rows.append(slopes(label, differences))
        strata.append([label, *(_cell(stratum, sign=True) for stratum in differences["dice"]["strata"])])
    estimates = {models[name].label: _interval(figures["dice"]["slope_per_mm"]) for name, figures in found.items()}
    tables = {model.label: model.table for model in models.values()}
    return Section(
        title="Slice thickness",
        text=(
            "Change of a figure per mm of slice thickness (slope of the least-squares line): negative means that it "
            "falls on thicker slices. A slope over all scans also compares different patients; the slope within "
            "patients (scans of one head at several thicknesses) and the difference of two models' slopes on the same "
            "scans do not."
        ),
        tables=[
            Table(
                header=[
                    ("slope per mm", ""),
                    ("Dice", ""),
                    ("Dice within patients", _sample(within)),
                    *((_METRIC_NAMES[metric], "") for metric in METRICS[1:]),
                ],
                rows=rows,
                legend=(
                    f"{_sentence(lesions)} These are the scans with lesions; PPV takes the scans with a prediction. "
                    "Grey: 95\u00a0% bootstrap interval over patients. Rows with a minus: difference of the two "
                    "models' slopes, above 0 where the first loses less on thick slices."
                ),
            ),
            Table(
                header=[
                    ("mean Dice", ""),
                    *((s["stratum"], _sample(s)) for s in first["dice"]["strata"]),
                ],
                rows=strata,
                legend=f"{_sentence(lesions)} Grey: 95\u00a0% bootstrap interval over patients.",
            ),
        ],
        figures=[
            _figure(
                "Dice by slice thickness",
                "A faint point is a scan with lesions, shifted sideways a little by model.",
                risk_figures.slope_figure(tables, estimates, lesions, seed=context.seed),
            )
        ],
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
    curves = {model.label: detection(model.table, seed=context.seed) for model in models.values()}
    return Section(
        title="Detection per patient",
        text=text,
        figures=[
            _figure(
                "ROC over patients",
                "Area 1 parts all patients with calcification from all without, 0.5 is chance; brackets: 95\u00a0% "
                "bootstrap interval over patients.",
                risk_figures.roc_figure(curves, everything),
            )
        ],
    )


def _width(part: Mapping[str, Any]) -> str:
    width = number(part["mean_width_mm3"], 1)
    return f"{width} ({part['n_unbounded']} open)" if part["n_unbounded"] else width


def _sample(figure: Mapping[str, Any]) -> str:
    return f"{figure['n']} scans, {figure['n_patients']}\u00a0pat."


def _figure(title: str, caption: str, figure: Figure) -> ExtraFigure:
    return ExtraFigure(title=title, caption=caption, png=png(figure))


def _cell(figure: Mapping[str, Any], *, sign: bool = False) -> Cell:
    """Value, and its interval in grey."""
    return _pair(*(_signed(v) if sign else number(v) for v in (figure["value"], *figure["ci95"])))


def _percent(figure: Mapping[str, Any]) -> Cell:
    return _pair(*(_share(v, sign=True) for v in (figure["value"], *figure["ci95"])))


def _pair(value: str, low: str, high: str) -> Cell:
    return value if "–" in (value, low, high) else (value, f"{low}; {high}")


def _signed(value: float | None) -> str:
    return "–" if value is None else f"{value:+.3f}".replace("-", "−")


def _share(value: float | None, *, sign: bool = False) -> str:
    return "–" if value is None else f"{value:{'+' if sign else ''}.0%}".replace("-", "−").replace("%", "\u00a0%")


def _p(p: float | None) -> str:
    return "–" if p is None else p_value(p).removeprefix("p = ").removeprefix("p ")


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


def _interval(figure: Mapping[str, Any]) -> Interval:
    numbers = (float("nan") if v is None else v for v in (figure["value"], *figure["ci95"]))
    estimate, low, high = numbers
    return Interval(estimate=estimate, low=low, high=high, n=figure["n"], n_patients=figure["n_patients"])


def _undefined_as_nan(row: Mapping[str, Any]) -> dict[str, Any]:
    return {key: float("nan") if value is None else value for key, value in row.items()}
