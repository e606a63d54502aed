"""Predictions of another program against the labels of a split, in the same table and form as those of a run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from data_modules.cohort.look import GUARDED
from data_modules.cohort.table import Cohort, Series, read_cohort
from data_modules.errors import UserError
from data_modules.files import write_json_atomic
from data_modules.prepare.sources import digest, sources_digest
from data_modules.prepare.warnings import summarise_warnings
from data_modules.processes import mapped
from iac_lightning.config.reading import from_dict
from iac_lightning.config.schema import EvaluationConfig
from iac_lightning.evaluation.calibration.held_out import describe_reliability, reliability_of_scans
from iac_lightning.evaluation.calibration.record import APPLIED, Calibration
from iac_lightning.evaluation.statistics.strata import strata_from_edges
from iac_lightning.evaluation.tables.series_table import series_table, write_series_table
from iac_lightning.evaluation.tables.summary import summarise, write_summary
from iac_lightning.runs.looks import count_looks, end_look, record_look
from iac_lightning.workflows.external.calibrate import CALIBRATION_FILE, calibrate_predictions
from iac_lightning.workflows.external.predictions import (
    EXTERNAL_CUT,
    Measured,
    Prediction,
    find_predictions,
    measure_prediction,
    raise_all,
)
from iac_lightning.workflows.external.registered import prediction_files, registered, with_findings
from iac_lightning.workflows.guard import keep_signed

MODEL_FILE = "model.json"
"""In a folder of evaluated predictions: what `iac report` needs to know of the model."""

WARNINGS_ENDING = "_warnings.json"
"""Beside the table of an evaluation: which warnings its scans carry (`data_modules.prepare.warnings`)."""

SEED = 0
"""Of the sample that is fitted."""


@dataclass(frozen=True)
class ExternalModel:
    """A model that this project did not train, and where its evaluation lies.

    Attributes:
        directory: holds `model.json` and `evaluation/`.
        label: how a reader knows it.
        predictions: folder of its files by split.
        cohort: table of the labels.
        threshold: as given to `evaluate_predictions`.
        evaluation: settings of its evaluation.
    """

    directory: Path
    label: str
    predictions: dict[str, Path]
    cohort: Path
    threshold: float | None
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)

    @property
    def look_hash(self) -> str:
        """Of what decides the values, as far as it is known here; for the record of looks."""
        known = [self.label, self.threshold, asdict(self.evaluation)]
        return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()[:12]


def evaluate_predictions(
    predictions: Path,
    cohort_path: Path,
    split: str,
    out: Path | None = None,
    *,
    threshold: float | None = None,
    dev_predictions: Path | None = None,
    label: str = "",
    workers: int = 2,
    evaluation: EvaluationConfig | None = None,
) -> dict[str, Any]:
    """Measure a folder of predictions on native grids; write `evaluation/<split>.csv`, `.json` and `model.json`.

    Values are those of `iac evaluate` for a run. With `dev_predictions` so are temperature, bias and operating point
    (`external.calibrate`; writes `calibration.json`). Without, the protocol is applied to the predicted mask. Whether
    the model learnt from these patients cannot be checked here. A look at the test split is recorded before it is read.

    Args:
        predictions: files named after the series (`iac_lightning.workflows.external.predictions`).
        cohort_path: the cohort table.
        split: which series; every one needs exactly one prediction.
        out: folder to write to; by default the predictions' own.
        threshold: for probabilities (0.5 where only those are there); without it masks are preferred.
        dev_predictions: probabilities of the development split, to calibrate those of `predictions` by.
        label: name of the model; by default that of the folder.
        workers: processes; each holds one series at a time.
        evaluation: strata of slice thickness; by default the schema's.

    Returns:
        The summary, as in the JSON.

    Raises:
        UserError: one that lists all missing, extra, unreadable, wrongly shaped or shifted predictions.
    """
    predictions = Path(predictions).absolute()
    check_arguments(predictions, threshold, dev_predictions)
    cohort = read_cohort(cohort_path)
    series = labelled_series(cohort, split)
    directory = Path(out).absolute() if out else predictions
    settings = evaluation or EvaluationConfig()
    model = ExternalModel(directory, label or predictions.name, {}, cohort.path, threshold, settings)
    folders = (predictions, Path(dev_predictions).absolute() if dev_predictions else None)
    look = None
    if split == GUARDED:
        sources = sources_digest(cohort.split("dev", split), cohort.path.parent)
        seen = digest([sources, *(files_state(folder) for folder in folders if folder)])
        look = record_look(directory, "evaluate", split, model.look_hash, None, seen)
    chosen, problems = find_predictions(predictions, series, EXTERNAL_CUT if dev_predictions else threshold)
    raise_all(problems, predictions, len(series), split)
    calibration = None
    if folders[1]:
        calibration = calibrate_predictions(
            folders[1],
            labelled_series(cohort, "dev"),
            directory,
            label=model.label,
            seed=SEED,
            workers=workers,
            settings=settings,
        )
        chosen = [replace(prediction, calibration=calibration) for prediction in chosen]
    guard = registered(directory, (model.label, model.look_hash), cohort, series, look, folders, workers)
    results = [row for _, row in mapped(partial(measure_prediction, look=look), chosen, workers, split, "scan")]
    measured = without_problems(results, predictions, split)
    table = series_table([r.row for r in measured])
    summary = {
        **summarise_predictions(model, table, split, chosen, calibration),
        "reliability": calibration and held_out_reliability(chosen, measured),
        **({"test_looks": count_looks(directory)} if look else {}),
        **with_findings(guard, table, threshold),
    }
    write_series_table(table, directory / "evaluation" / f"{split}.csv")
    write_summary(summary, directory / "evaluation" / f"{split}.json")
    remarks_file = directory / "evaluation" / f"{split}{WARNINGS_ENDING}"
    write_json_atomic(remarks_file, summarise_warnings([r.warnings for r in measured]))
    write_external(model, split, predictions)
    keep_signed(directory, split, cohort, look, also=(CALIBRATION_FILE,) if calibration else ())
    end_look(look)
    return summary


def without_problems(results: Sequence[Measured | str], predictions: Path, split: str) -> list[Measured]:
    """What was measured.

    Raises:
        UserError: one that lists all problems, where there are any.
    """
    raise_all([r for r in results if isinstance(r, str)], predictions, len(results), split)
    return [r for r in results if not isinstance(r, str)]


def held_out_reliability(predictions: Sequence[Prediction], measured: Sequence[Measured]) -> dict[str, Any]:
    """How well the calibrated probabilities agree with the labels of the split."""
    scans = [(m.sums, p.series.patient_id) for p, m in zip(predictions, measured, strict=True) if m.sums]
    return reliability_of_scans([sums for sums, _ in scans], [patient for _, patient in scans])


def files_state(folder: Path) -> list[list[Any]]:
    """Names, sizes and times of the predictions in a folder."""
    return [[path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in prediction_files(folder)]


def check_arguments(predictions: Path, threshold: float | None, dev_predictions: Path | None) -> None:
    """Refuse what `evaluate_predictions` cannot do.

    Raises:
        UserError: for a threshold out of range or beside predictions to choose one by, and for a missing folder.
    """
    if threshold is not None and not 0 < threshold <= 1:
        raise UserError(f"threshold {threshold}: expected a probability above 0, at most 1")
    if threshold is not None and dev_predictions is not None:
        raise UserError(f"threshold {threshold} and predictions to choose one by were given; expected one of the two")
    for folder in (predictions, dev_predictions):
        if folder is not None and not folder.is_dir():
            raise UserError(f"{folder}: no such folder. Expected the NIfTI files of predictions, named after series.")


def summarise_predictions(
    model: ExternalModel,
    table: pd.DataFrame,
    split: str,
    predictions: Sequence[Prediction],
    calibration: Calibration | None,
) -> dict[str, Any]:
    """The summary of an evaluation, in the form of a run's.

    Args:
        model: whose predictions they are.
        table: a row a series (`series_table`).
        split: that was evaluated.
        predictions: that were measured, at least one.
        calibration: that was applied.
    """
    used = sorted({p.threshold for p in predictions if p.threshold is not None})
    given = used[0] if used else None
    return {
        "run": model.label,
        **summarise(
            table,
            split=split,
            threshold=calibration.point.thresholds.general if calibration else given,
            thickness_strata=strata_from_edges(model.evaluation.thickness_edges_mm),
        ),
        "plain_threshold": calibration.plain.general if calibration else given,
        "predictions": {
            "folder": str(predictions[0].path.parent),
            "n_masks": sum(p.threshold is None for p in predictions),
            "n_probabilities": sum(p.threshold is not None for p in predictions),
            "trained_on": None,
        },
        "calibration": calibration and {"file": CALIBRATION_FILE, **calibration.facts(APPLIED)},
        "checkpoint_sha256": None,
        "data_fingerprint": None,
        "failed_series": [],
    }


def labelled_series(cohort: Cohort, split: str) -> tuple[Series, ...]:
    """The series of a split, each with a label.

    Raises:
        UserError: when there is none, or one has no label.
    """
    series = cohort.split(split)
    unlabelled = [s.series_id for s in series if s.label is None]
    if unlabelled or not series:
        raise UserError(
            f"{cohort.path}: split '{split}' has {len(series)} series, {len(unlabelled)} of them without label "
            f"({', '.join(unlabelled[:5])}). Evaluation needs labels (an empty mask counts as one)."
        )
    return series


def is_external(directory: Path) -> bool:
    """Whether a folder holds evaluated predictions rather than a run."""
    return (Path(directory) / MODEL_FILE).is_file()


def load_external(directory: Path, overrides: Sequence[str] = ()) -> ExternalModel:
    """What `evaluate_predictions` wrote about the model.

    Args:
        directory: holds `model.json`.
        overrides: settings of the section `evaluation`.

    Raises:
        UserError: when `model.json` is damaged.
    """
    path = Path(directory) / MODEL_FILE
    try:
        known: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        threshold = known["threshold"]
        if threshold is not None and not (type(threshold) in (int, float) and 0 <= threshold <= 1):
            raise UserError(f"{path}: threshold {threshold!r}, expected a number from 0 to 1, or null")
        return ExternalModel(
            directory=Path(directory),
            label=str(known["label"]),
            predictions={split: Path(folder) for split, folder in known["predictions"].items()},
            cohort=Path(known["cohort"]),
            threshold=threshold,
            evaluation=external_settings(known.get("evaluation") or {}, overrides),
        )
    except UserError:
        raise
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise UserError(f"{path}: not what evaluation writes ({error}); evaluate the predictions again") from None


def write_external(model: ExternalModel, split: str, predictions: Path) -> None:
    """Write `model.json`, from which `load_external` makes the model again; splits evaluated earlier stay in it."""
    known = load_external(model.directory).predictions if is_external(model.directory) else {}
    write_json_atomic(
        model.directory / MODEL_FILE,
        {
            "label": model.label,
            "predictions": {name: str(path) for name, path in {**known, split: predictions}.items()},
            "cohort": str(model.cohort),
            "threshold": model.threshold,
            "evaluation": asdict(model.evaluation),
        },
    )


def external_settings(known: Mapping[str, Any] | None = None, overrides: Sequence[str] = ()) -> EvaluationConfig:
    """Settings of the evaluation of predictions: what was known of them, and what is said now.

    Args:
        known: as `model.json` holds them; what it lacks is what programs did before they wrote it. None: there is no
            such file yet, and the defaults of now hold.
        overrides: what is said now.

    Raises:
        UserError: for anything but `evaluation.key=value`.
    """
    foreign = [override for override in overrides if not override.startswith("evaluation.")]
    if foreign:
        raise UserError(f"{', '.join(foreign)}: predictions take settings of the section evaluation only")
    stored = asdict(EvaluationConfig()) if known is None else dict(known)
    return from_dict({"name": "external", "evaluation": stored}, MODEL_FILE, overrides).evaluation


def describe_predictions(summary: dict[str, Any]) -> str:
    """The summary in a few lines, for the terminal."""
    from iac_lightning.report.words import estimate

    at = "masks" if summary["threshold"] is None else f"threshold {summary['threshold']:g}"
    if summary["calibration"]:
        at += f" of probabilities calibrated on {summary['calibration']['n_series']} development scans"
    lines = [
        f"{summary['run']}, {summary['split']}: {summary['n_series']} scans of {summary['n_patients']} patients ({at})"
    ]
    for name, values in (("after the annotation protocol", summary), ("threshold alone", summary["plain"])):
        parts = (f"{k} {estimate(values[k])}" for k in ("dice", "nsd_1mm", "lesion_f1", "volume_icc"))
        lines.append(f"  {name}: {'; '.join(parts)}")
        lines.append(
            f"    empty prediction: {values['n_both_empty']} without and {values['n_missed']} with lesions; "
            f"false alarms: {values['n_false_alarm']} of {summary['n_lesion_free']}"
        )
    lines += describe_reliability(summary.get("reliability"))
    return "\n".join([*lines, *(f"  attention: {text}" for text in summary.get("guard", {}).get("findings", ()))])
