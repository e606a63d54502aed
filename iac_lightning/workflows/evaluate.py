"""A trained run against the labels of a split, on native grids."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from data_modules.cohort import check_unseen, split_salt
from data_modules.ct import read_mask, read_probability, read_scan, write_nifti
from data_modules.errors import UserError
from data_modules.geometry import Grid, Volume, place
from data_modules.store import PreparedSeries, PreparedStore, prepare_cohort
from iac_lightning import tracking
from iac_lightning.checkpoint import load_checkpoint
from iac_lightning.evaluation.lesions import protocol_prior
from iac_lightning.evaluation.overlap import series_metrics
from iac_lightning.evaluation.report import estimate
from iac_lightning.evaluation.summary import series_row, series_table, summarise, write_series_table, write_summary
from iac_lightning.evaluation.threshold import DEFAULT_THRESHOLDS, choose_threshold, dice_at_thresholds
from iac_lightning.files import write_json_atomic
from iac_lightning.inference import predict_prepared
from iac_lightning.models.build import build_model
from iac_lightning.runs import Run


@dataclasses.dataclass(frozen=True)
class TrainedModel:
    """A network with its best weights, ready to predict.

    Attributes:
        run: where it comes from.
        network: in evaluation mode, on `device`.
        device: where it computes.
        checkpoint_sha256: first 16 hex digits of the checkpoint file's hash: which weights these are.
        trained_on: whom it has seen, as salted hashes.
    """

    run: Run
    network: nn.Module
    device: torch.device
    checkpoint_sha256: str
    trained_on: list[dict[str, Any]]


def load_trained(run: Run) -> TrainedModel:
    """The best checkpoint of a finished segmentation run.

    Raises:
        UserError: when the run is a pre-training or has no checkpoint.
    """
    if run.config.task != "segment":
        raise UserError(f"{run.directory} is a pre-training; evaluate or predict with a run of `iac finetune`.")
    path = run.best_checkpoint
    if path is None:
        raise UserError(f"{run.directory} has no checkpoint yet. Train it first: iac finetune …")
    checkpoint = load_checkpoint(path)
    network = build_model(run.config)
    state = {k.removeprefix("model."): v for k, v in checkpoint["state_dict"].items() if k.startswith("model.")}
    network.load_state_dict(state)
    device = torch.device("cuda" if torch.cuda.is_available() and run.config.trainer.accelerator != "cpu" else "cpu")
    return TrainedModel(run, network.to(device).eval(), device, file_digest(path), checkpoint["iac"]["trained_on"])


def file_digest(path: Path) -> str:
    """First 16 hex digits of a file's SHA-256."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def evaluate(run: Run, split: str) -> dict[str, Any]:
    """Predict a split, write its NIfTI files, `evaluation/<split>.csv` and `<split>.json`, and track the figures.

    The threshold is the one that is best on the development split, chosen once for these weights.
    A run that was killed here goes on with the scans that are missing.

    Returns:
        The summary, as in the JSON.
    """
    if run.config.trainer.threads:
        torch.set_num_threads(run.config.trainer.threads)
    model = load_trained(run)
    store = prepare_cohort(run.config.data, tuple(dict.fromkeys(("dev", split))))
    refuse_known_patients(store.split("dev", split), model)
    thresholds = development_thresholds(model, store)
    series = labelled(store.split(split), split)
    rows = [
        evaluate_series(model, item, split, thresholds)
        for item in tqdm(series, desc=f"{run.config.name}: {split}", unit="scan", disable=None)
    ]
    table = series_table(rows)
    summary = {
        "run": run.config.name,
        **summarise(table, run.config.seed, split=split, threshold=thresholds["threshold"]),
        "prior_threshold": thresholds["prior_threshold"],
        "thresholds_chosen_on": thresholds,
        "checkpoint_sha256": model.checkpoint_sha256,
        "data_fingerprint": store.fingerprint,
        "failed_series": store.failed,
    }
    folder = run.directory / "evaluation"
    write_series_table(table, folder / f"{split}.csv")
    write_summary(summary, folder / f"{split}.json")
    tracking.log_summary(run, summary, split)
    return summary


def refuse_known_patients(series: Sequence[PreparedSeries], model: TrainedModel) -> None:
    """The leakage guard: nobody who trained this model may be used to choose its threshold or judge it."""
    salt = split_salt(model.run.config.data.cohort)
    for record in model.trained_on:
        warning = check_unseen({s.series.patient_id for s in series}, record, salt)
        if warning:
            print(f"warning: {warning}")


def labelled(series: tuple[PreparedSeries, ...], split: str) -> tuple[PreparedSeries, ...]:
    """The same series, after a check that each has a label.

    Raises:
        UserError: listing those without.
    """
    missing = [s.series.series_id for s in series if s.series.label is None]
    if missing or not series:
        raise UserError(
            f"split '{split}' has {len(series)} series, {len(missing)} of them without label"
            + (f" ({', '.join(missing[:5])} …)" if missing else "")
            + ". Evaluation needs labels: fill the label column of the cohort table (an empty mask counts as a label)."
        )
    return series


def development_thresholds(model: TrainedModel, store: PreparedStore) -> dict[str, Any]:
    """Thresholds with the best mean native-grid Dice over development scans with lesions.

    One for the plain mask (``threshold``) and one for the mask after the protocol prior (``prior_threshold``). Kept
    in `evaluation/threshold.json`; chosen anew only for other weights, settings or data.
    """
    path = threshold_file(model.run)
    series = labelled(store.split("dev"), "dev")
    keys = [prediction_key(model, item) for item in series]
    key = {"checkpoint_sha256": model.checkpoint_sha256, "depends_on": digest(keys)}
    if path.exists():
        known: dict[str, Any] = json.loads(path.read_text())
        if {k: known.get(k) for k in key} == key:
            return known
    scores, prior_scores, lesions = [], [], []
    for item in tqdm(series, desc=f"{model.run.config.name}: threshold on dev", unit="scan", disable=None):
        probability = native_probability(model, item)
        label = np.asarray(item.native_label()) > 0
        hu = Volume(np.asarray(item.native_hu()), item.native_grid)
        scores.append(dice_at_thresholds(probability, label))
        prior_scores.append(dice_at_thresholds(probability, label, hu=hu))
        lesions.append(bool(label.any()))
    threshold, dice = choose_threshold(np.array(scores), DEFAULT_THRESHOLDS, lesions)
    prior_threshold, prior_dice = choose_threshold(np.array(prior_scores), DEFAULT_THRESHOLDS, lesions)
    chosen = {
        "threshold": threshold,
        "dice": dice,
        "prior_threshold": prior_threshold,
        "prior_dice": prior_dice,
        "split": "dev",
        "n_series": len(series),
        "n_with_lesion": sum(lesions),
        **key,
    }
    write_json_atomic(path, chosen)
    return chosen


def threshold_file(run: Run) -> Path:
    """Where the thresholds of a run are kept."""
    return run.directory / "evaluation" / "threshold.json"


def digest(value: Any) -> str:
    """First 16 hex digits of the hash of something that JSON can hold."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def native_probability(model: TrainedModel, series: PreparedSeries) -> Volume:
    """Probability on the native grid of the series' region of interest."""
    return predict_prepared(model.network, series, model.run.config, model.device)


def evaluate_series(
    model: TrainedModel, item: PreparedSeries, split: str, thresholds: dict[str, Any]
) -> dict[str, Any]:
    """Predict one series (or read its saved prediction), write it on the scan's own grid and measure it there."""
    series = item.series
    folder = model.run.directory / "predictions" / split
    stem = folder / series.series_id
    scan = read_scan(series.image, series=series.extra.get("dicom_series") or None)
    assert series.label is not None
    label = read_mask(series.label, like=scan.grid)
    probability = saved_probability(model, item, stem, scan.grid)
    if probability is None:
        probability = place(native_probability(model, item), scan.grid, 0.0)
        write_nifti(probability, Path(f"{stem}_probability.nii.gz"))
        write_json_atomic(Path(f"{stem}.json"), prediction_key(model, item))
    prediction = probability.with_data(probability.data >= thresholds["threshold"])
    write_nifti(prediction, Path(f"{stem}_mask.nii.gz"))
    prior = None
    if model.run.config.inference.protocol_prior:
        bright = probability.with_data(probability.data >= thresholds["prior_threshold"])
        prior = series_metrics(protocol_prior(bright, scan.volume), label, scan)
    return series_row(
        series.series_id,
        series.patient_id,
        series.slice_thickness_mm,
        series_metrics(prediction, label, scan),
        prior,
        series.true_volume_mm3,
    )


def prediction_key(model: TrainedModel, item: PreparedSeries) -> dict[str, Any]:
    """What a saved prediction depends on."""
    config = model.run.config
    settings = {"grid": dataclasses.asdict(config.data.grid), "inference": dataclasses.asdict(config.inference)}
    settings["restrict_hu"] = config.loss.restrict_hu
    return {
        "checkpoint_sha256": model.checkpoint_sha256,
        "source_sha256": item.source_sha256,
        "settings_sha256": digest(settings),
    }


def saved_probability(model: TrainedModel, item: PreparedSeries, stem: Path, grid: Grid) -> Volume | None:
    """A prediction that an earlier call wrote with the same weights and settings."""
    key, image = Path(f"{stem}.json"), Path(f"{stem}_probability.nii.gz")
    if not (key.exists() and image.exists()) or json.loads(key.read_text()) != prediction_key(model, item):
        return None
    return read_probability(image, like=grid)


def trained_thresholds(model: TrainedModel) -> dict[str, Any]:
    """The thresholds that belong to these weights, for scans outside the cohort.

    Raises:
        UserError: when they were never chosen: a run must be evaluated on its development split first.
    """
    path = threshold_file(model.run)
    known: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    if known.get("checkpoint_sha256") != model.checkpoint_sha256:
        raise UserError(
            f"{path}: no threshold was chosen for these weights. Run: iac evaluate {model.run.directory} --split dev"
        )
    return known


def describe(summary: dict[str, Any]) -> str:
    """The summary in a few lines, for the terminal."""
    lines = [f"{summary['run']}, {summary['split']}: {summary['n_series']} scans of {summary['n_patients']} patients"]
    for name, figures in (("plain", summary), ("after the protocol prior", summary.get("protocol_prior"))):
        if figures:
            parts = (f"{k} {estimate(figures[k])}" for k in ("dice", "sensitivity", "ppv", "lesion_f1", "volume_icc"))
            lines.append(f"  {name}: {'; '.join(parts)}")
    return "\n".join(lines)
