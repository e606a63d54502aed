"""Steps in bfloat16 and compiled steps against plain ones."""

from __future__ import annotations

from typing import Any

import lightning as L
import pytest
import torch
from torch.utils.data import DataLoader

from iac_lightning.config.schema import ExperimentConfig
from iac_lightning.modules.common import ExperimentModule
from iac_lightning.modules.mae_module import MAEModule
from iac_lightning.modules.segmentation_module import SegmentationModule

CROP = (16, 16, 8)


def tiny(task: str, name: str) -> ExperimentConfig:
    config = ExperimentConfig(name="tiny", task=task)
    config.data.sampling.crop, config.data.batch_size, config.data.sampling.samples_per_epoch = CROP, 4, 12
    config.model.name = name
    config.model.vit.dim, config.model.vit.depth, config.model.vit.heads = 24, 2, 2
    config.model.vit.patch_size = (8, 8, 4)
    config.model.mae.decoder_dim, config.model.mae.decoder_heads = 12, 2
    config.model.decoder.channels = config.model.cnn.base_features = 4
    return config


def batches() -> DataLoader[Any]:
    generator = torch.Generator().manual_seed(1)
    items = []
    for index in range(12):
        image = torch.rand(1, *CROP, generator=generator) * 2 - 1
        items.append(
            {
                "image": image,
                "label": (image > 0.9).float(),
                "loss_region": image > 0,
                "sample_index": torch.tensor(index),
            }
        )
    return DataLoader(items, batch_size=4)


def train(
    task: str, name: str, precision: str = "32-true", compiled: bool = False
) -> tuple[ExperimentModule, list[float]]:
    """Three steps; the module and its losses."""
    L.seed_everything(0, verbose=False)
    config, losses = tiny(task, name), []
    module: ExperimentModule = MAEModule(config) if task == "pretrain" else SegmentationModule(config)
    if compiled:
        module.model.compile()

    class Record(L.Callback):
        def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            losses.append(outputs["loss"].item())

        def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
            gradients = [p.grad for p in pl_module.parameters() if p.grad is not None]
            assert all(g.dtype == torch.float32 and torch.isfinite(g).all() for g in gradients)

    trainer = L.Trainer(
        accelerator="cpu", devices=1, precision=precision, max_epochs=1, limit_val_batches=0, logger=False,
        callbacks=[Record()], enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # type: ignore[arg-type] # fmt: skip
    trainer.fit(module, batches())
    return module, losses


@pytest.mark.parametrize(("task", "name"), [("pretrain", "vit"), ("segment", "vit"), ("segment", "cnn")])
def test_bf16_mixed_stays_close_to_float32(task: str, name: str) -> None:
    _, plain = train(task, name)
    module, mixed = train(task, name, "bf16-mixed")
    assert len(plain) == 3
    assert mixed != plain  # bfloat16 was at work
    assert mixed == pytest.approx(plain, rel=0.02)  # eight bits: 0.4 % a rounding
    assert {p.dtype for p in module.parameters()} == {torch.float32}


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("task", "name"), [("pretrain", "vit"), ("segment", "vit"), ("segment", "cnn")])
def test_compiled_steps_give_the_same_losses_and_names(task: str, name: str) -> None:
    plain_module, plain = train(task, name)
    module, compiled = train(task, name, compiled=True)
    assert module.model._compiled_call_impl is not None
    assert compiled == pytest.approx(plain, abs=1e-4)
    assert module.state_dict().keys() == plain_module.state_dict().keys()
