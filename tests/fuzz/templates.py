"""What damaged checkpoints, bundles and prepared volumes are copies of: made once for all inputs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch

from benchmarks.bench import throwaway_run
from data_modules.config import DataConfig, GridConfig
from data_modules.prepare.preparation import prepare_cohort
from iac_lightning.modules.checkpoint import AtomicCheckpointIO
from iac_lightning.runs.directory import load_run
from iac_lightning.workflows.bundle import export_bundle
from iac_lightning.workflows.trained import file_digest
from tests.fuzz import head, nifti_inputs

_folder: Path | None = None


def make(folder: Path) -> None:
    """A run with random weights, its bundle, and a prepared cohort of two heads."""
    global _folder
    run = throwaway_run(folder / "runs")
    path = run / "checkpoints" / "best.ckpt"
    AtomicCheckpointIO().save_checkpoint(torch.load(path, weights_only=True), path)  # as a training writes it
    calibration = json.loads((run / "calibration.json").read_text())
    known: dict[str, Any] = {"temperature": 1.3, "bias": 0.2, "plain_threshold": 0.3}
    known["operating_point"] = calibration["operating_point"] | {"threshold": 0.4, "least_lesion_mm3": 2.0}
    known["checkpoint_sha256"] = file_digest(path)
    (run / "calibration.json").write_text(json.dumps(calibration | known))
    export_bundle(load_run(run), folder / "bundle")
    data = folder / "data"
    save_cohort(data)
    prepare_cohort(data_config(data))
    _folder = folder


def save_cohort(data: Path) -> None:
    for shift_hu, name in enumerate("AB"):  # the image of one patient is no other's
        nifti_inputs.save(nifti_inputs.image(head.simulated_hu() + shift_hu), data / f"{name}.nii.gz")
        nifti_inputs.save(nifti_inputs.image(head.lesion_mask()), data / f"{name}_label.nii.gz")
    header = "patient_id,series_id,image,label,split,slice_thickness_mm,kernel,manufacturer"
    rows = [f"P{name},{name},{name}.nii.gz,{name}_label.nii.gz,finetune,4,H31s,X" for name in "AB"]
    (data / "cohort.csv").write_text("\n".join([header, *rows]) + "\n")


def data_config(data: Path) -> DataConfig:
    grid = GridConfig(spacing_mm=(1.6, 1.6, 3.2), roi_mm=(64.0, 52.0, 36.0))
    return DataConfig(cohort=str(data / "cohort.csv"), prepare_workers=1, grid=grid)


def original(name: str) -> Path:
    """A template, to compare with."""
    assert _folder is not None, "make the templates first"
    return _folder / name


def copied(name: str, folder: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(original(name), folder / Path(name).name))
