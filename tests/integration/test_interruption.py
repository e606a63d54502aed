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

from iac_lightning.cli import main
from iac_lightning.cluster.slurm import RequeuedError
from iac_lightning.config.reading import load_experiment
from iac_lightning.modules.callbacks import RequeueCallback, read_history
from iac_lightning.runs.directory import load_run
from iac_lightning.workflows import train as train_workflow
from tests.integration.settings import experiment, overrides


def command(cohort: Path, runs: Path, name: str, *more: str) -> list[str]:
    settings = overrides(cohort, runs, "data.sampling.samples_per_epoch=24", "trainer.max_epochs=4", *more)
    return ["pretrain" if name == "mae" else "finetune", str(experiment(name)), *settings]


def start(words: list[str], folder: Path, environment: dict[str, str] | None = None) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "iac_lightning.cli", *words],
        env={**os.environ, "OMP_NUM_THREADS": "1", **(environment or {})},
        cwd=folder,
    )


@pytest.mark.parametrize("name", ["mae", pytest.param("vit_scratch", marks=pytest.mark.slow)])
def test_kill_in_the_middle_of_an_epoch(name: str, phantom_cohort: Path, tmp_path: Path) -> None:
    """What is killed is a process of its own; what is left alone, and what goes on, need none."""
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    more = ["model.vit.drop_path=0.2"] if name != "mae" else []
    assert main(command(phantom_cohort, whole, name, *more)) == 0

    process = start(command(phantom_cohort, broken, name, *more, "data.num_workers=0"), tmp_path)
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

    assert main(command(phantom_cohort, broken, name, *more)) == 0
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


@pytest.mark.slow
def test_the_signal_of_slurm_saves_at_the_end_of_a_batch_and_requeues(phantom_cohort: Path, tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    more = ["data.sampling.samples_per_epoch=800", "trainer.max_epochs=2", "optimizer.ema_decay=0.9"]
    assert start(command(phantom_cohort, whole, "mae", *more), tmp_path).wait() == 0

    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "scontrol").write_text(f'#!/bin/sh\necho "$*" >> {tmp_path / "requeued.txt"}\n')
    (tools / "scontrol").chmod(0o755)
    job = {"SLURM_JOB_ID": "5", "SLURM_NTASKS": "1", "SLURM_JOB_NAME": "x", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}
    job |= {"SLURM_NTASKS_PER_NODE": "1", "SLURM_NNODES": "1", "SLURM_NODEID": "0"}
    job["PATH"] = f"{tools}:{os.environ['PATH']}"
    process = start(command(phantom_cohort, broken, "mae", *more), tmp_path, job)
    deadline = time.monotonic() + 120
    while not (broken / "demo/mae/checkpoints/last.ckpt").exists():
        assert process.poll() is None, "ended before the signal"
        assert time.monotonic() < deadline
        time.sleep(0.005)
    time.sleep(0.4)  # into the second epoch
    process.send_signal(signal.SIGUSR1)
    assert process.wait() == os.EX_TEMPFAIL
    assert (tmp_path / "requeued.txt").read_text() == "requeue 5\n"
    run = load_run(broken / "demo" / "mae")
    assert not run.is_finished
    assert run.last_checkpoint is not None
    saved = torch.load(run.last_checkpoint, weights_only=True)
    assert 100 < saved["global_step"] < 200, "the signal came inside the second epoch, and so must the checkpoint"

    assert start(command(phantom_cohort, broken, "mae", *more), tmp_path, job).wait() == 0
    first, second = (
        torch.load(load_run(runs / "demo" / "mae").last_checkpoint, weights_only=True)  # type: ignore[arg-type]
        for runs in (whole, broken)
    )
    assert first["global_step"] == second["global_step"] == 200
    for key, value in first["state_dict"].items():
        assert torch.equal(value, second["state_dict"][key]), key


def test_saved_in_the_middle_of_an_epoch(phantom_cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The requeue of a SLURM job, asked for at a given step: the samples that follow are the next ones."""
    monkeypatch.setattr(train_workflow, "slurm_job", lambda: "5")  # and no scontrol: nothing is put into a queue
    states = {}
    for place, stop in (("whole", None), ("broken", 13)):
        more = ["data.sampling.samples_per_epoch=80", "trainer.max_epochs=2", "tracking.enabled=false"]
        config = load_experiment(experiment("mae"), overrides(phantom_cohort, tmp_path / place, *more))
        if stop:
            monkeypatch.setattr(RequeueCallback, "_agreed", staticmethod(lambda trainer: trainer.global_step >= 13))
            with pytest.raises(RequeuedError):
                train_workflow.train(config)
            monkeypatch.setattr(RequeueCallback, "_agreed", staticmethod(lambda trainer: False))
            saved = load_run(tmp_path / place / "demo" / "mae").last_checkpoint
            assert saved is not None
            assert torch.load(saved, weights_only=True)["global_step"] == 13
            begun = time.perf_counter()
        run = train_workflow.train(config)
        states[place] = torch.load(run.checkpoints_dir / "last.ckpt", weights_only=True)["state_dict"]
    rate = read_history(run.directory / "logs" / "history.jsonl")[-1]["train/samples_per_s"]
    assert rate > 0.9 * (80 - 3 * 8) / (time.perf_counter() - begun), "the clock began before the continued run did"
    for key, value in states["whole"].items():
        assert torch.equal(value, states["broken"][key]), key
