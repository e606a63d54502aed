"""A run with random weights and a calibration that finds lesions, its bundle, and a scan to predict."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.bench import throwaway_run
from data_modules.files import write_json_atomic
from data_modules.scan.geometry import Grid, Volume
from data_modules.scan.nifti import write_nifti
from iac_lightning.runs.directory import Run, load_run
from iac_lightning.workflows.bundle import export_bundle


@pytest.fixture(scope="module")
def trained_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    directory = throwaway_run(tmp_path_factory.mktemp("runs"))
    path = directory / "calibration.json"
    known = json.loads(path.read_text()) | {"temperature": 1.3, "bias": 0.2, "plain_threshold": 0.2}
    known["operating_point"] |= {"threshold": 0.2, "least_lesion_mm3": 40.0}  # so that lesions are found
    write_json_atomic(path, known)
    return load_run(directory)


@pytest.fixture(scope="module")
def exported(trained_run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_bundle(trained_run, tmp_path_factory.mktemp("exported") / "bundle")


@pytest.fixture(scope="module")
def small_scan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("scan") / "scan.nii.gz"
    hu = np.random.default_rng(0).integers(-200, 600, (40, 32, 12)).astype(np.int16)
    write_nifti(Volume(hu, Grid((40, 32, 12), np.diag([2.0, 2.0, 4.0, 1.0]))), path)
    return path
