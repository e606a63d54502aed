"""Killed anywhere, the same command ends with the same weights, the same calibration and one whole MLflow run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from mlflow import MlflowClient

from iac_lightning.runs.directory import Run, load_run
from tests.integration.settings import REPOSITORY, overrides

MLFLOW = "call:mlflow:MlflowClient"
MODULE = "call:iac_lightning.modules.segmentation_module:SegmentationModule"
PLACES = {
    "before_the_first_checkpoint": f"{MODULE}.training_step:3:after",
    "in_the_first_checkpoint": "save:1",
    "in_a_later_checkpoint": "save:4",
    "before_the_first_last_checkpoint": "replace:last.ckpt:1:before",
    "after_the_first_last_checkpoint": "replace:last.ckpt:1:after",
    "before_a_later_last_checkpoint": "replace:last.ckpt:2:before",
    "between_best_and_last": "replace:best.ckpt:2:after",
    "in_a_line_of_the_history": "line:history.jsonl:2",
    "opening_mlflow": f"{MLFLOW}.create_run:1:after",
    "logging_parameters": f"{MLFLOW}.log_batch:1:before",
    "logging_an_early_metric": f"{MLFLOW}.log_batch:5:after",
    "logging_a_late_metric": f"{MLFLOW}.log_batch:9:before",
    "in_a_figure": "replace:overlay.png:2:before",
    "in_a_development_prediction": "replace:_uncalibrated.nii.gz:2:before",
    "fitting_the_calibration": "call:iac_lightning.evaluation.calibration.fitting:fit:1:after",
    "in_the_reliability_figure": "replace:reliability.png:1:after",
    "in_the_calibration": "replace:calibration.json:1:before",
    "after_the_calibration": "replace:calibration.json:1:after",
    "exporting_the_model": "call:iac_lightning.workflows.mlflow_model:save_mlflow_model:1:after",
    "storing_the_model": f"{MLFLOW}.log_artifacts:1:before",
    "noting_the_end": "replace:finished.json:1:before",
    "after_the_end": "replace:finished.json:1:after",
    "setting_the_status": f"{MLFLOW}.set_terminated:1:before",
}
FAST = ("in_a_later_checkpoint",)


def drive(places: dict[str, str | None], cohort: Path, folder: Path, runs: Path | None = None) -> dict[str, list[int]]:
    """Exit statuses of each run's trainings."""
    (folder / "places.json").write_text(json.dumps(places))
    more = ("trainer.log_every_n_steps=1", "model.vit.drop_path=0.2")  # a network that draws random numbers itself
    settings = overrides(cohort, runs or folder / "runs", *more)
    subprocess.run(
        [sys.executable, "-m", "tests.integration.kill_driver", str(folder / "places.json"), *settings],
        cwd=REPOSITORY,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=True,
        timeout=1500,
    )
    statuses: dict[str, list[int]] = json.loads((folder / "places.statuses").read_text())
    return statuses


MEASURED = ("seconds", "train/data_wait_share", "train/device_busy_share", "train/samples_per_s")
"""What the clock says, which no two runs share."""


def same_weights(broken: Run, whole: Run) -> None:
    """The least that a run that was stopped must share with one that was not."""
    assert broken.is_finished
    for kind in ("last_checkpoint", "best_checkpoint"):
        a, b = (torch.load(getattr(run, kind), weights_only=True)["state_dict"] for run in (whole, broken))
        assert a.keys() == b.keys()
        assert [key for key in a if not torch.equal(a[key], b[key])] == []
    a, b = (json.loads((run.directory / "calibration.json").read_text()) for run in (whole, broken))
    for named in (a, b):
        del named["checkpoint_sha256"], named["depends_on"]  # of files that hold the name of the run
    assert a == b
    a, b = (lines(run.directory / "logs" / "history.jsonl") for run in (whole, broken))
    assert a == b
    assert not [p for p in broken.directory.rglob("*") if p.name.endswith((".tmp", ".part"))]
    assert not (broken.directory / "logs" / "tracking_spool.jsonl").exists()


def same_end(broken: Run, whole: Run, client: MlflowClient) -> None:
    """Weights, calibration, history, and all that MLflow has."""
    same_weights(broken, whole)
    experiment = client.get_experiment_by_name("demo").experiment_id
    (found,) = (r for r in client.search_runs([experiment]) if r.info.run_name == broken.config.name)
    assert found.info.run_id == broken.mlflow_run_id
    assert found.info.status == "FINISHED"
    reference = client.get_run(str(whole.mlflow_run_id))
    assert found.data.params.keys() == reference.data.params.keys()
    assert found.data.metrics.keys() == reference.data.metrics.keys()
    for name in reference.data.metrics:
        a, b = (values(client, run, name) for run in (whole, broken))
        assert list(b) == sorted(set(b)), f"{name} came twice"
        assert name in MEASURED or b == pytest.approx(a, abs=1e-5), (
            name
        )  # an epoch's mean that was restored has five decimals
    for folder in ("", "figures", "model"):
        a, b = ([f.path for f in client.list_artifacts(r.mlflow_run_id, folder)] for r in (whole, broken))
        assert a == b


def lines(path: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return [{k: v for k, v in row.items() if k not in MEASURED} for row in rows]


def values(client: MlflowClient, run: Run, name: str) -> dict[int, float]:
    history = client.get_metric_history(str(run.mlflow_run_id), name)
    steps = [m.step for m in history]
    if name != "epoch":  # Lightning itself logs the epoch several times a step
        assert len(steps) == len(set(steps)), f"{name} came twice"
    return {m.step: m.value for m in sorted(history, key=lambda m: m.step)}


def problems(places: Iterable[str], runs: Path) -> dict[str, str]:
    """What is wrong with each run beside the run `whole`."""
    whole, client, found = load_run(runs / "whole"), MlflowClient(f"sqlite:///{runs}/mlflow.db"), {}
    for name in places:
        try:
            same_end(load_run(runs / name), whole, client)
        except (AssertionError, ValueError) as error:
            found[name] = str(error)[:1500]
    return found


def check(places: dict[str, str | None], cohort: Path, folder: Path) -> None:
    statuses = drive({"whole": None, **places}, cohort, folder)
    assert statuses == {"whole": [0], **{name: [-signal.SIGKILL, 0] for name in places}}
    assert problems(places, folder / "runs") == {}


def test_killed_while_saving(phantom_cohort: Path, tmp_path: Path) -> None:
    check({name: PLACES[name] for name in FAST}, phantom_cohort, tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("part", range(4))
def test_killed_anywhere(part: int, phantom_cohort: Path, tmp_path: Path) -> None:
    names = [name for name in PLACES if name not in FAST]
    check({name: PLACES[name] for name in names[part::4]}, phantom_cohort, tmp_path)


# --- full disks -------------------------------------------------------------------------------------------------

FULL = {
    "a_checkpoint": ("fill:save:4", "checkpoints/last.ckpt"),
    "the_first_checkpoint": ("fill:save:1", "checkpoints/best.ckpt"),
    "the_history": ("fill:line:history.jsonl:1", "logs/history.jsonl"),
    "a_prediction": ("fill:replace:_uncalibrated.nii.gz:1:after", "_uncalibrated"),
    "voxels": ("fill:call:iac_lightning.evaluation.calibration.fitting:fit:1:before", "(voxels of the calibration)"),
    "the_calibration": ("fill:call:iac_lightning.workflows.calibrate:choose_point:1:after", "calibration.json"),
    "the_end": ("fill:call:iac_lightning.tracking.logger:announce_finish:1:before", "finished.json"),
}


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, which can be filled."""
    path = tmp_path / "small"
    path.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=96m", "none", str(path)], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip("needs the right to mount a tmpfs, to fill it")
    yield path
    subprocess.run(["umount", "--lazy", str(path)], check=True)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_full_disk_is_one_line_and_with_room_again_the_run_goes_on(
    phantom_cohort: Path, tmp_path: Path, small_disk: Path
) -> None:
    places = {"whole": None, **{name: place for name, (place, _) in FULL.items()}}
    statuses = drive(places, phantom_cohort, tmp_path, small_disk)
    said = {}
    for name, (_, file) in FULL.items():
        text = (tmp_path / f"{name}.0.err").read_text()
        errors = [line for line in text.splitlines() if line.startswith("error: ")]
        if len(errors) != 1 or file not in errors[0] or "the disk has no room for it" not in errors[0]:
            said[name] = text
        if "Traceback" in text:
            said[name] = text
    assert said == {}
    assert statuses == {"whole": [0], **{name: [2, 0] for name in FULL}}
    assert problems(FULL, small_disk) == {}


@pytest.mark.slow
def test_a_limit_of_file_size_is_one_line(phantom_cohort: Path, tmp_path: Path) -> None:
    """The same where nothing can be mounted; sqlite cannot grow either, and training does not care."""
    statuses = drive({"whole": None, "limited": "limit:200000"}, phantom_cohort, tmp_path)
    text = (tmp_path / "limited.0.err").read_text()
    assert statuses == {"whole": [0], "limited": [2, 0]}, text
    (line,) = (line for line in text.splitlines() if line.startswith("error: "))
    assert "best.ckpt: it is larger than a file may be here" in line
    assert "Traceback" not in text
    same_weights(load_run(tmp_path / "runs" / "limited"), load_run(tmp_path / "runs" / "whole"))
