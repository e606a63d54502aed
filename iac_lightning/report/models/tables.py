"""The tables of models and of their paired comparisons."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from iac_lightning.evaluation.metrics.lesions import SMALL_LESION_MM3
from iac_lightning.evaluation.tables.comparison import Comparison
from iac_lightning.report.models.answer import FEWEST_PATIENTS
from iac_lightning.report.page import ModelResult, ReportContext, Table, sample
from iac_lightning.report.words import Cell, cell, duration, number, p_cell, pair

_MEANS = {
    "dice": "mean Dice over the scans with lesions",
    "sensitivity": "mean sensitivity over the scans with lesions",
    "ppv": "mean positive predictive value over the scans with a prediction",
    "lesion_f1": "mean lesion F1 over the scans with lesions",
    "dice_all": "mean Dice over every scan; one where label and prediction are both empty counts as 1",
    "volume_icc": "ICC(2,1) of predicted and labelled volume over all scans",
}

MODEL_COLUMNS = {
    "run": "name of the run",
    "model": "its label in the report",
    "variant": "plain, or protocol prior (≥ 130 HU, no single voxels)",
    "threshold": "of the calibrated probability, chosen on the development split",
    **{
        column: meaning
        for name, words in _MEANS.items()
        for column, meaning in (
            (name, words),
            (f"{name}_low", f"lower end of the 95 % interval of `{name}` over patients"),
            (f"{name}_high", f"upper end of the 95 % interval of `{name}` over patients"),
        )
    },
    "n_both_empty": "scans whose label and prediction are both empty",
    "n_false_alarm": "lesion-free scans with a prediction",
    "volume_bias_mm3": "mean of predicted − labelled volume",
    "volume_median_absolute_error_mm3": "median of |predicted − labelled volume|",
    "n_series": "scans",
    "n_with_lesion": "scans with lesions",
    "n_patients": "patients",
    "parameters": "trainable numbers of the network; empty where unknown",
    "train_seconds": "time of training; empty where unknown",
    "test_looks": "how often the test split was evaluated, reported or compared with this model",
}
"""Columns of `models.csv` (`model_rows`), and what they hold."""

_LESIONS, _ALL = "scans with lesions", "all scans"


def model_rows(models: Mapping[str, ModelResult]) -> list[dict[str, Any]]:
    """With full precision: one row for the plain prediction, one with the protocol prior where it was computed."""
    rows = []
    for name, model in models.items():
        summary = model.summary
        for variant, figure, threshold in _variants(model):
            row: dict[str, Any] = {"run": name, "model": model.label, "variant": variant, "threshold": threshold}
            for key in _MEANS:
                row[key] = figure[key].get("mean", figure[key].get("value"))
                row[f"{key}_low"], row[f"{key}_high"] = figure[key]["ci95"]
            row |= {
                "n_both_empty": figure["n_both_empty"],
                "n_false_alarm": figure["n_false_alarm"],
                "volume_bias_mm3": figure["volume_error"]["bias_mm3"],
                "volume_median_absolute_error_mm3": figure["volume_error"]["median_absolute_mm3"],
                "n_series": summary["n_series"],
                "n_with_lesion": summary["n_with_lesion"],
                "n_patients": summary["n_patients"],
                "parameters": model.parameters,
                "train_seconds": model.train_seconds,
                "test_looks": model.looks["n"] if model.looks else None,
            }
            rows.append(row)
    return rows


def glance_table(models: Mapping[str, ModelResult], context: ReportContext) -> Table:
    """The answer for every model in one line each."""
    rows: list[Sequence[Cell]] = []
    for model in models.values():
        summary, lesions = model.summary, model.summary["lesions"]
        strata = [s for s in summary["thickness"] if s["mean"] is not None and s["n_patients"] >= FEWEST_PATIENTS]
        worst = min(strata, key=lambda s: s["mean"]) if len(strata) > 1 else None
        rows.append(
            [
                model.label,
                cell(summary["dice"]),
                f"{number(worst['mean'])} ({worst['stratum']})" if worst else "–",
                f"{lesions['small'] - lesions['small_hit']} of {lesions['small']}",
                f"{summary['n_false_alarm']} of {summary['n_lesion_free']}",
                cell(summary["volume_icc"]),
            ]
        )
    return Table(
        name="glance",
        header=[
            ("model", ""),
            ("Dice", _LESIONS),
            ("weakest thickness", "mean Dice"),
            ("small lesions missed", f"up to {SMALL_LESION_MM3:g} mm³"),
            ("false alarms", "lesion-free scans"),
            ("volume ICC(2,1)", _ALL),
        ],
        rows=rows,
        legend="Grey: 95\u00a0% interval over patients. Weakest: stratum of slice thickness with the lowest Dice.",
        source=sample(models, context),
    )


def model_tables(models: Mapping[str, ModelResult], context: ReportContext) -> list[Table]:
    """The figures of the models, and what stands behind them."""
    first = next(iter(models.values())).summary
    main: list[Sequence[Cell]] = []
    more: list[Sequence[Cell]] = []
    looked = any(model.looks is not None for model in models.values())
    for model in models.values():
        for variant, figure, threshold in _variants(model):
            plain = variant == "plain"
            label = model.label if plain else "+ protocol prior"
            main.append(
                [
                    label,
                    number(threshold, 2),
                    *(
                        cell(figure[key])
                        for key in ("dice", "sensitivity", "ppv", "lesion_f1", "nsd_1mm", "volume_icc")
                    ),
                    number(figure["volume_error"]["median_absolute_mm3"], 1),
                    f"{figure['n_false_alarm']} of {first['n_lesion_free']}",
                ]
            )
            behind: list[Cell] = [
                label,
                cell(figure["dice_all"]),
                str(figure["n_both_empty"]),
                cell(figure["hd95_mm"], 2),
                number(figure["volume_error"]["bias_mm3"], 1),
                f"{model.parameters:,}" if plain and model.parameters is not None else "–" if plain else "",
                duration(model.train_seconds) if plain else "",
            ]
            if looked:
                behind.append(_looks(model.looks) if plain else "")
            more.append([*behind, model.name if plain else ""])
    legend = (
        f"Grey: 95\u00a0% percentile bootstrap interval over patients ({first['resamples']:,} resamples). All figures "
        "are computed on each scan's own voxel grid. Thresholds were chosen on the development split. Means: Dice, "
        f"sensitivity, lesion F1 and surface Dice over the {first['n_with_lesion']} scans with lesions; PPV over the "
        "scans with a prediction. A lesion is a 26-connected component, hit at any overlap. Protocol prior: only "
        "voxels of at least 130 HU count and single voxels are dropped, as the annotators did; own threshold."
    )
    behind_legend = "Both empty: neither label nor prediction holds a voxel. Volume bias: mean of predicted − labelled."
    if looked:
        behind_legend += (
            " Looks: how often the test split was evaluated, reported or compared with this model so far, this page "
            "included (and with how many different settings and weights, where more than one). Every choice made after "
            "a look makes the figures of this page too good; the record is test_looks.jsonl of each run."
        )
    origin = sample(models, context)
    return [
        Table(
            name="models",
            header=[
                ("model", ""),
                ("threshold", ""),
                ("Dice", _LESIONS),
                ("sensitivity", "voxels"),
                ("PPV", "voxels"),
                ("lesion F1", ""),
                ("surface Dice", "at 1 mm"),
                ("volume ICC(2,1)", _ALL),
                ("volume error", "median of |error|, mm³"),
                ("false alarms", "lesion-free scans"),
            ],
            rows=main,
            legend=legend,
            source=origin,
        ),
        Table(
            name="models_more",
            header=[
                ("model", ""),
                ("Dice, all scans", "both empty counts 1"),
                ("both empty", "scans"),
                ("HD95", "mm, neither empty"),
                ("volume bias", "mm³"),
                ("trained weights", ""),
                ("training time", ""),
                *([("looks", "at the test split")] if looked else []),
                ("run", ""),
            ],
            rows=more,
            legend=behind_legend,
            source=origin,
        ),
    ]


def comparison_table(
    comparisons: Sequence[Comparison], models: Mapping[str, ModelResult], context: ReportContext, *, prior: bool
) -> Table:
    """Paired differences in Dice of one variant of the predictions."""
    rows: list[Sequence[Cell]] = []
    for c in comparisons:
        d = c.paired.difference
        rows.append(
            [
                f"{c.first} − {c.second}",
                pair(*(number(v) for v in (d.estimate, d.low, d.high))),
                p_cell(c.paired.wilcoxon_p),
                p_cell(c.adjusted_p),
                f"{c.paired.wins} / {c.paired.ties} / {c.paired.losses}",
                "yes" if c.established else "no",
            ]
        )
    return Table(
        name="comparisons_prior" if prior else "comparisons",
        title="After the protocol prior" if prior else "",
        header=[
            ("first − second", ""),
            ("difference in Dice", "95\u00a0% CI over patients"),
            ("p", "Wilcoxon, patients"),
            ("p, corrected", "Holm"),
            ("first better / equal / worse", "scans"),
            ("established", ""),
        ],
        rows=rows,
        legend=(
            "A positive difference favours the model named first. Holm's correction over the table. The interval "
            "weighs every scan alike and is not corrected for the number of comparisons; Wilcoxon's signed-rank test "
            "uses one mean difference a patient. Established: interval without 0, and corrected p below 0.05."
        ),
        source=sample(models, context, lesions=True),
    )


def _variants(model: ModelResult) -> list[tuple[str, dict[str, Any], float | None]]:
    found: list[tuple[str, dict[str, Any], float | None]] = [("plain", model.summary, model.threshold)]
    if "protocol_prior" in model.summary:
        found.append(("protocol prior", model.summary["protocol_prior"], model.prior_threshold))
    return found


def _looks(looks: Mapping[str, int] | None) -> str:
    if looks is None:
        return "–"
    more = [
        f"{looks[key]} {word}" for key, word in (("n_configs", "settings"), ("n_weights", "weights")) if looks[key] > 1
    ]
    return f"{looks['n']} ({', '.join(more)})" if more else str(looks["n"])
