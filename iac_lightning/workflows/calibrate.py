"""Calibrate a trained run on its development split: temperature, bias and thresholds."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from tqdm import tqdm

from data_modules.cohort.registry import register_use
from data_modules.errors import UserError
from data_modules.files import write_json_atomic
from data_modules.prepare.preparation import prepare_cohort
from data_modules.prepare.store import PreparedSeries, PreparedStore
from data_modules.processes import Helpers
from iac_lightning.cluster import sharding
from iac_lightning.evaluation.calibration.aims import Aim
from iac_lightning.evaluation.calibration.choosing import choose_point
from iac_lightning.evaluation.calibration.counts import LEAST_LESIONS_MM3
from iac_lightning.evaluation.calibration.fitting import calibrate_voxels, voxels_on_disk
from iac_lightning.evaluation.calibration.held_out import held_out_lesions
from iac_lightning.evaluation.calibration.record import DESCRIBED, Calibration, reliability
from iac_lightning.evaluation.statistics.strata import strata_from_edges
from iac_lightning.figures.calibration import reliability_figure
from iac_lightning.runs.directory import Run
from iac_lightning.runs.signatures import sign, was_changed
from iac_lightning.tracking import logger as tracking
from iac_lightning.workflows.one_series import (
    SeriesWork,
    development_candidates,
    development_counts,
    development_voxels,
)
from iac_lightning.workflows.reference import keep_reference, reference_of
from iac_lightning.workflows.trained import (
    ALONE,
    CalibratedModel,
    TrainedModel,
    digest,
    labelled,
    load_trained,
    on_host,
    prediction_key,
    refuse_known_patients,
    series_work,
)

R = TypeVar("R")


@sharding.together()
def calibrate_run(run: Run, logger: object = None) -> Calibration:
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
    with sharding.helpers_for(run.config.evaluation.workers, len(store.split("dev"))) as helpers:
        return calibrate_together(model, store, logger, helpers)


def calibrate_together(
    model: TrainedModel, store: PreparedStore, logger: object = None, helpers: Helpers = ALONE
) -> Calibration:
    """`calibrate`, with several processes: each predicts its share of the development series, the first does the rest.

    All processes call it alike and get the result.
    """

    def keep(series: Sequence[PreparedSeries]) -> Iterator[None]:
        return (None for _ in development(model, series, development_voxels, helpers))

    if sharding.process()[1] > 1:
        series = labelled(store.split("dev"), "dev")
        key = calibration_key(model, series)
        if sharding.on_first(lambda: not _is_calibrated(model.run, key)):
            sharding.share_out(keep, series, f"{model.run.config.name}: predicting dev")

    def finish() -> Calibration:
        calibration = calibrate(model, store, logger, helpers)
        keep_reference(model, store.split("dev"), calibration, helpers)
        return calibration

    return sharding.on_first(finish)


def calibrate(
    model: TrainedModel, store: PreparedStore, logger: object = None, helpers: Helpers = ALONE
) -> Calibration:
    """The scaling of the best cross-validated likelihood, then the operating point for the aim of the settings.

    Each development series is predicted once; the uncalibrated map is kept as
    `predictions/dev/<series>_uncalibrated.nii.gz`, from which every value before calibration follows, and with
    `apply` every value after it. Writes `calibration.json` and `figures/reliability.png`. A calibration that these
    weights, settings and data have already is returned as it is; a killed one goes on with the series that are missing.

    Returns:
        The calibration. Its `record` holds also what the operating point was chosen among; `ece`, `adaptive_ece`,
        `brier`, `nll`, each `_before` and `_after` (cross-validated by patient), with `_ci95`; `reliability_before` and
        `_after`; `lesions` likewise (`held_out.held_out_lesions`); which scaling was chosen and why; counts
        (`n_lesion_voxels_unseen`: labelled where the model says nothing); and which weights and data it belongs to.

    Raises:
        UserError: when a development series has no label, or none has a lesion where the model predicts.
    """
    run, seed = model.run, model.run.config.seed
    assert store.look is None, "calibration never holds the test split"
    series = labelled(store.split("dev"), "dev")
    key = calibration_key(model, series)
    known = whole_calibration(run)
    if known is not None and belongs_to(known.to_dict(), key):
        if logger is not None:  # a process may have been killed between writing the file and storing its numbers
            tracking.log_summary(run, known.to_dict(), "calibration", logger)
        return known
    patients = [item.series.patient_id for item in series]
    thickness_mm = [item.slice_thickness_mm for item in series]

    def shown(steps: Iterable[R], what: str) -> Iterable[R]:
        return tqdm(steps, total=len(series), desc=f"{run.config.name}: {what}", unit="scan", disable=None)

    parts = shown(development(model, series, development_voxels, helpers), "predicting dev")
    with voxels_on_disk(parts, run.directory) as voxels:
        try:
            fitted = calibrate_voxels(voxels, patients, thickness_mm, seed, run.directory)
        except ValueError as error:
            raise UserError(f"{run.config.name}: the development split cannot calibrate this model: {error}") from None
    counted = partial(development_counts, scaling=fitted.scaling)
    counts = shown(development(model, series, counted, helpers), "thresholds")
    settings = run.config.evaluation
    result = {
        **fitted.record,
        **choose_point(
            list(counts),
            patients,
            seed,
            strata_from_edges(settings.thickness_edges_mm),
            Aim(
                name=settings.operating_point,
                most_false=settings.false_components_per_scan,
                keep_from_mm3=settings.keep_lesions_from_mm3,
            ),
            any_rule=not run.config.inference.protocol_prior,
        ),
        "domain": "voxels with an uncalibrated probability above 0: the region of interest"
        + (f", {run.config.loss.restrict_hu:g} HU and more" if run.config.loss.restrict_hu is not None else ""),
        **key,
    }
    marked = partial(development_candidates, calibration=Calibration.from_dict(result))
    candidates = list(shown(development(model, series, marked, helpers), "lesions"))
    result["lesions"] = held_out_lesions(candidates, fitted.held, patients)
    source = (
        f"{run.config.name}; {result['n_voxels']:,} voxels of {len(series)} development scans "
        f"({result['n_patients']} patients); seed {seed}"
    )
    tracking.log_figure(
        logger,
        reliability_figure(reliability(result, "before"), reliability(result, "after"), source, result["after"]),
        run.directory / "figures/reliability.png",
    )
    write_json_atomic(calibration_file(run), result)
    sign(run.directory, [calibration_file(run)], run.config.data.cohort)
    register_use(store.cohort.path, store.cohort.series, ((item.series, item.image_digests) for item in series))
    tracking.log_summary(run, result, "calibration", logger)
    return Calibration.from_dict(result)


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
    settings = model.run.config.evaluation
    most_false = settings.false_components_per_scan if settings.operating_point == "sensitivity_at_fp" else None
    chosen_for = [settings.operating_point, most_false, model.run.config.inference.protocol_prior]
    if settings.keep_lesions_from_mm3 < LEAST_LESIONS_MM3[-1]:  # all were chosen among before there was this setting
        chosen_for.append(settings.keep_lesions_from_mm3)
    return {
        "checkpoint_sha256": model.checkpoint_sha256,
        "depends_on": digest([*depends_on, corrected] if corrected else depends_on),
        "thickness_edges_mm": list(settings.thickness_edges_mm),
        "chosen_for": chosen_for,
    }


def belongs_to(record: dict[str, Any], key: dict[str, Any]) -> bool:
    """Whether a calibration (what its file holds) has this key."""
    return {k: record.get(k) for k in key} == key


def development(
    model: TrainedModel, series: Sequence[PreparedSeries], function: Callable[[SeriesWork], R | None], helpers: Helpers
) -> Iterator[R]:
    """`function` of each development series with its uncalibrated probability: predicted once, then read."""
    return on_host(model, [series_work(model, item) for item in series], function, helpers)


def calibration_file(run: Run) -> Path:
    """Where the calibration of a run is kept."""
    return run.directory / "calibration.json"


def read_calibration(run: Run) -> dict[str, Any]:
    """What `calibrate` wrote; empty before.

    Raises:
        UserError: when the file is damaged, or a link.
    """
    return read_calibration_file(calibration_file(run), f"iac calibrate {run.directory}")


def read_calibration_file(path: Path, again: str) -> dict[str, Any]:
    """`read_calibration` of a file.

    Args:
        path: of the file.
        again: command that makes it again, for the errors.

    Raises:
        UserError: as above.
    """
    if not path.exists():
        return {}
    if path.is_symlink():
        raise UserError(f"{path}: is a link; the calibration of a run is a file of its own: copy that file here.")
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error}). Calibrate again: {again}") from None
    if not isinstance(known, dict):
        raise UserError(f"{path}: not a calibration. Calibrate again: {again}")
    return known


def whole_calibration(run: Run) -> Calibration | None:
    """The calibration that `calibrate` wrote; None where there is none, or a damaged or changed one: made again."""
    if was_changed(run.directory, calibration_file(run)):
        print(f"{run.config.name}: calibration.json was changed after it was written; it is made again")
        return None
    try:
        known = read_calibration(run)
        return Calibration.from_dict(known, calibration_file(run)) if set(DESCRIBED) <= known.keys() else None
    except UserError:
        return None


def _is_calibrated(run: Run, key: dict[str, Any]) -> bool:
    known = whole_calibration(run)
    return known is not None and belongs_to(known.to_dict(), key)


def trained_calibration(model: TrainedModel) -> Calibration:
    """The calibration that belongs to these weights, for scans outside the cohort.

    Raises:
        UserError: when there is none.
    """
    known = read_calibration(model.run)
    if was_changed(model.run.directory, calibration_file(model.run)):
        raise UserError(
            f"{calibration_file(model.run)}: was changed after it was written. Calibrate again: iac calibrate "
            f"{model.run.directory}"
        )
    if known.get("checkpoint_sha256") != model.checkpoint_sha256:
        raise UserError(
            f"{calibration_file(model.run)}: these weights are not calibrated. Run: iac calibrate {model.run.directory}"
        )
    return Calibration.from_dict(known, calibration_file(model.run))


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
        members=model.members,
        reference=reference_of(run, model.checkpoint_sha256, model.trained_on),
    )
