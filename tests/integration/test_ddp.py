"""Two processes do the work of one with twice the batch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.integration.settings import experiment, overrides


def train(cohort: Path, runs: Path, name: str, *more: str) -> list[dict[str, float]]:
    runs.mkdir()
    command = "pretrain" if name == "mae" else "finetune"
    settings = overrides(cohort, runs, "tracking.enabled=false", "data.sampling.samples_per_epoch=16", *more)
    subprocess.run(
        [sys.executable, "-m", "iac_lightning.cli", command, str(experiment(name)), *settings],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=True,
        timeout=240,
    )
    lines = (runs / "demo" / name / "logs" / "history.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


@pytest.mark.ddp
@pytest.mark.parametrize("name", ["mae", "cnn"])
def test_losses_agree_and_so_do_the_weights(name: str, phantom_cohort: Path, tmp_path: Path) -> None:
    one = train(phantom_cohort, tmp_path / "one", name, "data.batch_size=4")
    two = train(
        phantom_cohort, tmp_path / "two", name, "data.batch_size=2", "trainer.devices=2", "trainer.strategy=ddp"
    )
    metric = "dev/loss" if name == "mae" else "dev/dice"
    assert len(one) == len(two) == 3
    for a, b in zip(one, two, strict=True):
        assert b["step"] == a["step"]
        assert b["train/loss"] == pytest.approx(a["train/loss"], abs=2e-5)
        assert b[metric] == pytest.approx(a[metric], abs=1e-3)
    if name == "cnn":
        return  # biases before a norm have no true gradient, and AdamW makes steps of their rounding noise
    states = [
        torch.load(tmp_path / n / "demo" / name / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
        for n in ("one", "two")
    ]
    for key, value in states[0].items():
        torch.testing.assert_close(states[1][key], value, rtol=1e-3, atol=1e-4)
