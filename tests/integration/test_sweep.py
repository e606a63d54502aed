"""Real sweeps of a few tiny runs: killed and continued here, and on a SLURM cluster."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from iac_lightning.sweeps.state import open_sweep, states
from tests.integration.settings import REPOSITORY, overrides

AXES = """
name: tiny
question: Does the start matter?
base: {experiments}/demo/vit_scratch.yaml
pretrain: {experiments}/demo/mae.yaml
settings: {{trainer.max_epochs: 2, data.sampling.samples_per_epoch: 40}}
axes:
  patch:
    8: {{model.vit.patch_size: [8, 8, 8]}}
    4: {{model.vit.patch_size: [4, 4, 4]}}
  start:
    MAE: {{pretrain: true}}
    scratch: {{pretrain: false}}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "sweep.yaml"
    path.write_text(AXES.format(experiments=REPOSITORY / "experiments"), encoding="utf-8")
    return path


def settings(cohort: Path, runs: Path) -> list[str]:
    own = ("data.sampling.samples_per_epoch", "trainer.max_epochs", "model.vit.patch_size")
    return [o for o in overrides(cohort, runs) if not o.startswith(own)]


def start(file: Path, cohort: Path, runs: Path, *more: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "iac_lightning.cli", "sweep", str(file), *settings(cohort, runs), *more]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}
    return subprocess.Popen(command, env=environment, cwd=file.parent)


def wait_for(condition: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.5)


def results(runs: Path) -> dict[str, str]:
    """The evaluation of every cell, and the report's table."""
    found = {str(p.relative_to(runs)): p.read_text() for p in sorted(runs.glob("tiny/*/evaluation/*.csv"))}
    return found | {"cells": (runs / "tiny/report/cells.csv").read_text()}


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_a_killed_sweep_ends_with_the_same_tables(file: Path, phantom_cohort: Path, tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert start(file, phantom_cohort, whole).wait() == 0

    process = start(file, phantom_cohort, broken)
    wait_for(lambda: len(list(broken.glob("tiny/*_seed0/evaluation/test.csv"))) >= 1, 600)
    process.send_signal(signal.SIGKILL)
    process.wait()
    wait_for(lambda: "running" not in states(open_sweep(broken / "tiny")).values(), 120)
    assert not (broken / "tiny/report").exists()
    assert start(file, phantom_cohort, broken).wait() == 0
    assert set(states(open_sweep(broken / "tiny")).values()) == {"finished"}
    first, second = results(whole), results(broken)
    times = ("train_seconds", "seconds")
    for name, table in first.items():
        if name != "cells":
            assert second[name] == table, name
    columns = [c for c in first["cells"].splitlines()[0].split(",") if c not in times]
    assert columns == [c for c in second["cells"].splitlines()[0].split(",") if c not in times]

    import mlflow

    client = mlflow.MlflowClient(f"sqlite:///{broken / 'mlflow.db'}")
    (experiment,) = (e for e in client.search_experiments() if e.name == "demo")
    tracked = client.search_runs([experiment.experiment_id])
    parent = (broken / "tiny/mlflow_run_id").read_text().strip()
    children = [r for r in tracked if r.data.tags.get("mlflow.parentRunId") == parent]
    assert len(children) == 6
    assert len(tracked) == 7
    assert {r.info.status for r in tracked} == {"FINISHED"}


@pytest.mark.slow
@pytest.mark.slurm
@pytest.mark.timeout(1500)
@pytest.mark.skipif(
    shutil.which("sbatch") is None or subprocess.run(["sinfo"], capture_output=True).returncode != 0,
    reason="needs a SLURM cluster",
)
def test_on_a_cluster_a_signalled_cell_is_requeued_and_ends_as_the_others(
    file: Path, phantom_cohort: Path, tmp_path: Path
) -> None:
    runs = tmp_path / "runs"
    assert start(file, phantom_cohort, runs, "launcher=slurm", "launcher.time_min=20").wait() == 0
    sweep = open_sweep(runs / "tiny")
    chosen = next(cell for cell in sweep.cells if cell.kind == "finetune" and not cell.needs)
    wait_for(lambda: (runs / "tiny" / chosen.name / "config.yaml").exists(), 600)
    job = sweep.record(chosen)["job"]
    assert "_" in job, "the cells that wait for nothing are a job array"
    subprocess.run(["scancel", "--signal=USR1", job], check=True)
    wait_for(lambda: (runs / "tiny/report/index.html").exists(), 1200)
    assert set(states(sweep).values()) == {"finished"}
    log = (runs / "tiny/slurm" / f"{job}_0_log.out").read_text()
    assert f"job {job} saves and goes back into the queue" in log
    assert len(list(runs.glob("tiny/*_seed0/evaluation/test.csv"))) == 4
