"""Two processes (gloo) do the work of one: training with the same global batch, and evaluation."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from iac_lightning.runs.directory import load_run
from tests.integration import recorded
from tests.integration.settings import REPOSITORY, experiment, overrides

pytestmark = [pytest.mark.ddp, pytest.mark.timeout(900)]

TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
CLI = ["-m", "iac_lightning.cli"]
RECORDED = str(REPOSITORY / "tests" / "integration" / "recorded.py")
DIVERGING = str(REPOSITORY / "tests" / "integration" / "diverging.py")
FSDP = str(REPOSITORY / "tests" / "integration" / "fsdp_on_cpu.py")
SAMPLES, EPOCHS = 16, 3


def python(arguments: Sequence[str], **settings: Any) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}
    return subprocess.run(
        [sys.executable, *arguments], env=environment, capture_output=True, text=True, timeout=600, **settings
    )


def checked(arguments: Sequence[str], **settings: Any) -> str:
    done = python(arguments, **settings)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


FAILING = """
import sys
from data_modules.errors import UserError
from iac_lightning.cluster import sharding

def square(items):
    for item in items:
        if item == 3 and case == "broken":
            raise UserError("item 3 is broken")
        yield item * item

sharding.launch("cpu", 2)
rank, world = sharding.process()
assert world == 2
for case in ("fine", "broken", "late"):
    try:
        with sharding.together():
            squares = sharding.share_out(square, range(5))
            first = sharding.on_first(lambda: rank + 7)
            if case == "late" and rank == 1:
                raise ValueError("after the last exchange")
            sys.stdout.write(f"{case} rank {rank}: {squares} {first}\\n")
    except Exception as error:
        sys.stdout.write(f"{case} rank {rank}: {isinstance(error, UserError)} {error}\\n")
"""
"""Shares work out three times: nobody fails, one at its items, one after the last exchange."""


@dataclass
class Training:
    run: Path
    ranks: list[dict[str, Any]]

    @property
    def losses(self) -> list[float]:
        """Of every batch: the mean over the samples of all processes."""
        steps = zip(*(rank["batches"] for rank in self.ranks), strict=True)
        return [
            sum(b["loss"] * len(b["samples"]) for b in step) / sum(len(b["samples"]) for b in step) for step in steps
        ]

    @property
    def gradient_norms(self) -> list[float]:
        return self.ranks[0]["gradient_norms"]

    def samples(self, epoch: int) -> list[int]:
        return [s for rank in self.ranks for b in rank["batches"] if b["epoch"] == epoch for s in b["samples"]]

    @property
    def history(self) -> list[dict[str, float]]:
        return [json.loads(line) for line in (self.run / "logs" / "history.jsonl").read_text().splitlines()]

    @property
    def weights(self) -> dict[str, torch.Tensor]:
        return torch.load(self.run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


def train(cohort: Path, folder: Path, name: str, *more: str, launcher: Sequence[str] = ()) -> Training:
    settings = overrides(
        cohort, folder / "runs", "tracking.enabled=false", f"data.sampling.samples_per_epoch={SAMPLES}", *more
    )
    if launcher or "trainer.devices=2" in more:
        checked([*launcher, RECORDED, str(folder), str(experiment(name)), *settings])
    else:
        recorded.main(folder, experiment(name), settings)
    ranks = [json.loads(path.read_text()) for path in sorted(folder.glob("rank*.json"))]
    return Training(folder / "runs" / "demo" / name, ranks)


def learnt(key: str, value: torch.Tensor) -> torch.Tensor:
    """Weights without the bias of an attention's keys, which softmax does not see: its gradient is rounding noise, of
    which AdamW makes steps."""
    if not key.endswith("qkv.bias"):
        return value
    query, _, of_value = value.chunk(3)
    return torch.cat([query, of_value])


@pytest.mark.parametrize("name", ["mae", "vit_scratch", pytest.param("cnn", marks=pytest.mark.slow)])
def test_losses_and_gradients_of_every_step_agree(name: str, phantom_cohort: Path, tmp_path: Path) -> None:
    one = train(phantom_cohort, tmp_path / "one", name, "data.batch_size=4")
    two = train(phantom_cohort, tmp_path / "two", name, "data.batch_size=2", "trainer.devices=2")
    assert (len(one.ranks), len(two.ranks)) == (1, 2)
    assert len(one.losses) == EPOCHS * SAMPLES / 4
    assert two.losses == pytest.approx(one.losses, abs=1e-5, rel=0)
    assert two.gradient_norms == pytest.approx(one.gradient_norms, rel=1e-4)
    for epoch in range(EPOCHS):
        assert sorted(two.samples(epoch)) == one.samples(epoch) == list(range(SAMPLES))
    for a, b in zip(one.history, two.history, strict=True):
        assert b["step"] == a["step"]
        assert b["train/loss"] == pytest.approx(a["train/loss"], abs=1e-5, rel=0)
        assert 0 <= b["train/data_wait_share"] <= 1
        assert 0 < b["train/device_busy_share"] <= 1
        assert b["train/samples_per_s"] > 0
    metric = "dev/loss" if name == "mae" else "dev/dice"
    assert two.history[-1][metric] == pytest.approx(one.history[-1][metric], abs=1e-3)
    if name == "cnn":
        return  # biases before a norm have no true gradient, and AdamW makes steps of their rounding noise
    for key, value in one.weights.items():
        torch.testing.assert_close(learnt(key, two.weights[key]), learnt(key, value), rtol=1e-3, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("step", [3, 6])  # before any checkpoint; with one
def test_all_processes_stop_where_one_has_a_loss_that_is_not_finite(
    step: int, phantom_cohort: Path, tmp_path: Path
) -> None:
    settings = overrides(
        phantom_cohort, tmp_path, "tracking.enabled=false", "data.batch_size=1", "trainer.devices=2", "name=mae"
    )
    done = python([DIVERGING, str(step), "1", str(experiment("mae")), *settings])
    assert done.returncode == 2
    assert f"the gradient is not finite in step {step} of 12" in done.stderr or "the loss is not finite" in done.stderr
    checkpoints = sorted(p.name for p in (tmp_path / "mae/checkpoints").iterdir())
    assert checkpoints == ([] if step < 4 else ["best.ckpt", "last.ckpt"])
    assert checked(["-m", "iac_lightning.cli", "pretrain", str(experiment("mae")), *settings])
    assert load_run(tmp_path / "mae").finished["steps"] == 12


@pytest.mark.slow
def test_a_global_batch_is_the_same_for_every_split(phantom_cohort: Path, tmp_path: Path) -> None:
    """Also in a last update of fewer samples, 16 = 2 · 6 + 4, whose batches may be unequal (3 and 1)."""
    wanted = ["trainer.global_batch=6", "trainer.max_epochs=2"]
    splits = {
        "whole": ["data.batch_size=6"],
        "accumulated": ["data.batch_size=3"],
        "two": ["data.batch_size=1", "trainer.devices=2"],
    }
    runs = {name: train(phantom_cohort, tmp_path / name, "mae", *wanted, *split) for name, split in splits.items()}
    whole = runs["whole"]
    for name, run in runs.items():
        assert run.gradient_norms == pytest.approx(whole.gradient_norms, rel=1e-5), name
        assert len(run.gradient_norms) == 2 * 3
        for a, b in zip(whole.history, run.history, strict=True):
            assert b["step"] == a["step"]
            assert b["train/loss"] == pytest.approx(a["train/loss"], abs=1e-5, rel=0)
        for key, value in whole.weights.items():
            torch.testing.assert_close(learnt(key, run.weights[key]), learnt(key, value), rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_torchrun_trains_and_evaluates(phantom_cohort: Path, tmp_path: Path) -> None:
    settings = ["trainer.max_epochs=1", "data.batch_size=2", "tracking.enabled=true"]
    lightning = train(phantom_cohort, tmp_path / "lightning", "vit_scratch", *settings, "trainer.devices=2")
    torchrun = train(
        phantom_cohort, tmp_path / "torchrun", "vit_scratch", *settings, "trainer.devices=2", launcher=TORCHRUN
    )
    assert torchrun.losses == lightning.losses
    run = load_run(torchrun.run)
    assert run.is_finished
    assert run.finished["global_batch"] == 4
    import mlflow

    client = mlflow.MlflowClient(f"sqlite:///{tmp_path}/torchrun/runs/mlflow.db")
    experiment_id = client.get_experiment_by_name(run.config.tracking.experiment).experiment_id
    (tracked,) = client.search_runs([experiment_id])  # by the first process alone
    assert tracked.info.status == "FINISHED"
    assert "train/data_wait_share" in tracked.data.metrics
    # The calibration at the end of training was shared out; alone, it is the same.
    calibration = (run.directory / "calibration.json").read_text()
    shutil.rmtree(run.directory / "predictions")
    (run.directory / "calibration.json").unlink()
    checked([*CLI, "calibrate", str(run.directory)])
    assert (run.directory / "calibration.json").read_text() == calibration

    tables = {}
    for name, command in {
        "one": [*CLI, "evaluate", str(run.directory)],
        "two": [*CLI, "evaluate", str(run.directory), "--devices", "2"],
        "torchrun": [*TORCHRUN, *CLI, "evaluate", str(run.directory)],
    }.items():
        shutil.rmtree(run.directory / "predictions")
        (run.directory / "calibration.json").unlink()
        out = checked(command)
        assert out.count("scan by scan") == 1
        tables[name] = [(run.directory / "evaluation" / f"test{end}.csv").read_bytes() for end in ("", "_controls")]
        summary = json.loads((run.directory / "evaluation" / "test.json").read_text())
        assert summary["n_series"] == 3
    assert tables["one"] == tables["two"] == tables["torchrun"]
    table = pd.read_csv(run.directory / "evaluation" / "test.csv")
    assert table["series_id"].is_unique
    assert np.isfinite(table["volume_mm3"]).all()
    assert table["volume_mm3"].sum() > 0


def test_a_process_that_fails_stops_the_other_with_its_error(tmp_path: Path) -> None:
    script = tmp_path / "fails.py"
    script.write_text(FAILING)
    assert sorted(line for line in checked([str(script)]).splitlines() if " rank " in line) == [
        "broken rank 0: True item 3 is broken",  # item 3 is process 1's
        "broken rank 1: True item 3 is broken",
        "fine rank 0: [0, 1, 4, 9, 16] 7",
        "fine rank 1: [0, 1, 4, 9, 16] 7",
        "late rank 0: False process 1 failed: after the last exchange",
        "late rank 0: [0, 1, 4, 9, 16] 7",
        "late rank 1: False after the last exchange",
    ]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mae", "vit_scratch"])
def test_fsdp_learns_what_one_process_learns_and_resumes(
    name: str, phantom_cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Decay by layer and of weights alone shows whether the groups survive FSDP, which flattens parameters; a small
    # limit clips every gradient.
    more = ["optimizer.ema_decay=0", "optimizer.weight_decay=0.5", "trainer.gradient_clip_val=0.05"]
    more += ["optimizer.layer_decay=0.75"] if name != "mae" else []
    one = train(phantom_cohort, tmp_path / "one", name, "data.batch_size=4", *more)

    folder = tmp_path / "fsdp"
    settings = overrides(
        phantom_cohort, folder / "runs", "tracking.enabled=false", f"data.sampling.samples_per_epoch={SAMPLES}",
        "data.batch_size=2", "trainer.devices=2", "trainer.accelerator=auto", "trainer.strategy=fsdp", *more,
    )  # fmt: skip
    command = [FSDP, str(folder), str(experiment(name)), *settings]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("STOP_AT_EPOCH", "2")
    broken = python(command)
    assert broken.returncode != 0
    assert "stopped by the test" in broken.stderr  # the reason is told, by every strategy
    monkeypatch.delenv("STOP_AT_EPOCH")
    checked(command)
    resumed = Training(folder / "runs" / "demo" / name, [json.loads(p.read_text()) for p in folder.glob("rank*.json")])
    per_epoch = SAMPLES // 4
    assert resumed.losses == pytest.approx(one.losses[2 * per_epoch :], abs=1e-4)
    for a, b in zip(one.history, resumed.history, strict=True):
        assert b["train/loss"] == pytest.approx(a["train/loss"], abs=1e-4)
        metric = "dev/loss" if name == "mae" else "dev/dice"
        assert b[metric] == pytest.approx(a[metric], abs=2e-3)
    assert resumed.weights.keys() == one.weights.keys()
    run = load_run(resumed.run)
    assert run.is_finished
    from iac_lightning.models.build import build_model

    build_model(run.config).load_state_dict({k.removeprefix("model."): v for k, v in resumed.weights.items()})
