"""A trained network with its best weights, and what it predicts."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from data_modules.cohort.folds import cohort_of
from data_modules.cohort.leakage import check_unseen, is_seen, merged, split_salt
from data_modules.cohort.look import GUARDED
from data_modules.errors import UserError
from data_modules.files import sha256
from data_modules.prepare.store import PreparedSeries
from data_modules.processes import Helpers
from data_modules.scan.geometry import Volume
from iac_lightning.config.schema import ExperimentConfig
from iac_lightning.evaluation.calibration.record import Calibration
from iac_lightning.evaluation.clinical.reference import Reference
from iac_lightning.inference import predict_prepared
from iac_lightning.models.build import build_model
from iac_lightning.models.ensemble import Ensemble
from iac_lightning.models.precision import set_matmul_precision
from iac_lightning.modules.checkpoint import load_model
from iac_lightning.runs.directory import Run, is_main_process, load_run
from iac_lightning.runs.members import Member, members_of
from iac_lightning.workflows.one_series import SeriesWork

W = TypeVar("W", bound=SeriesWork)
R = TypeVar("R")

ALONE = Helpers(1, "evaluation.workers")
"""No helpers: everything is done in this process."""


@dataclasses.dataclass(frozen=True)
class TrainedModel:
    """A network with its best weights, ready to predict.

    Attributes:
        run: where it comes from.
        network: in evaluation mode, on `device`.
        device: where it computes.
        checkpoint_sha256: first 16 hex digits of the checkpoint file's hash: which weights these are; of an ensemble,
            of the hash of its members' ones.
        trained_on: whom it has seen, as salted hashes.
        members: of an ensemble.
    """

    run: Run
    network: nn.Module
    device: torch.device
    checkpoint_sha256: str
    trained_on: list[dict[str, Any]]
    members: tuple[TrainedModel, ...] = ()


@dataclasses.dataclass(frozen=True)
class CalibratedModel:
    """All that the prediction of a scan needs, from a run (`calibrate.load_calibrated`) or a bundle (`load_bundle`).

    Attributes:
        config: the settings that prediction needs; from a bundle, all others are defaults.
        network: in evaluation mode, on `device`.
        device: where it computes.
        checkpoint_sha256: which weights these are, as in `TrainedModel`.
        trained_on: whom it has seen, as salted hashes.
        calibration: of these weights (`calibrate.calibrate`).
        members: of the run, where it is an ensemble; a bundle names none.
        reference: what it learnt from, and its development scans (`workflows.reference`).
    """

    config: ExperimentConfig
    network: nn.Module
    device: torch.device
    checkpoint_sha256: str
    trained_on: list[dict[str, Any]]
    calibration: Calibration
    members: tuple[TrainedModel, ...] = ()
    reference: Reference = dataclasses.field(default_factory=Reference)


def load_trained(run: Run) -> TrainedModel:
    """The best checkpoint of a finished segmentation run, or those of all members of an ensemble.

    Raises:
        UserError: when the run is a pre-training or has no checkpoint, or as `load_model` and `SavedModel.load_into`.
    """
    if run.config.task != "segment":
        raise UserError(f"{run.directory} is a pre-training; evaluate or predict with a run of `iac finetune`.")
    if members := members_of(run.directory):
        return load_ensemble(run, members)
    path = run.best_checkpoint
    if path is None:
        raise UserError(f"{run.directory} has no checkpoint yet. Train it first: iac finetune …")
    saved = load_model(path)
    network = build_model(run.config)
    saved.load_into(network, path)
    device = inference_device(run.config.trainer.accelerator)
    set_matmul_precision(run.config.trainer.matmul_precision, device)
    return TrainedModel(run, network.to(device).eval(), device, file_digest(path), saved.trained_on)


def load_ensemble(run: Run, members: Sequence[Member]) -> TrainedModel:
    """The networks of an ensemble.

    Args:
        run: of the ensemble.
        members: of `iac_lightning.runs.members`.

    Raises:
        UserError: when a member is gone, or has other weights than when the ensemble was made.
    """
    models = []
    for member in members:
        if not member.run.is_dir():
            raise UserError(f"{run.directory}: its member {member.name} is not at {member.run} any more; bring it back")
        one = load_trained(load_run(member.run))
        if one.checkpoint_sha256 != member.checkpoint_sha256:
            raise UserError(
                f"{run.directory}: its member {member.name} has other weights by now (checkpoint "
                f"{one.checkpoint_sha256}, {member.checkpoint_sha256} in the ensemble); make a new ensemble: "
                "iac ensemble RUN… --name NAME"
            )
        models.append(one)
    device = inference_device(run.config.trainer.accelerator)
    return TrainedModel(
        run=run,
        network=Ensemble([one.network for one in models], [one.run.config for one in models]).to(device).eval(),
        device=device,
        checkpoint_sha256=digest([one.checkpoint_sha256 for one in models]),
        trained_on=merged(record for one in models for record in one.trained_on),
        members=tuple(models),
    )


def inference_device(accelerator: str = "auto") -> torch.device:
    """A GPU where there is one, unless the settings say cpu."""
    return torch.device("cuda" if torch.cuda.is_available() and accelerator != "cpu" else "cpu")


def file_digest(path: Path) -> str:
    """First 16 hex digits of a file's SHA-256."""
    return sha256(path)[:16]


def refuse_known_patients(series: Sequence[PreparedSeries], model: TrainedModel) -> list[str]:
    """The leakage guard: nobody who trained this model may be used to choose its threshold or judge it.

    Nobody of the development set may judge it on the test split either, after a change of splits. Patients are known
    by their ids, by ids that are alike, and by the voxels of their scans.

    A development patient of an ensemble is predicted by the members that have not seen it (`asked`), so that one of
    them must be left; all other patients are predicted by all members.

    Returns:
        What could not be verified, in words; said on the terminal too.

    Raises:
        UserError: when a patient was seen by the model, or a development patient by every member.
    """
    salt = split_salt(model.run.config.data.cohort)
    patients = {s.series.patient_id for s in series}
    if model.members:
        developed = {s.series.patient_id: bool(asked(model, s)) for s in series if s.series.split == "dev"}
        if known := sorted(patient for patient, unseen in developed.items() if not unseen):
            raise UserError(
                f"{model.run.config.name}: {len(known)} of {len(developed)} development patients were seen in training "
                f"by every member of the ensemble, such as {', '.join(known[:3])}; expected a member that has not: add "
                "the run that held out their fold"
            )
        patients -= developed.keys()
    remarks: list[str | None] = []
    if not model.trained_on:
        remarks.append(f"the checkpoint of {model.run.config.name} does not say whom it has seen: nothing is verified.")
    elif GUARDED in {s.series.split for s in series} and not any("tuned" in r for r in model.trained_on):
        remarks.append(
            "the checkpoint is an earlier version's: it knows the patients that it learnt from by their ids alone, and "
            "nobody that it was tuned on."
        )
    images = [(s.series.patient_id, s.image_digests) for s in series if s.series.patient_id in patients]
    everyone = {s.patient_id for s in cohort_of(model.run.config.data).series}
    judged = [s for s in series if s.series.split == GUARDED]
    for record in model.trained_on:
        remarks += [check_unseen(patients, record, salt, images, everyone=everyone)]
        if judged and "tuned" in record:
            check_unseen(
                [s.series.patient_id for s in judged],
                record["tuned"],
                salt,
                [(s.series.patient_id, s.image_digests) for s in judged],
                everyone=everyone,
                how="used to choose its checkpoint and thresholds",
            )
    found = list(dict.fromkeys(remark for remark in remarks if remark))
    if is_main_process():
        for remark in found:
            print(f"warning: {remark}")
    return found


def asked(model: TrainedModel, item: PreparedSeries) -> tuple[int, ...]:
    """Which members of an ensemble predict a series: all, but of a development patient those that have not seen it."""
    everyone = range(len(model.members))
    if item.series.split != "dev":
        return tuple(everyone)
    salt, patient = split_salt(model.run.config.data.cohort), item.series.patient_id
    seen = [any(is_seen(patient, r, salt, item.image_digests) for r in m.trained_on) for m in model.members]
    return tuple(k for k in everyone if not seen[k])


def network_for(model: TrainedModel, item: PreparedSeries) -> nn.Module:
    """The network that predicts a series: of an ensemble, the members that are `asked`."""
    return model.network.of(asked(model, item)) if isinstance(model.network, Ensemble) else model.network


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


def predicted(model: TrainedModel, series: Sequence[PreparedSeries]) -> Iterator[Volume]:
    """Probability of each series on the common grid, in their order."""
    for _, group in groupby(series, lambda item: asked(model, item) if model.members else ()):
        items = list(group)
        yield from predict_prepared(network_for(model, items[0]), items, model.run.config, model.device)


def on_host(
    model: TrainedModel, works: Sequence[W], function: Callable[[W], R | None], helpers: Helpers
) -> Iterator[R]:
    """`function` of each series, in their order: helpers do it while the network predicts the series that follow.

    The network is asked where no map with the right key is saved, and where the saved one turns out to be damaged,
    which the function says by None.
    """
    missing = [not work.is_saved() for work in works]
    answers = predicted(model, [work.item for work, asks in zip(works, missing, strict=True) if asks])
    ready = (
        dataclasses.replace(work, common=next(answers)) if asks else work
        for work, asks in zip(works, missing, strict=True)
    )
    for work, result in zip(works, helpers.results(function, ready), strict=True):
        if result is None:
            (common,) = predicted(model, [work.item])
            result = function(dataclasses.replace(work, common=common))
            assert result is not None, "the network was asked"
        yield result


def series_work(model: TrainedModel, item: PreparedSeries) -> SeriesWork:
    """What the host does of a series, before the network has said anything."""
    return SeriesWork(
        item=item,
        raw_path=uncalibrated_file(model.run, item),
        raw_key=prediction_key(model, item),
        restrict_hu=model.run.config.loss.restrict_hu,
    )


def uncalibrated_file(run: Run, item: PreparedSeries) -> Path:
    """Where the uncalibrated prediction of a development series is kept."""
    return run.directory / "predictions" / "dev" / f"{item.series.series_id}_uncalibrated.nii.gz"


def prediction_key(model: TrainedModel, item: PreparedSeries) -> dict[str, Any]:
    """What an uncalibrated prediction depends on."""
    config = model.run.config
    settings = {
        "grid": dataclasses.asdict(config.data.grid),
        "inference": dataclasses.asdict(config.inference),
        "restrict_hu": config.loss.restrict_hu,
    }
    return {
        "checkpoint_sha256": model.checkpoint_sha256,
        "source_sha256": item.source_sha256,
        "settings_sha256": digest(settings),
    }


def digest(value: Any) -> str:
    """First 16 hex digits of the hash of something that JSON can hold."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
