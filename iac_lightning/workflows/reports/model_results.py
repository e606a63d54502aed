"""What the page of a report needs of each model: values, examples, training curves."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from data_modules.cohort.folds import cohort_of
from data_modules.cohort.look import RecordedLook, read_label
from data_modules.cohort.series import read_series
from data_modules.cohort.table import Series
from data_modules.errors import UserError
from data_modules.scan.geometry import Volume
from data_modules.scan.nifti import read_mask, read_probability
from data_modules.scan.scan import Scan
from iac_lightning.evaluation.calibration.record import Calibration
from iac_lightning.evaluation.tables.model_result import ModelResult
from iac_lightning.evaluation.tables.series_table import example_series
from iac_lightning.figures.models import training_figure
from iac_lightning.figures.scans import overlay_figure
from iac_lightning.figures.style import png
from iac_lightning.modules.callbacks import read_history
from iac_lightning.modules.probe import describe_pretraining
from iac_lightning.report.page import ExtraFigure, Overlay
from iac_lightning.runs.directory import Run, load_run
from iac_lightning.runs.looks import count_looks
from iac_lightning.workflows.external.evaluate import ExternalModel
from iac_lightning.workflows.external.predictions import EXTERNAL_CUT, find_predictions, read_prediction
from iac_lightning.workflows.prediction_files import MASK_ENDING, PLAIN_MASK_ENDING
from iac_lightning.workflows.reports.evaluated import Entry, applied_calibration, evaluate_command, evaluation


def model_result(run: Run, label: str, split: str, look: RecordedLook | None) -> ModelResult:
    """What the page needs of one run.

    Args:
        run: evaluated on the split.
        label: how the reader knows it.
        split: which evaluation.
        look: needed for the test split.
    """
    table, summary = evaluation(run, split, look)
    return ModelResult(
        name=run.config.name,
        label=label,
        table=table,
        summary=summary,
        threshold=summary["threshold"],
        plain_threshold=summary["plain_threshold"],
        parameters=run.finished.get("parameters"),
        train_seconds=sum(row.get("seconds", 0) for row in read_history(run.directory / "logs" / "history.jsonl")),
        looks=count_looks(run.directory) if look else None,
        calibration=applied_calibration(run, summary),
        convolutional_tokens=run.config.model.name == "vit" and run.config.model.vit.tokeniser == "conv",
    )


def external_result(model: ExternalModel, split: str, look: RecordedLook | None) -> ModelResult:
    """What the page needs of another program's predictions; arguments as for `model_result`."""
    table, summary = evaluation(model, split, look)
    return ModelResult(
        name=model.label,
        label=model.label,
        table=table,
        summary=summary,
        threshold=summary["threshold"],
        plain_threshold=summary["plain_threshold"],
        looks=count_looks(model.directory) if look else None,
        calibration=applied_calibration(model, summary),
    )


def overlays(
    entry: Entry,
    model: ModelResult,
    series: Mapping[str, Series],
    names: Mapping[str, str],
    split: str,
    look: RecordedLook | None,
) -> list[Overlay]:
    """Best, median and worst scan of a model, label and prediction outlined.

    Args:
        entry: evaluated model.
        model: its result.
        series: by id, of the cohort.
        names: series to what it is called on the page.
        split: which evaluation.
        look: needed for series of the test split.
    """
    examples = []
    for kind, series_id in example_series(model.table).items():
        item = series[series_id]
        row = model.table[model.table["series_id"] == series_id].iloc[0]
        scan = replace(read_series(item), slice_thickness_mm=float(row["slice_thickness_mm"]))
        dice = float(row["dice"])
        figure = overlay_figure(
            scan.volume,
            label=read_label(item, like=scan, look=look),
            prediction=predicted_mask(entry, model.summary, split, item, scan),
            probability=None,
            title=f"{kind}: {names[series_id]}, Dice {dice:.2f}, {row['slice_thickness_mm']:g} mm slices",
        )
        examples.append(Overlay(kind=kind, scan=names[series_id], dice=dice, png=png(figure)))
    return examples


def predicted_mask(entry: Entry, summary: Mapping[str, Any], split: str, series: Series, scan: Scan) -> Volume:
    """The result of an evaluated model: its mask after the annotation protocol.

    Args:
        entry: the model.
        summary: of the evaluation, with its calibration.
        split: which evaluation.
        series: whose prediction.
        scan: of the series, of the slice thickness that decided.

    Raises:
        UserError: when the prediction of another program is gone.
    """
    applied = summary.get("calibration")
    calibration = Calibration.from_dict(applied, f"evaluation/{split}.json") if applied else None
    if isinstance(entry, Run):
        stem = entry.directory / "predictions" / split / series.series_id
        if calibration is None or Path(f"{stem}{PLAIN_MASK_ENDING}").exists():
            return read_mask(Path(f"{stem}{MASK_ENDING}"), like=scan.grid)
        # evaluated before operating points, when the result was measured and not written
        probability = read_probability(Path(f"{stem}_probability.nii.gz"), like=scan.grid)
        return calibration.masks(probability, scan.volume, scan.slice_thickness_mm).mask
    threshold = EXTERNAL_CUT if calibration else entry.threshold
    predictions, problems = find_predictions(entry.predictions[split], [series], threshold)
    if not predictions:
        again = evaluate_command(entry, split)
        raise UserError(f"{entry.predictions[split]}: {problems[0]}; evaluate the predictions again: {again}")
    return read_prediction(replace(predictions[0], calibration=calibration), scan)


def training_curves(run: Run, label: str) -> ExtraFigure:
    """Loss and development Dice by epoch."""
    rows = pd.DataFrame(read_history(run.directory / "logs" / "history.jsonl"))
    columns = [c for c in ("train/loss_epoch", "train/loss", "dev/dice") if c in rows][-2:]
    rows["epoch"] += 1
    series = cohort_of(run.config.data).series
    sizes = [_size([s for s in series if s.split == split], split) for split in ("finetune", "dev")]
    origin = f"{' and '.join(sizes)}, seed {run.config.seed}"
    figure = training_figure(rows[["epoch", *columns]], f"{label}; seed {run.config.seed}")
    return ExtraFigure(
        name=f"training_{_file_name(run)}",
        title=f"Training: {label}",
        caption="Training loss, and Dice on the native grids of the development split at its best threshold, by epoch.",
        png=png(figure),
        source=origin,
        alt=f"{label}: {'; '.join(_course(rows, column) for column in columns)}.",
    )


def _course(rows: pd.DataFrame, column: str) -> str:
    """Where a curve begins and ends."""
    known = rows[["epoch", column]].dropna()
    if known.empty:
        return f"no {column}"
    first, last = known.iloc[0], known.iloc[-1]
    return (
        f"{column} from {first[column]:.3g} after epoch {first['epoch']:.0f} to {last[column]:.3g} after epoch "
        f"{last['epoch']:.0f}"
    )


def reconstructions(runs: Sequence[Run]) -> list[ExtraFigure]:
    """What the masked autoencoders behind the runs restore."""
    pictures = []
    for source in dict.fromkeys(run.config.init_from for run in runs if run.config.init_from):
        path = Path(source) / "figures" / "reconstruction.png"
        if path.exists():
            run = load_run(Path(source))
            caption = (
                f"The masked autoencoder hides {run.config.model.mae.mask_ratio:.0%} of the tokens and restores them; "
                "a crop of a development scan, after the last epoch."
            )
            rows = read_history(run.directory / "logs" / "history.jsonl")
            if measured := describe_pretraining(rows[-1] if rows else {}):
                caption += f" {measured[0].upper()}{measured[1:]}."
            pictures.append(
                ExtraFigure(
                    name=f"reconstruction_{_file_name(run)}",
                    title="Pre-training",
                    caption=caption,
                    png=path.read_bytes(),
                    source=f"1 crop of 1 scan, dev split, seed {run.config.seed}",
                    command=" ".join(["iac", *(run.provenance.get("command") or ["", "pretrain", "…"])[1:]]),
                )
            )
    return pictures


def _size(series: Sequence[Series], split: str) -> str:
    return f"{len(series)} scans of {len({s.patient_id for s in series})} patients, {split} split"


def _file_name(run: Run) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "_", run.config.name)
