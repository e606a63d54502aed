"""Evaluated runs beside each other in one page."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from data_modules.cohort import Series, read_cohort
from data_modules.ct import read_mask, read_scan
from data_modules.errors import UserError
from data_modules.geometry import Grid, Volume
from iac_lightning.callbacks import read_history
from iac_lightning.evaluation import figures
from iac_lightning.evaluation.analysis import analyse, shortage
from iac_lightning.evaluation.analysis_page import analysis_sections
from iac_lightning.evaluation.predictions import DEFAULT_THRESHOLD, calibrated, find_predictions, read_prediction
from iac_lightning.evaluation.report import ExtraFigure, ModelResult, Overlay, ReportContext, write_report
from iac_lightning.evaluation.summary import example_series, read_series_table
from iac_lightning.files import write_json_atomic
from iac_lightning.runs import Run, load_run
from iac_lightning.schema import ExperimentConfig
from iac_lightning.workflows.external import SEED, ExternalModel
from iac_lightning.workflows.external_calibration import CALIBRATION_FILE

SAME_MODEL = ("checkpoint_sha256", "threshold", "prior_threshold", "calibration")
"""What the evaluations of a model on two splits share, unless it has changed in between."""

QUESTION = "How well does each model segment and measure intracranial arterial calcification, and is one better?"


def report(entries: Sequence[Run | ExternalModel], out: Path, split: str, caveat: str = "", command: str = "") -> Path:
    """Write the page from what `iac evaluate` left in each run.

    Where every model was evaluated on the development split too, an analysis follows from it (`analysis.json`): risk
    groups, volume intervals, slopes over slice thickness, detection. The model given last is its baseline.

    Args:
        entries: evaluated segmentation runs and predictions of other programs, in the order of the tables.
        out: folder of `index.html`.
        split: which evaluation.
        caveat: what the figures cannot say.
        command: how the page is made again; by default `iac report …`.

    Returns:
        Path of the page.

    Raises:
        UserError: when a run was not evaluated on the split, or two have the same name.
    """
    runs = [entry for entry in entries if isinstance(entry, Run)]
    names = [entry.config.name if isinstance(entry, Run) else entry.label for entry in entries]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f"more than one run is called {', '.join(twice)}: give each run once, under a name of its own")
    labels = model_labels([run.config for run in runs])
    label_of = dict(zip((run.config.name for run in runs), labels, strict=True))
    models = {
        name: model_result(entry, label_of[name], split) if isinstance(entry, Run) else external_result(entry, split)
        for name, entry in zip(names, entries, strict=True)
    }
    first = entries[0]
    provenance = runs[0].provenance if runs else {}
    git = provenance.get("git") or {}
    cohort = first.cohort if isinstance(first, ExternalModel) else Path(first.config.data.cohort)
    sheet = cohort.parent / "contact_sheet.png"
    about = [cohort_sentence(read_cohort(cohort).series)]
    if runs:
        spacing = " × ".join(f"{s:g}" for s in runs[0].config.data.grid.spacing_mm)
        about.append(
            f"Networks see a common grid of {spacing} mm; every figure is computed on each scan's native grid."
        )
    if len(runs) < len(entries):
        others = ", ".join(entry.label for entry in entries if isinstance(entry, ExternalModel))
        about.append(f"Predicted elsewhere, so that the patients it was trained on cannot be checked here: {others}.")
    dev_tables, missing, mend = development(dict(zip(names, entries, strict=True)), split)
    context = ReportContext(
        title="Intracranial arterial calcification: models compared",
        question=QUESTION,
        caveat=caveat,
        split=split,
        seed=runs[0].config.seed if runs else SEED,
        command=command or f"iac report {' '.join(str(e.directory) for e in entries)} --out {out} --split {split}",
        git=" ".join([str(git.get("commit", "unknown")), "(with local changes)" if git.get("dirty") else ""]).strip(),
        fingerprint=str(provenance.get("data_fingerprint", "")),
        contact_sheet=sheet if sheet.exists() else None,
        data=about,
        figures=[
            *(training_curves(run, label) for run, label in zip(runs, labels, strict=True)),
            *reconstructions(runs),
        ],
        missing=missing,
        mend=mend,
    )
    path = out / "analysis.json"
    if not dev_tables:
        path.unlink(missing_ok=True)  # of an earlier page
        return write_report(out, models, context)
    tables = {name: model.table for name, model in models.items()}
    analysis = analyse(tables, dev_tables, baseline=names[-1] if len(names) > 1 else None, seed=context.seed)
    page = write_report(out, models, context, analysis_sections(models, dev_tables, analysis, context))
    write_json_atomic(path, analysis)
    return page


def development(
    entries: Mapping[str, Run | ExternalModel], split: str
) -> tuple[dict[str, pd.DataFrame], str, tuple[str, ...]]:
    """Tables of the development split, by which the models are analysed.

    Args:
        entries: name to evaluated model.
        split: that the page is about; on the development split itself nothing can be analysed.

    Returns:
        Name to table, or none of them; a sentence that says what is missing; the commands that make it.
    """
    if split == "dev":
        return {}, "", ()
    left_out = "Risk groups, volume intervals, slopes over slice thickness and detection per patient are left out"
    lacking = [name for name, entry in entries.items() if not has_development(entry.directory / "evaluation", split)]
    if lacking:
        sentence = (
            f"{left_out} until {' and '.join(lacking)} {'is' if len(lacking) == 1 else 'are'} evaluated on the "
            f"development split, with the weights and thresholds of the {split} split"
        )
        return {}, sentence, tuple(evaluate_command(entries[name], "dev") for name in lacking)
    tables = {name: read_series_table(entry.directory / "evaluation" / "dev.csv") for name, entry in entries.items()}
    if small := shortage(tables):
        sentence = f"{left_out} because of {small}; with more of them labelled, evaluate again"
        return {}, sentence, tuple(evaluate_command(entry, "dev") for entry in entries.values())
    return tables, "", ()


def has_development(folder: Path, split: str) -> bool:
    """Whether `evaluation/` holds the development split, predicted by the same weights and calibration as `split`."""
    if not (folder / "dev.csv").exists() or not (folder / "dev.json").exists():
        return False
    dev, other = (json.loads((folder / f"{name}.json").read_text()) for name in ("dev", split))
    return all(dev.get(key) == other.get(key) for key in SAME_MODEL)


def evaluate_command(entry: Run | ExternalModel, split: str) -> str:
    """How a model is evaluated on a split."""
    if isinstance(entry, Run):
        return f"iac evaluate {entry.directory} --split {split}"
    dev = " --dev-predictions DEV_DIR" if (entry.directory / CALIBRATION_FILE).exists() else ""
    return f"iac evaluate --predictions DIR --cohort {entry.cohort} --split {split}{dev} --out {entry.directory}"


def model_result(run: Run, label: str, split: str) -> ModelResult:
    """What the page needs of one run."""
    table, summary = evaluation(run.directory, split, evaluate_command(run, split))
    predictions = run.directory / "predictions" / split
    finished = run.finished
    return ModelResult(
        name=run.config.name,
        label=label,
        table=table,
        summary=summary,
        threshold=summary["threshold"],
        prior_threshold=summary["prior_threshold"],
        parameters=finished.get("parameters"),
        train_seconds=sum(row.get("seconds", 0) for row in read_history(run.directory / "logs" / "history.jsonl")),
        overlays=overlays(
            Path(run.config.data.cohort),
            table,
            lambda series, grid: read_mask(predictions / f"{series.series_id}_mask.nii.gz", like=grid),
        ),
    )


def external_result(model: ExternalModel, split: str) -> ModelResult:
    """What the page needs of another program's predictions."""
    again = evaluate_command(model, split)
    table, summary = evaluation(model.directory, split, again)

    def mask(series: Series, grid: Grid) -> Volume:
        calibration = summary["calibration"]
        threshold = DEFAULT_THRESHOLD if calibration else model.threshold
        found, problems = find_predictions(model.predictions[split], [series], threshold)
        if not found:
            raise UserError(f"{model.predictions[split]}: {problems[0]}; evaluate the predictions again: {again}")
        return read_prediction(calibrated(found[0], calibration) if calibration else found[0], grid)

    return ModelResult(
        name=model.label,
        label=model.label,
        table=table,
        summary=summary,
        threshold=summary["threshold"],
        prior_threshold=summary["prior_threshold"],
        overlays=overlays(model.cohort, table, mask),
    )


def evaluation(directory: Path, split: str, command: str) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Table and summary of an evaluated model.

    Raises:
        UserError: when the split was not evaluated, naming the command.
    """
    path = directory / "evaluation" / f"{split}.json"
    if not path.exists():
        raise UserError(f"{path} does not exist. Evaluate the model first: {command}")
    return read_series_table(path.with_suffix(".csv")), json.loads(path.read_text())


def model_labels(configs: Sequence[ExperimentConfig]) -> list[str]:
    """A reader's name for each model; the run's name is added where two would be called the same."""
    labels = [model_label(config) for config in configs]
    return [
        label if labels.count(label) == 1 else f"{label} ({config.name})"
        for label, config in zip(labels, configs, strict=True)
    ]


def model_label(config: ExperimentConfig) -> str:
    """Such as ``ViT, MAE pre-trained``."""
    if config.model.name == "cnn":
        return f"CNN ({config.model.cnn.encoder}, nnU-Net-style)"
    return "ViT, MAE pre-trained" if config.init_from else "ViT, from scratch"


def overlays(cohort: Path, table: pd.DataFrame, predicted: Callable[[Series, Grid], Volume]) -> list[Overlay]:
    """Best, median and worst scan of a model, label and prediction outlined.

    Args:
        cohort: table of the scans.
        table: of the evaluation.
        predicted: mask of a series on the grid of its scan.
    """
    series = {s.series_id: s for s in read_cohort(cohort).series}
    found = []
    for kind, series_id in example_series(table).items():
        item = series[series_id]
        scan = read_scan(item.image, series=item.extra.get("dicom_series") or None)
        assert item.label is not None
        dice = float(table.loc[table["series_id"] == series_id, "dice"].iloc[0])
        figure = figures.overlay_figure(
            scan.volume,
            label=read_mask(item.label, like=scan.grid),
            prediction=predicted(item, scan.grid),
            probability=None,
            title=f"{kind}: {series_id}, Dice {dice:.2f}, {item.slice_thickness_mm:g} mm slices",
        )
        found.append(Overlay(kind=kind, series_id=series_id, dice=dice, png=figures.png(figure)))
    return found


def training_curves(run: Run, label: str) -> ExtraFigure:
    """Loss and development Dice by epoch."""
    rows = pd.DataFrame(read_history(run.directory / "logs" / "history.jsonl"))
    columns = [c for c in ("train/loss_epoch", "train/loss", "dev/dice") if c in rows][-2:]
    rows["epoch"] += 1
    figure = figures.training_figure(rows[["epoch", *columns]], f"{label}; seed {run.config.seed}")
    return ExtraFigure(
        title=f"Training: {label}",
        caption="Training loss, and Dice on the native grids of the development split at its best threshold, by epoch.",
        png=figures.png(figure),
    )


def reconstructions(runs: Sequence[Run]) -> list[ExtraFigure]:
    """What the masked autoencoders behind the runs restore."""
    found = []
    for source in dict.fromkeys(run.config.init_from for run in runs if run.config.init_from):
        path = Path(source) / "figures" / "reconstruction.png"
        if path.exists():
            config = load_run(Path(source)).config
            caption = (
                f"The masked autoencoder hides {config.model.mae.mask_ratio:.0%} of the tokens and restores them; "
                "a crop of a development scan, after the last epoch."
            )
            found.append(ExtraFigure(title="Pre-training", caption=caption, png=path.read_bytes()))
    return found


def cohort_sentence(series: Sequence[Series]) -> str:
    """Patients and series of each split, and the range of slice thickness."""
    parts = []
    for split in ("pretrain", "finetune", "dev", "test"):
        rows = [s for s in series if s.split == split]
        parts.append(f"{split} {len({s.patient_id for s in rows})} patients ({len(rows)} series)")
    thickness = [s.slice_thickness_mm for s in series]
    return f"Split by patient: {', '.join(parts)}. Slices of {min(thickness):g} to {max(thickness):g} mm."
