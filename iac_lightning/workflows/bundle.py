"""A trained model as a folder that stands alone: weights, the settings of prediction, calibration, model card.

Nothing in it is unpickled, and nothing in it tells where or on whom it was made: no folders, no ids of patients.
"""

from __future__ import annotations

import hashlib
import json
from importlib import metadata
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save

from data_modules.errors import UserError
from data_modules.files import replacing_folder, write_json_atomic, write_text_atomic
from iac_lightning.config.reading import ConfigError, from_dict
from iac_lightning.config.schema import ExperimentConfig
from iac_lightning.config.stored import config_dict
from iac_lightning.evaluation.calibration.record import Calibration
from iac_lightning.models.build import build_model
from iac_lightning.runs.directory import Run
from iac_lightning.workflows.calibrate import load_calibrated
from iac_lightning.workflows.model_card import model_card
from iac_lightning.workflows.trained import CalibratedModel, inference_device

FORMAT = "iac-lightning bundle"
VERSION = 1
"""Raised when an older `load_bundle` could not read, or would misread, what is written now."""

MANIFEST = "manifest.json"
WEIGHTS = "weights.safetensors"
SETTINGS = "model.json"
CALIBRATION = "calibration.json"
TRAINED_ON = "trained_on.json"
CARD = "MODEL_CARD.md"
FILES = (WEIGHTS, SETTINGS, CALIBRATION, TRAINED_ON, CARD)

_PACKAGES = ("iac-lightning", "torch", "monai", "numpy", "scipy", "SimpleITK", "safetensors")


def export_bundle(run: Run, out: Path) -> Path:
    """Write the best weights of a run (the averaged ones, where it averages) and what prediction needs beside them.

    `out` gets `weights.safetensors`, `model.json`, `calibration.json`, `trained_on.json` (salted hashes, for the
    leakage guard), `MODEL_CARD.md` and `manifest.json` with the SHA-256 of each. The folder appears whole or not at
    all; the same run gives the same bytes.

    Args:
        run: a calibrated segmentation run.
        out: folder; an earlier bundle there is replaced.

    Raises:
        UserError: when the run cannot predict, or `out` is something else than a bundle.
    """
    out = Path(out)
    if (out.exists() and not out.is_dir()) or (out.is_dir() and any(out.iterdir()) and not is_bundle(out)):
        raise UserError(f"{out}: exists and is not a bundle (no {MANIFEST} of one). Give another folder, or move it.")
    model = load_calibrated(run)
    settings = {
        "name": run.config.name,
        "checkpoint_sha256": model.checkpoint_sha256,
        "settings": prediction_settings(run.config),
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
                "format_version": VERSION,
                "checkpoint_sha256": model.checkpoint_sha256,
                "sha256": {name: sha256(folder / name) for name in FILES},
            },
        )
    return out


def prediction_settings(config: ExperimentConfig) -> dict[str, Any]:
    """The settings that prediction depends on, as `from_dict` takes them; the template is not among them.

    A template is somebody's file in somebody's folder; whoever predicts whole heads names theirs.
    """
    everything = config_dict(config)
    model, data = everything["model"], everything["data"]
    network = ("name", "cnn") if config.model.name == "cnn" else ("name", "vit", "decoder")
    return {
        "task": config.task,
        "model": {key: model[key] for key in network},
        "data": {
            "window_hu": data["window_hu"],
            "grid": {key: value for key, value in data["grid"].items() if key != "template"},
            "sampling": {"crop": data["sampling"]["crop"]},
        },
        "loss": {"restrict_hu": everything["loss"]["restrict_hu"]},
        "inference": everything["inference"],
    }


def load_bundle(path: Path) -> CalibratedModel:
    """A model to predict with, from the folder that `export_bundle` wrote.

    Raises:
        UserError: when the folder is not a bundle, is of a newer format, or any file is missing, cut off or changed.
    """
    path = Path(path)
    check_manifest(path)
    exported = _json(path / SETTINGS)
    try:
        config = from_dict({"name": exported["name"], **exported["settings"]}, source=str(path / SETTINGS))
        network = build_model(config)
        network.load_state_dict(load_file(path / WEIGHTS))
    except (KeyError, TypeError, RuntimeError, SafetensorError, ConfigError) as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(
            f"{path}: the bundle is whole but does not fit this version of iac-lightning ({reason}). Use the version "
            "that its model card names, or export the run again."
        ) from error
    device = inference_device()
    return CalibratedModel(
        config=config,
        network=network.to(device).eval(),
        device=device,
        checkpoint_sha256=exported["checkpoint_sha256"],
        trained_on=_json(path / TRAINED_ON),
        calibration=Calibration.from_dict(_json(path / CALIBRATION), path / CALIBRATION),
    )


def check_manifest(path: Path) -> None:
    """Refuse a folder whose files are not those that were exported.

    Raises:
        UserError: with one line.
    """
    again = "Copy it again whole, or export the run again: iac export RUN OUT"
    if not is_bundle(path):
        what = f"not a bundle (no {MANIFEST} of one)" if path.exists() else "there is no such folder"
        raise UserError(f"{path}: {what}. Give a folder that `iac export RUN OUT` wrote.")
    manifest = _json(path / MANIFEST)
    version = manifest.get("format_version")
    if not isinstance(version, int) or version > VERSION:
        raise UserError(
            f"{path}: a bundle of format {version}; this version reads up to {VERSION}. Update iac-lightning."
        )
    sums = manifest.get("sha256")
    if not isinstance(sums, dict) or sorted(sums) != sorted(FILES):
        raise UserError(f"{path / MANIFEST}: does not list the files of a bundle ({', '.join(FILES)}). {again}")
    for name in FILES:
        if not (path / name).is_file():
            raise UserError(f"{path / name}: is missing from the bundle. {again}")
        if sha256(path / name) != sums[name]:
            raise UserError(f"{path / name}: is not the file that was exported (cut off, or changed). {again}")


def is_bundle(path: Path) -> bool:
    """Whether a folder says that it is a bundle."""
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(manifest, dict) and manifest.get("format") == FORMAT


def sha256(path: Path) -> str:
    """Hexadecimal hash of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
