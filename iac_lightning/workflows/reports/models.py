"""Evaluated models beside each other in one page."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from data_modules.cohort.look import RecordedLook
from data_modules.cohort.table import read_cohort
from data_modules.files import shown_path, write_json_atomic
from iac_lightning.config.schema import EvaluationConfig
from iac_lightning.config.stored import OF_CALIBRATION, decisive_settings
from iac_lightning.evaluation.ablation.recipes import Candidate
from iac_lightning.evaluation.ablation.repeats import Repeats, repeats
from iac_lightning.evaluation.ablation.worth import worths
from iac_lightning.evaluation.clinical.analysis import analyse
from iac_lightning.evaluation.statistics.strata import strata_from_edges
from iac_lightning.evaluation.tables.comparison import check_same_series
from iac_lightning.evaluation.tables.model_result import ModelResult
from iac_lightning.report.checklist.places import RUN_FILES
from iac_lightning.report.models.analysis import analysis_sections
from iac_lightning.report.models.calibration import calibration_section
from iac_lightning.report.models.controls import controls_section, worth_sentences
from iac_lightning.report.models.files import report_files
from iac_lightning.report.models.findings import of_analysis
from iac_lightning.report.models.guard import guard_section
from iac_lightning.report.models.operating_point import operating_point_section
from iac_lightning.report.models.page import write_report
from iac_lightning.report.models.repeats import repeats_section, training_sentence
from iac_lightning.report.page import ReportContext
from iac_lightning.report.scan_names import scan_names
from iac_lightning.report.worth import missing_arms
from iac_lightning.runs.directory import Run, git_words
from iac_lightning.runs.looks import end_look
from iac_lightning.runs.members import members_of
from iac_lightning.tracking import logger as tracking
from iac_lightning.workflows.external.evaluate import SEED, ExternalModel
from iac_lightning.workflows.guard import guard_sentences, register_again, set_sentence
from iac_lightning.workflows.reports.about import cohort_sentence, phantom_sentence, preparation_sentences
from iac_lightning.workflows.reports.development import development
from iac_lightning.workflows.reports.evaluated import (
    Entry,
    check_evaluated,
    cohort_table,
    fixed_cutoffs,
    look_at,
    model_labels,
    named,
    pretraining_settings,
    shared_settings,
)
from iac_lightning.workflows.reports.further import further_sections, write_names
from iac_lightning.workflows.reports.model_results import (
    external_result,
    model_result,
    overlays,
    reconstructions,
    training_curves,
)

QUESTION = "How well does each model segment and measure intracranial arterial calcification, and is one better?"


def report(entries: Sequence[Entry], out: Path, split: str, caveat: str = "", command: str = "") -> Path:
    """Write the page from what `iac evaluate` left in each run.

    An analysis follows (`analysis.json`): slopes over slice thickness and detection; where every model was evaluated on
    the development split too, risk groups and volume intervals. The model given last is its baseline. A page about the
    test split is a look at it, recorded with every model. Page, tables and figures also go to the runs' MLflow.

    Args:
        entries: evaluated segmentation runs and predictions of other programs, in the order of the tables.
        out: folder of `index.html`.
        split: which evaluation.
        caveat: what the figures cannot say.
        command: how the page is made again; by default `iac report …`.

    Returns:
        Path of the page.

    Raises:
        UserError: when a run was not evaluated on the split, two have the same name, or their settings of the
            evaluation differ.
    """
    by_name = named(entries)
    settings = shared_settings(entries)
    for entry in entries:
        check_evaluated(entry, split)
    runs = [entry for entry in entries if isinstance(entry, Run)]
    labels = model_labels([run.config for run in runs])
    label_of = dict(zip((run.config.name for run in runs), labels, strict=True))
    taken = {name: look_at(entry, "report", split) for name, entry in by_name.items()}
    models = {
        name: model_result(entry, label_of[name], split, taken[name])
        if isinstance(entry, Run)
        else external_result(entry, split, taken[name])
        for name, entry in by_name.items()
    }
    series = {item.series_id: item for item in read_cohort(cohort_table(entries[0])).series}
    evaluated = {str(name) for model in models.values() for name in model.table["series_id"]}
    names = scan_names(evaluated, data_key(runs))
    examples = {
        name: overlays(entry, models[name], series, names, split, taken[name]) for name, entry in by_name.items()
    }
    dev_tables, missing, mend = development(by_name, split, settings)
    candidates = trainings(runs, models)
    repeated = repeats(candidates)
    context = report_context(
        entries,
        split=split,
        settings=settings,
        caveat=caveat,
        command=command or report_command(entries, out, split, settings),
        missing=(missing, mend),
        labels=labels,
        evaluated_mm=[float(mm) for model in models.values() for mm in model.table["slice_thickness_mm"]],
        repeated=repeated,
    )
    analysis = analyse(
        {name: model.table for name, model in models.items()},
        dev_tables,
        baseline=list(models)[-1] if len(models) > 1 else None,
        cutoffs=fixed_cutoffs(settings),
        coverage=settings.coverage,
        thickness_strata=context.strata,
    )
    worth = worths(candidates, seed=context.seed)
    sections = analysis_sections(models, dev_tables, analysis, context)
    if guard := guard_section(*guarded(by_name, models, split, taken)):
        sections.insert(0, guard)
    if controls := controls_section(models, worth, missing_arms(worth, candidates), context):
        sections.insert(0, controls)
    sections += filter(None, (operating_point_section(models, context), calibration_section(models)))
    sections += further_sections(by_name, models, series, names, context, taken)
    sections += repeats_section(repeated, models, context)
    write_names(by_name, names, split)
    findings = of_analysis(models, analysis)
    page = write_report(out, models, context, sections, examples, worth_sentences(models, worth), findings)
    write_json_atomic(out / "analysis.json", analysis)
    track(by_name, models, analysis, out, split)
    for look in taken.values():
        end_look(look)
    return page


def guarded(
    entries: Mapping[str, Entry],
    models: Mapping[str, ModelResult],
    split: str,
    taken: Mapping[str, RecordedLook | None],
) -> tuple[str, dict[str, list[str]]]:
    """Register the looks of a page; a sentence about its test set, and label to what was found of each model.

    Args:
        entries: name to model.
        models: name to result.
        split: that the page is about.
        taken: name to look.
    """
    about, found = "", {}
    for name, entry in entries.items():
        summary = models[name].summary
        if registry := register_again(cohort_table(entry), taken[name], "report", summary):
            about = set_sentence(registry, summary["guard"])
        if sentences := guard_sentences(entry.directory, summary, split, cohort_table(entry)):
            found[models[name].label] = sentences
    return about, found


def trainings(runs: Sequence[Run], models: Mapping[str, ModelResult]) -> list[Candidate]:
    """The runs with what decides their result, to find those that differ in one thing alone.

    Raises:
        UserError: when the models were evaluated on different series.
    """
    check_same_series(models)
    return [
        Candidate(
            settings=decisive_settings(run.config),
            pretraining=pretraining_settings(run.config),
            table=models[run.config.name].table,
        )
        for run in runs
    ]


def report_context(
    entries: Sequence[Entry],
    *,
    split: str,
    settings: EvaluationConfig,
    caveat: str,
    command: str,
    missing: tuple[str, Sequence[str]],
    labels: Sequence[str],
    evaluated_mm: Sequence[float],
    repeated: Sequence[Repeats],
) -> ReportContext:
    """What the page says of data, code and training.

    Args:
        entries: the models.
        split: that the page is about.
        settings: of the evaluation.
        caveat: what the figures cannot say.
        command: what makes the page.
        missing: what the page lacks, and the commands that make it.
        labels: of the runs among the models.
        evaluated_mm: slice thickness of the evaluated scans.
        repeated: recipes among the models that were trained twice or more.
    """
    runs = [entry for entry in entries if isinstance(entry, Run)]
    first = entries[0]
    provenance = runs[0].provenance if runs else {}
    cohort = cohort_table(first)
    sheet = cohort.parent / "contact_sheet.png"
    series = read_cohort(cohort).series
    simulated = phantom_sentence(series, split)
    about = [cohort_sentence(series, evaluated_mm), *([simulated] if simulated else [])]
    about += preparation_sentences(entries, split)
    if runs:
        spacing = " × ".join(f"{s:g}" for s in runs[0].config.data.grid.spacing_mm)
        about.append(
            f"Networks see a common grid of {spacing} mm; every figure is computed on each scan's native grid."
        )
    if len(runs) < len(entries):
        others = ", ".join(entry.label for entry in entries if isinstance(entry, ExternalModel))
        about.append(f"Predicted elsewhere, so that the patients it was trained on cannot be checked here: {others}.")
    return ReportContext(
        title="Intracranial arterial calcification: models compared",
        question=QUESTION,
        caveat=" ".join(filter(None, (simulated, caveat))),
        split=split,
        seed=runs[0].config.seed if runs else SEED,
        command=command,
        git=git_words(provenance.get("git") or {}),
        fingerprint=str(provenance.get("data_fingerprint", "")),
        contact_sheet=sheet if sheet.exists() else None,
        data=about,
        figures=[
            *(
                training_curves(run, label)
                for run, label in zip(runs, labels, strict=True)
                if not members_of(run.directory)
            ),
            *reconstructions(runs),
        ],
        missing=missing[0],
        mend=missing[1],
        strata=strata_from_edges(settings.thickness_edges_mm),
        run_files=[name for name in RUN_FILES.values() if all((entry.directory / name).exists() for entry in entries)],
        trainings=training_sentence(
            repeated,
            len(entries),
            len(entries) - len(runs),
            sum(bool(members_of(run.directory)) for run in runs),
        ),
    )


def report_command(entries: Sequence[Entry], out: Path, split: str, settings: EvaluationConfig) -> str:
    """How the page is made again; folders of absolute paths are left out."""
    default = EvaluationConfig()
    changed = {
        f.name: getattr(settings, f.name)
        for f in fields(settings)
        if getattr(settings, f.name) != getattr(default, f.name) and f"evaluation.{f.name}" not in OF_CALIBRATION
    }
    return " ".join(
        [
            "iac report",
            *(shown_path(entry.directory) for entry in entries),
            f"--out {shown_path(out)} --split {split}",
            *(f"evaluation.{name}={json.dumps(value).replace(' ', '')}" for name, value in changed.items()),
        ]
    )


def data_key(runs: Sequence[Run]) -> str:
    """What names of scans depend on: the prepared data; nothing where masks of other programs are all there is."""
    return str(runs[0].provenance.get("data_fingerprint", "")) if runs else ""


def track(
    entries: Mapping[str, Entry], models: Mapping[str, ModelResult], analysis: Mapping[str, Any], out: Path, split: str
) -> None:
    """Page, tables, figures and headline values to the MLflow of each run.

    Args:
        entries: name to model.
        models: name to result.
        analysis: from `analyse`.
        out: folder of the page.
        split: that it is about.
    """
    for name, entry in entries.items():
        if isinstance(entry, Run):
            tracking.log_summary(entry, headline(models[name], analysis["models"][name]), f"report/{split}")
            tracking.log_files(entry, report_files(out), out, f"report/{split}")


def headline(model: ModelResult, analysis: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a page that stand beside a run in MLflow; what is undefined is None."""
    values: dict[str, Any] = {
        "dice": model.summary["dice"]["mean"],
        "volume_icc": model.summary["volume_icc"]["value"],
        "dice_slope_per_mm": analysis["thickness"]["dice"]["slope_per_mm"]["value"],
        "detection_auc": analysis["detection"]["auc"]["value"],
        "looks": model.looks["n"] if model.looks else None,
    }
    if "risk" in analysis:
        values["risk_accuracy"] = analysis["risk"]["accuracy"]["value"]
        values["risk_kappa"] = analysis["risk"]["kappa"]["value"]
    if "conformal" in analysis:
        values["conformal_coverage"] = analysis["conformal"]["coverage"][0]["coverage"]
    return values
