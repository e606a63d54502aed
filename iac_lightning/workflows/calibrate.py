"""Calibrate a trained run on its development split: temperature, bias and thresholds."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from data_modules.cohort.look import read_label
from data_modules.cohort.series import read_series
from data_modules.errors import UserError
from data_modules.files import write_json_atomic
from data_modules.prepare.preparation import prepare_cohort
from data_modules.prepare.store import PreparedSeries, PreparedStore
from data_modules.scan.geometry import Volume, place
from iac_lightning.cluster import sharding
from iac_lightning.evaluation.calibration.record import calibrate_voxels, reliability, voxels_on_disk
from iac_lightning.evaluation.calibration.scaling import (
    THRESHOLDS,
    Part,
    Scaling,
    apply,
    thresholds_by_thickness,
)
from iac_lightning.evaluation.calibration.threshold import choose_threshold, dice_at_thresholds
from iac_lightning.evaluation.metrics.lesions import protocol_prior_probability
from iac_lightning.evaluation.statistics.strata import strata_from_edges
from iac_lightning.figures.calibration import reliability_figure
from iac_lightning.runs.directory import Run
from iac_lightning.tracking import logger as tracking
from iac_lightning.workflows.trained import (
    CalibratedModel,
    TrainedModel,
    digest,
    labelled,
    load_trained,
    native_probability,
    prediction_key,
    refuse_known_patients,
    saved_prediction,
    write_prediction,
)


@sharding.together()
def calibrate_run(run: Run, logger: object = None) -> dict[str, Any]:
    """`iac calibrate`, and the end of every fine-tuning: see `calibrate`.

    Args:
        run: a segmentation run with a best checkpoint.
        logger: of a training in progress, for the figure.
    """
    if run.config.trainer.threads:
        torch.set_num_threads(run.config.trainer.threads)
    model = load_trained(run)
    store = prepare_cohort(run.config.data, ("dev",))
    refuse_known_patients(store.split("dev"), model)
    return calibrate_together(model, store, logger)


def calibrate_together(model: TrainedModel, store: PreparedStore, logger: object = None) -> dict[str, Any]:
    """`calibrate`, with several processes: each predicts its share of the development series, the first does the rest.

    All processes call it alike and get the result.
    """

    def keep(item: PreparedSeries) -> None:
        development_probability(model, item)

    if sharding.process()[1] > 1:
        series = labelled(store.split("dev"), "dev")
        key = calibration_key(model, series)
        if sharding.on_first(lambda: not belongs_to(read_calibration(model.run), key)):
            sharding.share_out(keep, series, f"{model.run.config.name}: predicting dev")
    return sharding.on_first(lambda: calibrate(model, store, logger))


def calibrate(model: TrainedModel, store: PreparedStore, logger: object = None) -> dict[str, Any]:
    """Temperature and bias by likelihood, then the thresholds of the best mean Dice over development scans.

    Each development series is predicted once; the uncalibrated map is kept as
    `predictions/dev/<series>_uncalibrated.nii.gz`, from which every figure before calibration follows, and with
    `apply` every figure after it. Writes `calibration.json` and `figures/reliability.png`. A calibration that these
    weights, settings and data have already is returned as it is; a killed one goes on with the series that are missing.

    Returns:
        What `calibration.json` holds: `temperature`, `bias`; `threshold` and `prior_threshold` (with the protocol
        prior) with their mean Dice over scans with lesions; `thickness` and `prior_thickness` (thresholds by stratum);
        `ece`, `adaptive_ece`, `brier`, `nll`, each `_before` and `_after`, with `_ci95`; `reliability_before` and
        `_after`; counts (`n_lesion_voxels_unseen`: labelled where the model says nothing); and which weights and data
        it belongs to.

    Raises:
        UserError: when a development series has no label, or none has a lesion where the model predicts.
    """
    run, seed = model.run, model.run.config.seed
    assert store.look is None, "calibration never holds the test split"
    series = labelled(store.split("dev"), "dev")
    key = calibration_key(model, series)
    known = read_calibration(run)
    if belongs_to(known, key):
        if logger is not None:  # a process may have been killed between writing the file and storing its numbers
            tracking.log_summary(run, known, "calibration", logger)
        return known
    patients = [item.series.patient_id for item in series]
    with voxels_on_disk(domain_voxels(model, series), run.directory) as voxels:
        try:
            scaling, fitted = calibrate_voxels(voxels, patients, seed, run.directory)
        except ValueError as error:
            raise UserError(f"{run.config.name}: the development split cannot calibrate this model: {error}") from None
    result = {
        **fitted,
        **choose_thresholds(model, series, scaling),
        "domain": "voxels with an uncalibrated probability above 0: the region of interest"
        + (f", {run.config.loss.restrict_hu:g} HU and more" if run.config.loss.restrict_hu is not None else ""),
        **key,
    }
    source = (
        f"{run.config.name}; {result['n_voxels']:,} voxels of {len(series)} development scans "
        f"({result['n_patients']} patients); seed {seed}"
    )
    tracking.log_figure(
        logger,
        reliability_figure(reliability(result, "before"), reliability(result, "after"), source),
        run.directory / "figures/reliability.png",
    )
    write_json_atomic(calibration_file(run), result)
    tracking.log_summary(run, result, "calibration", logger)
    return result


def calibration_key(model: TrainedModel, series: Sequence[PreparedSeries]) -> dict[str, Any]:
    """Which weights, settings and data a calibration belongs to.

    Thresholds by thickness went by the table's once: a calibration of that time stands where it is the scans' own.
    """
    depends_on: list[Any] = [prediction_key(model, item) for item in series]
    corrected = {
        item.series.series_id: item.slice_thickness_mm
        for item in series
        if item.slice_thickness_mm != item.series.slice_thickness_mm
    }
    return {
        "checkpoint_sha256": model.checkpoint_sha256,
        "depends_on": digest([*depends_on, corrected] if corrected else depends_on),
        "thickness_edges_mm": list(model.run.config.evaluation.thickness_edges_mm),
    }


def belongs_to(calibration: dict[str, Any], key: dict[str, Any]) -> bool:
    """Whether a calibration has this key."""
    return {k: calibration.get(k) for k in key} == key


def choose_thresholds(model: TrainedModel, series: Sequence[PreparedSeries], scaling: Scaling) -> dict[str, Any]:
    """Thresholds of calibrated probability for the plain mask and for the one after the protocol prior."""
    plain: list[NDArray[np.float64]] = []
    prior: list[NDArray[np.float64]] = []
    lesions, unseen = [], 0
    for item in tqdm(series, desc=f"{model.run.config.name}: thresholds", unit="scan", disable=None):
        raw = development_probability(model, item)
        probability = raw.with_data(apply(raw.data, scaling.temperature, scaling.bias))
        label = development_label(item)
        outside = int(np.count_nonzero(read_label(item.series).data)) - int(np.count_nonzero(label))
        hu = Volume(np.asarray(item.native_hu()), item.native_grid)
        for rows, seen in ((plain, probability), (prior, protocol_prior_probability(probability, hu))):
            # Labelled voxels outside the region can only be missed, and count as in every evaluation.
            p = np.append(seen.data, np.zeros(outside, dtype=np.float32))
            rows.append(dice_at_thresholds(p, np.append(label, np.ones(outside, dtype=bool)), THRESHOLDS))
        lesions.append(bool(label.any()) or outside > 0)
        unseen += outside + int(np.count_nonzero(label & (raw.data == 0)))
    patients = [item.series.patient_id for item in series]
    thickness = [item.slice_thickness_mm for item in series]
    strata = strata_from_edges(model.run.config.evaluation.thickness_edges_mm)
    result: dict[str, Any] = {}
    for prefix, scores in (("", np.array(plain)), ("prior_", np.array(prior))):
        result[f"{prefix}threshold"], result[f"{prefix}dice"] = choose_threshold(scores, THRESHOLDS, lesions)
        result[f"{prefix}thickness"] = thresholds_by_thickness(
            scores, lesions, patients, thickness, model.run.config.seed, strata
        )
    return {**result, "n_with_lesion": sum(lesions), "n_lesion_voxels_unseen": unseen}


def development_probability(model: TrainedModel, item: PreparedSeries) -> Volume:
    """Uncalibrated probability of a development series on its native region: predicted once, then read."""
    path, key = uncalibrated_file(model.run, item), prediction_key(model, item)
    saved = saved_prediction(path, key)
    if saved is not None:
        return place(saved, item.native_grid, 0.0)
    probability = native_probability(model, item)
    write_prediction(place(probability, read_series(item.series).grid, 0.0), path, key)
    return probability


def development_label(item: PreparedSeries) -> NDArray[np.bool_]:
    """The label of a series on its native region."""
    label: NDArray[np.bool_] = np.asarray(item.native_label()) > 0
    return label


def domain_voxels(model: TrainedModel, series: Sequence[PreparedSeries]) -> Iterator[Part]:
    """Probabilities and labels of each series' voxels where the model says something."""
    for item in tqdm(series, desc=f"{model.run.config.name}: predicting dev", unit="scan", disable=None):
        probability = development_probability(model, item).data
        domain = probability > 0
        yield probability[domain], development_label(item)[domain]


def uncalibrated_file(run: Run, item: PreparedSeries) -> Path:
    """Where the uncalibrated prediction of a development series is kept."""
    return run.directory / "predictions" / "dev" / f"{item.series.series_id}_uncalibrated.nii.gz"


def calibration_file(run: Run) -> Path:
    """Where the calibration of a run is kept."""
    return run.directory / "calibration.json"


def read_calibration(run: Run) -> dict[str, Any]:
    """What `calibrate` wrote; empty before."""
    path = calibration_file(run)
    known: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return known


def trained_calibration(model: TrainedModel) -> dict[str, Any]:
    """The calibration that belongs to these weights, for scans outside the cohort.

    Raises:
        UserError: when there is none.
    """
    known = read_calibration(model.run)
    if known.get("checkpoint_sha256") != model.checkpoint_sha256:
        raise UserError(
            f"{calibration_file(model.run)}: these weights are not calibrated. Run: iac calibrate {model.run.directory}"
        )
    return known


def load_calibrated(run: Run) -> CalibratedModel:
    """The best checkpoint of a finished segmentation run with its calibration.

    Raises:
        UserError: as `load_trained` and `trained_calibration`.
    """
    model = load_trained(run)
    return CalibratedModel(
        config=run.config,
        network=model.network,
        device=model.device,
        checkpoint_sha256=model.checkpoint_sha256,
        trained_on=model.trained_on,
        calibration=trained_calibration(model),
    )
