"""What tokens and attention do for each ViT, and what transformer and pre-training are worth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from iac_lightning.evaluation.ablation.recipe_statistics import Value
from iac_lightning.evaluation.ablation.worth import Worth, decided
from iac_lightning.evaluation.tables.controls import WORDS
from iac_lightning.evaluation.tables.model_result import ModelResult, variants
from iac_lightning.figures.controls import controls_figure
from iac_lightning.report.page import ReportContext, Section, Table, drawn, sample
from iac_lightning.report.words import TableCell, cell, estimate
from iac_lightning.report.worth import worth_sentence, worth_table

_CONVOLUTIONS = (
    "Tokens made by convolutions carry a small network of their own, which mean tokens take away with the transformer: "
    "only the same network without a transformer (model.vit.depth=0) tells what the transformer adds."
)


def worth_sentences(models: Mapping[str, ModelResult], worths: Sequence[Worth]) -> list[str]:
    """For each ViT what its tokens and its attention are worth, then transformer and pre-training, where compared.

    Args:
        models: name to result; those that were evaluated under controls have a sentence.
        worths: of transformer and pre-training, among these models.
    """
    controlled = _controlled(models)
    sentences = [_of_one(model) for model in controlled]
    if any(model.convolutional_tokens for model in controlled):
        sentences.append(_CONVOLUTIONS)
    return sentences + [worth_sentence(worth) for worth in worths]


def controls_section(
    models: Mapping[str, ModelResult], worths: Sequence[Worth], missing: str, context: ReportContext
) -> Section | None:
    """Tables and figure behind the sentences; None where there is nothing to show.

    Args:
        models: name to result.
        worths: of transformer and pre-training, among these models.
        missing: what cannot be said for want of an arm, in a sentence.
        context: of the page.
    """
    controlled = _controlled(models)
    if not controlled and not worths:
        return None
    lesions = sample(models, context, lesions=True)
    figures = [
        drawn(
            "controls",
            "",
            "A network that does as well under a control owes nothing to what the control takes away.",
            controls_figure({model.label: model.summary for model in controlled}, lesions),
            lesions,
        )
    ]
    text = (
        "The same weights, calibration and thresholds, predicted twice more: with every token that the decoder gets "
        "replaced by the mean of its crop's tokens, and with each token attending to itself alone. What Dice loses is "
        "what tokens and attention are worth to this network. A lower Dice that tokens have earned says more of a "
        "transformer than a higher one that goes round them, through the image or the tokeniser's skips."
    )
    return Section(
        title="What the transformer does",
        text=" ".join(filter(None, (text, missing))),
        tables=[
            *([_controls_table(controlled, lesions)] if controlled else []),
            *([worth_table(worths, lesions)] if worths else []),
        ],
        figures=figures if controlled else [],
    )


def _controlled(models: Mapping[str, ModelResult]) -> list[ModelResult]:
    return [model for model in models.values() if model.summary.get("controls")]


def _of_one(model: ModelResult) -> str:
    parts = [
        f"its {WORDS[control]} {estimate(found['difference'], sign=True)} ({_verdict(found['difference'])})"
        for control, found in model.summary["controls"].items()
    ]
    return f"{model.label} owes, in Dice, to {' and to '.join(parts)}."


def _verdict(difference: Mapping[str, Any]) -> str:
    ends = (float("nan") if v is None else v for v in difference["ci95"])
    return (
        "beyond chance of patients"
        if decided(Value(difference["mean"], *ends), difference["n_patients"])
        else "undecided"
    )


def _controls_table(controlled: Sequence[ModelResult], source: str) -> Table:
    """Dice as it is and under each control, and the paired differences."""
    rows: list[Sequence[TableCell]] = []
    for model in controlled:
        controls = model.summary["controls"]
        for variant, values, _ in variants(model):
            is_result = variant == "result"
            row: list[TableCell] = [model.label if is_result else "+ threshold alone", cell(values["dice"])]
            for control in WORDS:
                found = controls.get(control) if is_result else controls.get(control, {}).get("plain")
                row += [cell(found["dice"]), cell(found["difference"], sign=True)] if found else ["–", "–"]
            rows.append(row)
    return Table(
        name="controls",
        header=[
            ("model", ""),
            ("Dice", "as it is"),
            ("mean tokens", "Dice"),
            ("tokens are worth", "Dice, as it is − mean tokens"),
            ("silenced attention", "Dice"),
            ("attention is worth", "Dice, as it is − silenced"),
        ],
        rows=rows,
        legend=(
            "Grey: 95\u00a0% interval over patients; differences on the same scans. Beyond chance of patients: the "
            "interval excludes 0, of this one network, uncorrected for the number of intervals; another training may "
            "do otherwise."
        ),
        source=source,
    )
