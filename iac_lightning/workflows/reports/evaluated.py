"""Evaluated models, trained here or elsewhere: their settings, names and figures, and the look that opens them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import pandas as pd

from data_modules.cohort.look import GUARDED, RecordedLook, require_look
from data_modules.errors import UserError
from data_modules.files import sha256, shown_path
from data_modules.prepare.sources import digest
from iac_lightning.config.keys import BEFORE_STORED
from iac_lightning.config.model_schema import resolved_vit
from iac_lightning.config.reading import load_stored
from iac_lightning.config.schema import EvaluationConfig, ExperimentConfig
from iac_lightning.config.stored import NO_VALUES, OF_CALIBRATION, config_hash, decisive_settings
from iac_lightning.evaluation.calibration.record import Calibration
from iac_lightning.evaluation.clinical.risk import RiskCutoffs
from iac_lightning.evaluation.statistics.plain import without_small_intervals
from iac_lightning.evaluation.statistics.strata import strata_from_edges
from iac_lightning.evaluation.tables.series_table import read_series_table
from iac_lightning.evaluation.tables.summary import INTERVALS, read_summary, summarise
from iac_lightning.runs import directory as runs
from iac_lightning.runs.data_place import PLACES
from iac_lightning.runs.directory import Run
from iac_lightning.runs.looks import record_look
from iac_lightning.workflows.calibrate import read_calibration_file
from iac_lightning.workflows.external.calibrate import CALIBRATION_FILE
from iac_lightning.workflows.external.evaluate import WARNINGS_ENDING, ExternalModel, is_external, load_external

Entry = Run | ExternalModel


def load_entry(path: Path, overrides: Sequence[str] = (), split: str = GUARDED) -> Entry:
    """A run, or predictions of another program that were evaluated.

    Args:
        path: run directory, or folder that `iac evaluate --predictions` wrote.
        overrides: settings of the section `evaluation`, and where the data of runs lie now.
        split: whose evaluation is wanted; what its masks were cut for must be what `overrides` say of that.

    Raises:
        UserError: when it is neither, or other settings are overridden.
    """
    places = tuple(f"{key}=" for key in PLACES)
    if foreign := [override for override in overrides if not override.startswith(("evaluation.", *places))]:
        raise UserError(
            f"{', '.join(foreign)}: predictions exist already, so that only settings of evaluation can change, such as "
            "evaluation.thickness_edges_mm=[1,3]"
        )
    entry = load_external(path, overrides) if is_external(path) else runs.load_run(path, overrides)
    for override in overrides:
        if override.partition("=")[0] in OF_CALIBRATION:
            check_point(entry, override, split)
    return entry


def check_point(entry: Entry, override: str, split: str) -> None:
    """Refuse a setting of the operating point with which the masks of an evaluation were not cut.

    Args:
        entry: the model, under the setting.
        override: the setting, one of `OF_CALIBRATION`.
        split: whose masks; nothing is said of one that was not evaluated.

    Raises:
        UserError: naming the command that cuts them anew.
    """
    path = entry.directory / "evaluation" / f"{split}.json"
    if not path.exists():
        return
    key = override.partition("=")[0]
    name, given = OF_CALIBRATION[key], getattr(evaluation_settings(entry), key.removeprefix("evaluation."))
    used = used_point(entry, read_summary(path))
    if name in used and used[name] in (given, None):  # None: without a part in this choice
        return
    again = evaluate_command(entry, split)
    if isinstance(entry, ExternalModel) and "--dev-predictions" not in again:
        again += " --dev-predictions DEV_DIR"
    raise UserError(
        f"{override}: the masks of {shown_path(entry.directory)} ({split} split) were cut "
        f"{f'with {key}={used[name]}' if name in used else 'without it'}; cut them anew first: {again} {override}"
    )


def used_point(entry: Entry, summary: Mapping[str, Any]) -> dict[str, Any]:
    """What is known of the operating point that an evaluation used, named as in `calibration.json`.

    Args:
        entry: the model.
        summary: of the evaluation.
    """
    applied, known = summary.get("calibration"), applied_calibration(entry, summary)
    if known is None:
        return Calibration.from_dict(applied, "evaluation").point.to_dict() if applied else {}
    before = {OF_CALIBRATION[key]: value for key, value in BEFORE_STORED.items() if key in OF_CALIBRATION}
    return {**before, **known["operating_point"]}


def named(entries: Sequence[Entry]) -> dict[str, Entry]:
    """Name of the run, or label, to model.

    Raises:
        UserError: when two have the same.
    """
    names = [entry.config.name if isinstance(entry, Run) else entry.label for entry in entries]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f"more than one run is called {', '.join(twice)}: give each run once, under a name of its own")
    return dict(zip(names, entries, strict=True))


def evaluation_settings(entry: Entry) -> EvaluationConfig:
    """How a model is judged."""
    return entry.config.evaluation if isinstance(entry, Run) else entry.evaluation


def cohort_table(entry: Entry) -> Path:
    """The table of the cohort that a model was evaluated on."""
    return entry.cohort if isinstance(entry, ExternalModel) else Path(entry.config.data.cohort)


def shared_settings(entries: Sequence[Entry]) -> EvaluationConfig:
    """The settings of the evaluation, which must be those of every model.

    Raises:
        UserError: naming the settings that differ.
    """
    all_settings = [evaluation_settings(entry) for entry in entries]
    not_compared = (*NO_VALUES, *OF_CALIBRATION)
    deciding = [f.name for f in fields(EvaluationConfig) if f"evaluation.{f.name}" not in not_compared]
    differing = [name for name in deciding if len({getattr(s, name) for s in all_settings}) > 1]
    if differing:
        given = " ".join(f"evaluation.{name}=…" for name in differing)
        raise UserError(
            f"the models have different settings of evaluation ({', '.join(differing)}), and they are compared under "
            f"one of them. Say which: {given}"
        )
    return all_settings[0]


def fixed_cutoffs(settings: EvaluationConfig, where: str = "the settings") -> RiskCutoffs | None:
    """Risk cut-offs that were fixed in advance (`where`); None: from the labels of the development split."""
    if settings.risk_cutoffs_mm3 is None:
        return None
    none, low, medium = settings.risk_cutoffs_mm3
    return RiskCutoffs(none_mm3=none, low_mm3=low, medium_mm3=medium, source=f"fixed in {where}")


def check_evaluated(entry: Entry, split: str) -> None:
    """Refuse a model without evaluation.

    Raises:
        UserError: naming the command.
    """
    path = entry.directory / "evaluation" / f"{split}.json"
    if not path.exists():
        raise UserError(f"{path} does not exist. Evaluate the model first: {evaluate_command(entry, split)}")


def look_at(entry: Entry, what: str, split: str) -> RecordedLook | None:
    """Record that an evaluated model is looked at, where the split is guarded; the caller ends it (`end_look`).

    Args:
        entry: the model.
        what: looks: report, compare, …
        split: which evaluation.
    """
    if split != GUARDED:
        return None
    seen = evaluated_digest(entry.directory)
    if isinstance(entry, ExternalModel):
        return record_look(entry.directory, what, split, entry.look_hash, None, seen)
    summary = json.loads((entry.directory / "evaluation" / f"{split}.json").read_text(encoding="utf-8"))
    settings = config_hash(entry.config, "inference", "evaluation")
    return record_look(entry.directory, what, split, settings, summary.get("checkpoint_sha256"), seen)


def evaluated_digest(directory: Path) -> str:
    """Digest of the tables and summaries that a model's evaluations have written."""
    files = sorted(path for path in (directory / "evaluation").iterdir() if path.suffix in (".csv", ".json"))
    return digest([[path.name, sha256(path)] for path in files])


def evaluation(entry: Entry, split: str, look: RecordedLook | None) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Table and summary of an evaluated model, by the strata of slice thickness of its settings now.

    Raises:
        TestSetGuardError: for the test split without a look on record.
    """
    require_look((split,), look, "evaluation")
    path = entry.directory / "evaluation" / f"{split}.json"
    table, summary = read_series_table(path.with_suffix(".csv")), read_summary(path)
    edges = list(evaluation_settings(entry).thickness_edges_mm)
    if summary.get("thickness_edges_mm") != edges or summary.get("intervals") != INTERVALS:
        # Other strata, or intervals of an earlier version, which did not hold for few patients: made again, but for
        # those of controls, which rest on another table.
        summary = without_small_intervals(summary)
        strata = strata_from_edges(edges)
        summary |= summarise(table, split=split, threshold=summary["threshold"], thickness_strata=strata)
    return table, summary


def applied_calibration(entry: Entry, summary: Mapping[str, Any]) -> dict[str, Any] | None:
    """The calibration that an evaluation applied; None without one, and where the model has another one by now.

    Args:
        entry: the model.
        summary: of the evaluation.
    """
    applied = summary.get("calibration")
    if not applied:
        return None
    path = entry.directory / CALIBRATION_FILE
    known = read_calibration_file(path, evaluate_command(entry, "dev"))
    if any(applied.get(key) != known.get(key) for key in ("checkpoint_sha256", "depends_on")):
        return None
    then, now = Calibration.from_dict(applied, "evaluation"), Calibration.from_dict(known, path)
    return now.to_dict() if (then.scaling, then.point) == (now.scaling, now.point) else None


def warnings_file(folder: Path, split: str) -> Path:
    """Where an evaluation says which warnings its scans carry; earlier ones have none.

    Args:
        folder: `evaluation/` of a model.
        split: that was evaluated.
    """
    return folder / f"{split}{WARNINGS_ENDING}"


def evaluate_command(entry: Entry, split: str) -> str:
    """How a model is evaluated on a split."""
    folder = shown_path(entry.directory)
    if isinstance(entry, Run):
        return f"iac evaluate {folder} --split {split}"
    dev = " --dev-predictions DEV_DIR" if (entry.directory / CALIBRATION_FILE).exists() else ""
    return f"iac evaluate --predictions DIR --cohort {shown_path(entry.cohort)} --split {split}{dev} --out {folder}"


def pretraining_settings(config: ExperimentConfig, sources: Sequence[Path] = ()) -> dict[str, Any] | None:
    """Decisive settings of the pre-training that a run began with; None where there is none, or it is not at hand.

    Args:
        config: of the run.
        sources: folders where the pre-training may lie, looked at before the one that the run names.
    """
    for folder in [*sources, Path(config.init_from)] if config.init_from else []:
        if (folder / "config.yaml").is_file():
            return decisive_settings(load_stored(folder / "config.yaml"))
    return None


def model_labels(configs: Sequence[ExperimentConfig]) -> list[str]:
    """A reader's name for each model; the run's name is added where two would be called the same."""
    labels = [model_label(config) for config in configs]
    return [
        label if labels.count(label) == 1 else f"{label} ({config.name})"
        for label, config in zip(labels, configs, strict=True)
    ]


def model_label(config: ExperimentConfig) -> str:
    """Such as ``ViT, MAE pre-trained``, and what it is told beside the image."""
    words = " and ".join(config.model.condition_on).replace("_", " ")
    told = f", told {words}" if words else ""
    by_whom = "pre-trained elsewhere" if config.init_from_licence else "MAE pre-trained"
    begun = f", {by_whom}" if config.init_from else ""
    if config.model.name == "rule":
        return f"Rule: {config.model.rule.threshold_hu:g} HU and place"
    if config.model.name == "cnn":
        return f"CNN ({config.model.cnn.encoder}, nnU-Net-style){begun}{told}"
    if not resolved_vit(config.model.vit)[1]:
        return f"ViT without transformer{begun}{told}"
    return f"ViT{begun or ', from scratch'}{told}"
