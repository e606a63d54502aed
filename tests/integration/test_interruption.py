"""A killed run ends as one that was never interrupted."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from iac_lightning.runs import load_run
from tests.integration.settings import experiment, overrides


def start(cohort: Path, runs: Path, name: str, *more: str) -> subprocess.Popen[bytes]:
    command = "pretrain" if name == "mae" else "finetune"
    settings = overrides(cohort, runs, "data.sampling.samples_per_epoch=24", "trainer.max_epochs=4", *more)
    return subprocess.Popen(
        [sys.executable, "-m", "iac_lightning.cli", command, str(experiment(name)), *settings],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        cwd=runs,
    )


@pytest.mark.parametrize("name", ["mae", "vit_scratch"])
def test_kill_in_the_middle_of_an_epoch(name: str, phantom_cohort: Path, tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    whole.mkdir()
    broken.mkdir()
    more = ["model.vit.drop_path=0.2"] if name != "mae" else []
    assert start(phantom_cohort, whole, name, *more).wait() == 0

    process = start(phantom_cohort, broken, name, *more, "data.num_workers=0")
    history = broken / "demo" / name / "logs" / "history.jsonl"
    deadline = time.monotonic() + 120
    while not (history.exists() and len(history.read_text().splitlines()) >= 2):
        assert process.poll() is None, "ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    run = load_run(broken / "demo" / name)
    assert not run.is_finished
    assert run.last_checkpoint is not None
    mlflow_id = run.mlflow_run_id
    assert mlflow_id

    assert start(phantom_cohort, broken, name, *more).wait() == 0
    a, b = (load_run(runs / "demo" / name) for runs in (whole, broken))
    assert b.is_finished
    assert b.mlflow_run_id == mlflow_id
    for kind in ("last_checkpoint", "best_checkpoint"):
        first, second = (torch.load(getattr(r, kind), weights_only=True) for r in (a, b))
        assert first["state_dict"].keys() == second["state_dict"].keys()
        for key, value in first["state_dict"].items():
            assert torch.equal(value, second["state_dict"][key]), f"{kind}: {key}"

    def losses(runs: Path) -> list[tuple[int, float]]:
        lines = (runs / "demo" / name / "logs" / "history.jsonl").read_text().splitlines()
        return [(row["epoch"], row["train/loss"]) for row in map(json.loads, lines)]

    assert losses(whole) == losses(broken)
    assert [epoch for epoch, _ in losses(broken)] == [0, 1, 2, 3]
