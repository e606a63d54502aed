"""Trains as `iac pretrain` and `iac finetune` do, and notes what each process saw: samples, losses, gradients.

    python tests/integration/recorded.py FOLDER EXPERIMENT key=value …

writes `FOLDER/rank<k>.json` with one entry a batch (`epoch`, `samples`, `loss`) and one an update (`gradient_norm`,
before clipping).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import Callback

from iac_lightning.config.reading import load_experiment
from iac_lightning.workflows import train as workflow


class Recorder(Callback):
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.batches: list[dict[str, Any]] = []
        self.updates: list[float] = []

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.batches.append(
            {
                "epoch": trainer.current_epoch,
                "samples": batch["sample_index"].tolist(),
                "loss": outputs["loss"].item() * trainer.accumulate_grad_batches,
            }
        )

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Any) -> None:
        # In float64, so that the order of summation does not show; a shared parameter has only its part here.
        gradients = [p.grad.double().square().sum() for p in pl_module.parameters() if p.grad is not None]
        self.updates.append(float(torch.stack(gradients).sum().sqrt()))

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        result = {"batches": self.batches, "gradient_norms": self.updates}
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / f"rank{trainer.global_rank}.json").write_text(json.dumps(result))


def main(folder: Path, experiment: Path, settings: list[str]) -> None:
    build = workflow.build_trainer

    def recorded(*arguments: Any) -> L.Trainer:
        trainer = build(*arguments)
        trainer.callbacks.append(Recorder(folder))  # type: ignore[attr-defined]
        return trainer

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(workflow, "build_trainer", recorded)
        workflow.train(load_experiment(experiment, settings))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
