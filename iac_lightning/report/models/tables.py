"""The tables of models and of their paired comparisons."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from iac_lightning.evaluation.metrics.lesions import SMALL_LESION_MM3
from iac_lightning.evaluation.statistics.plain import plain_interval
from iac_lightning.evaluation.tables.comparison import Comparison
from iac_lightning.evaluation.tables.model_result import ModelResult, variants
from iac_lightning.evaluation.tables.summary import weakest_stratum
from iac_lightning.report.models.sentences import threshold_sentence
from iac_lightning.report.page import ReportContext, Table, sample
from iac_lightning.report.words import TableCell, cell, duration, number, p_cell

_LESIONS, _ALL = "scans with lesions", "all scans"


def glance_table(models: Mapping[str, ModelResult], context: ReportContext) -> Table:
    """The answer for every model in one line each."""
    rows: list[Sequence[TableCell]] = []
    for model in models.values():
        summary, lesions = model.summary, model.summary["lesions"]
        worst = weakest_stratum(summary)
        rows.append(
            [
                model.label,
                cell(summary["dice"]),
                f"{number(worst['mean'])} ({worst['stratum']})" if worst else "none established",
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
        legend="Grey: 95\u00a0% interval over patients. Weakest: stratum of slice thickness whose Dice is "
        "established to lie below that of all other scans (corrected over the strata).",
        source=sample(models, context),
    )


def model_tables(models: Mapping[str, ModelResult], context: ReportContext) -> list[Table]:
    """The values of the models, and what stands behind them."""
    return [_main_table(models, context), _table_behind(models, context)]


def _main_table(models: Mapping[str, ModelResult], context: ReportContext) -> Table:
    first = next(iter(models.values())).summary
    rows: list[Sequence[TableCell]] = []
    for model in models.values():
        for variant, values, threshold in variants(model):
            rows.append(
                [
                    model.label if variant == "result" else "+ threshold alone",
                    number(threshold, 2),
                    *(
                        cell(values[key])
                        for key in ("dice", "sensitivity", "ppv", "lesion_f1", "nsd_1mm", "volume_icc")
                    ),
                    number(values["volume_error"]["median_absolute_mm3"], 1),
                    f"{values['n_false_alarm']} of {first['n_lesion_free']}",
                ]
            )
    return Table(
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
        rows=rows,
        legend=(
            "Grey: 95\u00a0% interval over patients (leave one out, Student's t). "
            f"All figures are computed on each scan's own voxel grid. {threshold_sentence(models)} "
            "Means: Dice, sensitivity, lesion F1 and surface Dice over the "
            f"{first['n_with_lesion']} scans with lesions; PPV over the scans with a prediction. "
            "A lesion is a 26-connected component, hit at any overlap. A model's own line: at its operating point, "
            "after the annotation protocol (only voxels of at least 130 HU, no single voxels). Threshold alone: no "
            "protocol, no least lesion, another threshold."
        ),
        source=sample(models, context),
    )


def _table_behind(models: Mapping[str, ModelResult], context: ReportContext) -> Table:
    """Further values, training and looks; the model's own stand in the line of its result."""
    looked = any(model.looks is not None for model in models.values())
    rows: list[Sequence[TableCell]] = []
    for model in models.values():
        weights = f"{model.parameters:,}" if model.parameters is not None else "–"
        about = [weights, duration(model.train_seconds), *([_looks(model.looks)] if looked else []), model.name]
        for variant, values, _ in variants(model):
            is_result = variant == "result"
            rows.append(
                [
                    model.label if is_result else "+ threshold alone",
                    cell(values["dice_all"]),
                    str(values["n_both_empty"]),
                    cell(values["hd95_mm"], 2),
                    number(values["volume_error"]["bias_mm3"], 1),
                    *(about if is_result else [""] * len(about)),
                ]
            )
    legend = "Both empty: neither label nor prediction holds a voxel. Volume bias: mean of predicted − labelled."
    if looked:
        legend += (
            " Looks: how often the test split was evaluated, reported or compared with this model so far, this page "
            "included (and with how many different settings and weights, where more than one). Every choice made after "
            "a look makes the figures of this page too good; the record is test_looks.jsonl of each run."
        )
    return Table(
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
        rows=rows,
        legend=legend,
        source=sample(models, context),
    )


def comparison_table(
    comparisons: Sequence[Comparison], models: Mapping[str, ModelResult], context: ReportContext, *, plain: bool
) -> Table:
    """Paired differences in Dice of one variant of the predictions."""
    rows: list[Sequence[TableCell]] = []
    for c in comparisons:
        d = c.paired.difference
        rows.append(
            [
                f"{c.first} − {c.second}",
                cell(plain_interval(d)),
                p_cell(c.paired.wilcoxon_p),
                p_cell(c.adjusted_p),
                f"{c.paired.wins} / {c.paired.ties} / {c.paired.losses}",
                "yes" if c.established else "no",
            ]
        )
    return Table(
        name="comparisons_plain" if plain else "comparisons",
        title="Masks of a threshold alone" if plain else "",
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


def _looks(looks: Mapping[str, int] | None) -> str:
    if looks is None:
        return "–"
    more = [
        f"{looks[key]} {word}" for key, word in (("n_configs", "settings"), ("n_weights", "weights")) if looks[key] > 1
    ]
    return f"{looks['n']} ({', '.join(more)})" if more else str(looks["n"])
