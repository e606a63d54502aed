"""Steps in bfloat16 and compiled steps against plain ones."""

from __future__ import annotations

from typing import Any

import lightning as L
import pytest
import torch
from torch._dynamo.testing import CompileCounter
from torch.utils.data import DataLoader

from iac_lightning.config.schema import ExperimentConfig
from iac_lightning.models.condition import usual_condition
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


def batches(samples: int = 12) -> DataLoader[Any]:
    generator = torch.Generator().manual_seed(1)
    items = []
    for index in range(samples):
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
        config.trainer.compile = "default"

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


def network(task: str, name: str, *settings: str) -> ExperimentConfig:
    """A tiny experiment whose network has other parts than the default."""
    config = tiny(task, name)
    config.trainer.compile = "default"
    config.model.vit.depth = 1
    for key, value in (setting.split("=") for setting in settings):
        *sections, last = key.split(".")
        section = config.model
        for part in sections:
            section = getattr(section, part)
        setattr(section, last, TOLD if key == "condition_on" else value if key in TEXT else True)
    return config


TOLD = ("position", "slice_thickness")
TEXT = ("decoder.name", "decoder.upsampling", "cnn.encoder")


@pytest.fixture
def counter(monkeypatch: pytest.MonkeyPatch) -> CompileCounter:
    """Counts graphs in place of compiling them; a break in a graph is an error."""
    torch._dynamo.reset()
    counter, compile_step = CompileCounter(), ExperimentModule.compile_step
    monkeypatch.setattr(ExperimentModule, "compile_step", lambda self: compile_step(self, counter))
    return counter


@pytest.mark.parametrize(
    "settings",
    [
        ("pretrain", "vit", "mae.normalise_targets=true", "vit.activation_checkpointing=true"),
        ("segment", "vit", "decoder.name=linear"),
        ("segment", "vit", "decoder.name=progressive", "decoder.upsampling=transposed"),
        ("segment", "vit", "decoder.name=unetr", "decoder.upsampling=interpolation"),
        (
            "segment",
            "vit",
            "decoder.name=unetr",
            "decoder.upsampling=pixelshuffle",
            "vit.activation_checkpointing=true",
        ),
        ("segment", "cnn", "cnn.deep_supervision=true"),
        ("segment", "cnn", "cnn.encoder=residual", "cnn.activation_checkpointing=true"),
        ("pretrain", "vit", "condition_on=told"),
        ("segment", "vit", "condition_on=told", "vit.activation_checkpointing=true"),
        ("segment", "cnn", "condition_on=told", "cnn.activation_checkpointing=true"),
    ],
)
def test_network_and_loss_are_one_graph(settings: tuple[str, ...], counter: CompileCounter) -> None:
    config = network(*settings)
    module: ExperimentModule = MAEModule(config) if config.task == "pretrain" else SegmentationModule(config)
    module.compile_step()
    batch = next(iter(batches()))
    if isinstance(module, MAEModule):
        inputs = batch["image"], module._noise(batch, 0)
    else:
        inputs = batch["image"], batch["label"], batch["loss_region"]
    inputs = *inputs, *usual_condition(config.model.condition_on, len(batch["image"])).values()
    for _ in range(2):
        module.training_pass(*inputs).sum().backward()
    assert counter.frame_count == 1


@pytest.mark.parametrize(("task", "name"), [("pretrain", "vit"), ("segment", "vit")])
def test_nothing_is_compiled_again(task: str, name: str, counter: CompileCounter) -> None:
    """Three epochs of two whole batches and a smaller one, each with a validation in another mode and shape."""
    losses: dict[str, list[float]] = {}

    class Between(L.Callback):
        def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            losses.setdefault(pl_module.config.trainer.compile, []).append(outputs["loss"].item())

        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            pl_module.eval()
            with torch.inference_mode():
                pl_module.network(torch.zeros(3, 1, *CROP))
            pl_module.train()

    for compiled in ("off", "default"):
        config = network(task, name)
        config.trainer.compile, config.model.vit.drop_path = compiled, 0.5
        L.seed_everything(0, verbose=False)
        module: ExperimentModule = MAEModule(config) if task == "pretrain" else SegmentationModule(config)
        trainer = L.Trainer(
            accelerator="cpu", devices=1, max_epochs=3, limit_val_batches=0, logger=False, callbacks=[Between()],
            enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        )  # fmt: skip
        trainer.fit(module, batches(10))
    assert counter.frame_count == 1
    assert len(losses["off"]) == 9
    assert losses["default"] == losses["off"]


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("task", "name"), [("pretrain", "vit"), ("segment", "vit"), ("segment", "cnn")])
def test_compiled_steps_give_the_same_losses_and_names(task: str, name: str) -> None:
    plain_module, plain = train(task, name)
    module, compiled = train(task, name, compiled=True)
    assert module._compiled is not None
    assert compiled == pytest.approx(plain, abs=1e-4)
    assert module.state_dict().keys() == plain_module.state_dict().keys()
