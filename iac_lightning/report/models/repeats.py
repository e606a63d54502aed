"""The section of the report on trainings that differ in seed or fold alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from iac_lightning.evaluation.ablation.repeats import REPEATED, Repeats
from iac_lightning.evaluation.tables.measures import MEASURES
from iac_lightning.evaluation.tables.model_result import ModelResult
from iac_lightning.report.page import ReportContext, Section, Table, sample
from iac_lightning.report.words import NBSP, TableCell, number, plural


def repeats_section(
    found: Sequence[Repeats], models: Mapping[str, ModelResult], context: ReportContext
) -> list[Section]:
    """A table of the trainings of each recipe; nothing where none was trained twice.

    Args:
        found: from `repeats`.
        models: name to result.
        context: names split and seed.
    """
    if not found:
        return []
    rows: list[list[TableCell]] = []
    for repeated in found:
        label = models[repeated.names[0]].label.removesuffix(f" ({repeated.names[0]})")
        spreads = [repeated.spreads[measure] for measure in REPEATED]
        digits = [MEASURES[measure].digits for measure in REPEATED]
        means: list[TableCell] = [
            f"{number(s.mean, d)}{NBSP}±{NBSP}{number(s.sd, d)}" for s, d in zip(spreads, digits, strict=True)
        ]
        rows.append([f"{label}: mean ± SD", plural(len(repeated.names), "training"), "", *means])
        for k, (name, seed, fold) in enumerate(zip(repeated.names, repeated.seeds, repeated.folds, strict=True)):
            own: list[TableCell] = [number(s.means[k], d) for s, d in zip(spreads, digits, strict=True)]
            rows.append([f"+ {name}", f"seed {seed}", "–" if fold is None else f"fold {fold}", *own])
    section = Section(
        title="Seeds and folds",
        text=(
            "The same recipe trained again: how much a figure moves with the seed, and with the patients who are held "
            "out for development (folds). Intervals elsewhere on this page are over patients and hold none of this."
        ),
        tables=[
            Table(
                name="repeats",
                header=[
                    ("recipe and training", ""),
                    ("trainings", ""),
                    ("held out", ""),
                    *((MEASURES[measure].words, "") for measure in REPEATED),
                ],
                rows=rows,
                legend=(
                    "SD: standard deviation (n − 1) between trainings; of two or three it is itself uncertain. Each "
                    f"training is judged on all scans of the {context.split} split."
                ),
                source=sample(models, context),
            )
        ],
    )
    return [section]


def training_sentence(found: Sequence[Repeats], n_models: int, n_elsewhere: int, n_ensembles: int) -> str:
    """What the intervals of the page leave out of how networks were trained.

    Args:
        found: recipes trained twice or more.
        n_models: on the page.
        n_elsewhere: predicted by other programs.
        n_ensembles: made of several trainings.
    """
    repeated = sum(len(r.names) for r in found)
    if not repeated and not n_elsewhere and not n_ensembles:
        return "One training of each model: how much another seed would change is not in these intervals."
    parts = []
    if repeated:
        recipes = plural(len(found), "recipe")
        parts.append(f"{repeated} of {n_models} models are trainings of {recipes} (Seeds and folds)")
    if n_ensembles:
        parts.append(f"{plural(n_ensembles, 'model')} here made of several trainings")
    if n_elsewhere:
        parts.append(f"how {plural(n_elsewhere, 'model')} from elsewhere came about is not known")
    text = "; ".join(parts)
    return f"{text[0].upper()}{text[1:]}: how much another training would change is not in these intervals."
