"""A trained model as a folder that stands alone: weights, the settings of prediction, calibration, model card.

Nothing in it is unpickled, and nothing in it tells where or on whom it was made: no folders, no ids of patients.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import nn

from data_modules.cohort.leakage import is_seen_patients
from data_modules.errors import UserError
from data_modules.files import replacing_folder, sha256, write_json_atomic, write_text_atomic
from iac_lightning.config.dotted import flat
from iac_lightning.config.reading import ConfigError, from_dict
from iac_lightning.config.schema import ExperimentConfig
from iac_lightning.config.stored import config_dict
from iac_lightning.evaluation.calibration.record import Calibration
from iac_lightning.evaluation.clinical.reference import Reference
from iac_lightning.models.build import build_model
from iac_lightning.models.ensemble import Ensemble
from iac_lightning.models.precision import set_matmul_precision
from iac_lightning.runs.directory import Run
from iac_lightning.workflows.bundle_files import (
    AGAIN,
    CALIBRATION,
    CARD,
    FILES,
    FORMAT,
    MANIFEST,
    MOST_MEMBERS,
    SETTINGS,
    TRAINED_ON,
    VERSION,
    WEIGHTS,
    check_manifest,
    is_bundle,
    other_files,
    read_json,
    read_weights,
)
from iac_lightning.workflows.calibrate import load_calibrated
from iac_lightning.workflows.model_card import model_card
from iac_lightning.workflows.trained import CalibratedModel, inference_device

REFERENCE = "reference"
"""In `model.json`: what the model learnt from, and its development scans."""

_PACKAGES = ("iac-lightning", "torch", "monai", "numpy", "scipy", "SimpleITK", "safetensors")


def export_bundle(run: Run, out: Path) -> Path:
    """Write the best weights of a run (the averaged ones, where it averages) and what prediction needs beside them.

    Of an ensemble, the weights and settings of all members. `model.json` also says what the model has learnt from, and
    how large its development scans were found and labelled to be, for the interval of a volume.

    `out` gets `weights.safetensors`, `model.json`, `calibration.json`, `trained_on.json` (salted hashes, for the
    leakage guard), `MODEL_CARD.md` and `manifest.json` with the SHA-256 of each. The folder appears whole or not at
    all; the same run gives the same bytes.

    Args:
        run: a calibrated segmentation run.
        out: folder; an earlier bundle there is replaced.

    Raises:
        UserError: when the run cannot predict, or `out` is something else than a bundle, or more.
    """
    out = Path(out)
    if (out.exists() and not out.is_dir()) or (out.is_dir() and any(out.iterdir()) and not is_bundle(out)):
        raise UserError(f"{out}: exists and is not a bundle (no {MANIFEST} of one). Give another folder, or move it.")
    if out.is_dir() and (others := other_files(out)):
        raise UserError(
            f"{out}: holds {others[0]} beside a bundle, which would be lost. Move it, or give another folder."
        )
    model = load_calibrated(run)
    settings = {
        "name": run.config.name,
        "checkpoint_sha256": model.checkpoint_sha256,
        "settings": prediction_settings(run.config),
        **members_settings(model),
        REFERENCE: model.reference.to_dict(),
        "versions": {name: metadata.version(name) for name in _PACKAGES},
    }
    with replacing_folder(out) as folder:
        state = {name: tensor.cpu().contiguous() for name, tensor in model.network.state_dict().items()}
        (folder / WEIGHTS).write_bytes(save(state))  # its own `save_file` lets only the owner read
        write_json_atomic(folder / SETTINGS, settings)
        write_json_atomic(folder / CALIBRATION, model.calibration.to_dict())
        write_json_atomic(folder / TRAINED_ON, model.trained_on)
        write_text_atomic(folder / CARD, model_card(run, model))
        write_json_atomic(
            folder / MANIFEST,
            {
                "format": FORMAT,
                "format_version": VERSION if model.members else 1,
                "checkpoint_sha256": model.checkpoint_sha256,
                "sha256": {name: sha256(folder / name) for name in FILES},
            },
        )
    return out


def members_settings(model: CalibratedModel) -> dict[str, Any]:
    """Name, weights and settings of each member of an ensemble; nothing for a single network."""
    if not model.members:
        return {}
    return {
        "members": [
            {
                "name": member.run.config.name,
                "checkpoint_sha256": member.checkpoint_sha256,
                "settings": prediction_settings(member.run.config),
            }
            for member in model.members
        ]
    }


_NETWORKS = {"vit": ("vit", "decoder"), "cnn": ("cnn",), "rule": ("rule",)}
"""Sections of the settings that describe each network."""


def prediction_settings(config: ExperimentConfig) -> dict[str, Any]:
    """The settings that prediction depends on, as `from_dict` takes them; the template is not among them.

    A template is somebody's file in somebody's folder; whoever predicts whole heads names theirs.
    """
    everything = config_dict(config)
    model, data = everything["model"], everything["data"]
    network = ("name", "condition_on", *_NETWORKS[config.model.name])
    once = ("max_epochs",) if config.model.name == "rule" else ()  # which `checks` wants to see
    trainer = ("matmul_precision", *once)
    return {
        "task": config.task,
        "model": {key: model[key] for key in network},
        "data": {
            "window_hu": data["window_hu"],
            "grid": {key: value for key, value in data["grid"].items() if key != "template"},
            "sampling": {"crop": data["sampling"]["crop"]},
        },
        "loss": {"restrict_hu": everything["loss"]["restrict_hu"]},
        "trainer": {key: everything["trainer"][key] for key in trainer},
        "inference": everything["inference"],
    }


def load_bundle(path: Path) -> CalibratedModel:
    """A model to predict with, from the folder that `export_bundle` wrote.

    Nothing is allocated before the settings are within the bounds of any experiment and describe a network of exactly
    the weights that the file holds.

    Raises:
        UserError: when the folder is not a bundle, is of a newer format, any file is missing, cut off, changed or a
            link, or holds values that no model has.
    """
    path = Path(path)
    manifest = check_manifest(path)
    exported, trained_on = read_json(path, SETTINGS), read_json(path, TRAINED_ON)
    calibration = Calibration.from_dict(read_json(path, CALIBRATION), path / CALIBRATION)
    config = _config(path, exported)
    weights = exported.get("checkpoint_sha256")
    if not (isinstance(weights, str) and re.fullmatch(r"[0-9a-f]{16}", weights)) or any(
        named != weights for named in (manifest.get("checkpoint_sha256"), calibration.record.get("checkpoint_sha256"))
    ):
        raise UserError(f"{path}: settings, calibration and manifest are not of the same weights. {AGAIN}")
    if not is_seen_patients(trained_on):
        raise UserError(f"{path / TRAINED_ON}: does not say whom the model has learnt from. {AGAIN}")
    members = _members(path, exported)
    with torch.device("meta"):  # shapes without memory
        expected = _build(config, members).state_dict()
    state = read_weights(path, expected)
    network = _build(config, members)
    network.load_state_dict(state)
    device = inference_device()
    set_matmul_precision(config.trainer.matmul_precision, device)
    return CalibratedModel(
        config=config,
        network=network.to(device).eval(),
        device=device,
        checkpoint_sha256=weights,
        trained_on=trained_on,
        calibration=calibration,
        reference=_reference(path, exported),
    )


def _reference(path: Path, exported: dict[str, Any]) -> Reference:
    """What the bundle says of its training and its development scans; earlier ones say nothing.

    Raises:
        UserError: when it says what no model does.
    """
    try:
        return Reference.from_dict(exported.get(REFERENCE, {}))
    except (ValueError, TypeError) as error:
        raise UserError(f"{path / SETTINGS}: {REFERENCE} {error}. {AGAIN}") from None


def _build(config: ExperimentConfig, members: Sequence[ExperimentConfig]) -> nn.Module:
    """The network of the settings, or that of each member."""
    return Ensemble([build_model(member) for member in members], members) if members else build_model(config)


def _members(path: Path, exported: dict[str, Any]) -> list[ExperimentConfig]:
    """Settings of each member of an ensemble; none of a single network.

    Raises:
        UserError: as `_config`.
    """
    members = exported.get("members", [])
    if not isinstance(members, list) or len(members) > MOST_MEMBERS:
        raise UserError(f"{path / SETTINGS}: its members are no list of networks. {AGAIN}")
    return [_config(path, member) for member in members]


def _config(path: Path, exported: Any) -> ExperimentConfig:
    """The settings of a bundle, and no others than those that prediction depends on.

    Raises:
        UserError: in one line.
    """
    where = path / SETTINGS
    settings = exported.get("settings") if isinstance(exported, dict) else None
    if not isinstance(settings, dict) or not isinstance(exported.get("name"), str):
        raise UserError(f"{where}: has no name and settings. {AGAIN}")
    try:
        config = from_dict({**settings, "name": exported["name"]}, source=str(where))
    except ConfigError as error:
        reason = " ".join(str(error).split())[:400]
        raise UserError(
            f"{path}: the bundle is whole but does not fit this version of iac-lightning ({reason}). Use the version "
            "that its model card names, or export the run again."
        ) from error
    if others := sorted(flat(settings).keys() - flat(prediction_settings(config)).keys()):
        raise UserError(f"{where}: {', '.join(others[:3])}: no setting of prediction. {AGAIN}")
    if config.task != "segment":
        raise UserError(f"{where}: a pre-training, which segments nothing. {AGAIN}")
    return config
