"""Which tokens are hidden (others each epoch, the same at every validation), and what the dev loss is the mean of."""

from __future__ import annotations

import math
from itertools import combinations
from types import SimpleNamespace
from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torchmetrics import Metric

from iac_lightning.config.schema import ExperimentConfig
from iac_lightning.models.vit_tokens import patchify
from iac_lightning.modules.mae_module import RESTORED, MAEModule
from iac_lightning.modules.masking import masking_noise
from iac_lightning.modules.reconstruction import interpolated

CROP = (16, 16, 8)


Logged = list[tuple[str, float, dict[str, Any]]]


@pytest.fixture
def logged() -> Logged:
    """What the module logs: name, value and how."""
    return []


@pytest.fixture
def module(logged: Logged, monkeypatch: pytest.MonkeyPatch) -> MAEModule:
    config = ExperimentConfig(name="tiny", task="pretrain", seed=2)
    config.data.sampling.crop, config.model.vit.patch_size = CROP, (4, 4, 4)
    config.model.vit.dim, config.model.vit.depth, config.model.vit.heads = 12, 1, 2
    config.model.mae.decoder_dim, config.model.mae.decoder_depth, config.model.mae.decoder_heads = 12, 1, 2
    module = MAEModule(config)

    def log(name: str, value: Tensor | Metric, **how: Any) -> None:
        logged.append((name, (value.compute() if isinstance(value, Metric) else value).item(), how))

    monkeypatch.setattr(module, "log", log)
    return module


def hidden(module: MAEModule, epoch: int, validation: bool = False) -> Tensor:
    """Which tokens a step hides in some epoch, `[B, N]`."""
    module._trainer = SimpleNamespace(current_epoch=epoch)  # type: ignore[assignment]
    masks: list[Tensor] = []
    hook = module.model.register_forward_hook(lambda _, __, output: masks.append(output.mask))
    batch: dict[str, Any] = {"image": torch.zeros(2, 1, *CROP), "sample_index": torch.tensor([0, 1])}
    (module.eval().validation_step if validation else module.train().training_step)(batch, 0)
    hook.remove()
    (mask,) = masks
    return mask


def test_training_hides_other_tokens_in_every_epoch(module: MAEModule) -> None:
    epochs = [hidden(module, epoch) for epoch in range(4)]
    assert all(not torch.equal(a[k], b[k]) for a, b in combinations(epochs, 2) for k in (0, 1))
    assert torch.equal(hidden(module, 2), epochs[2])  # a resumed epoch hides what it hid


def test_validation_hides_the_same_tokens_in_every_epoch(module: MAEModule) -> None:
    first, later = (hidden(module, epoch, validation=True) for epoch in (0, 3))
    assert torch.equal(first, later)
    assert not torch.equal(first[0], first[1])
    # The figure of the reconstruction hides the tokens of epoch 0: it shows what is measured.
    visible = masking_noise(2, 0, torch.tensor([0, 1]), 32).argsort(dim=1)[:, :8]
    assert torch.equal(first, torch.ones(2, 32, dtype=torch.bool).scatter(1, visible, False))


def test_what_is_logged_is_the_mean_over_samples_of_all_devices(module: MAEModule, logged: Logged) -> None:
    batch = {"image": torch.rand(3, 1, *CROP), "sample_index": torch.tensor([4, 0, 2])}
    module._trainer = SimpleNamespace(current_epoch=1)  # type: ignore[assignment]
    loss = module.training_step(batch, 0)
    module.eval().validation_step(batch, 0)
    noise = masking_noise(2, 0, torch.tensor([4, 0, 2]), 32)
    with torch.no_grad():
        expected = module.model(batch["image"], noise=noise).loss.item()
    assert logged == [
        (
            "train/loss",
            pytest.approx(loss.item()),
            {"on_step": True, "on_epoch": True, "sync_dist": True, "batch_size": 3},
        ),
        ("dev/loss", pytest.approx(expected), {"prog_bar": True, "batch_size": 3}),
    ]
    assert loss.requires_grad


def test_a_last_small_batch_weighs_by_its_samples(module: MAEModule, logged: Logged) -> None:
    data, trainer = module.config.data, module.config.trainer
    data.batch_size, data.sampling.samples_per_epoch, trainer.accumulate_grad_batches = 2, 3, 2
    module._trainer = SimpleNamespace(current_epoch=0)  # type: ignore[assignment]
    batch = {"image": torch.rand(1, 1, *CROP), "sample_index": torch.tensor([2])}
    returned = module.training_step(batch, 1).item()
    assert returned == pytest.approx(logged[0][1] * 2 / 3)  # one of three samples, in one of two batches


def config() -> ExperimentConfig:
    tiny = ExperimentConfig(name="tiny", task="pretrain")
    tiny.data.sampling.crop = CROP
    tiny.model.vit.dim, tiny.model.vit.depth, tiny.model.vit.heads = 24, 1, 2
    tiny.model.vit.patch_size = (8, 8, 4)
    tiny.model.mae.decoder_dim, tiny.model.mae.decoder_heads = 12, 2
    return tiny


def crops(n: int) -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [{"image": torch.rand(1, *CROP, generator=generator), "sample_index": torch.tensor(k)} for k in range(n)]


def validated(module: MAEModule, items: list[dict[str, torch.Tensor]], precision: str = "32-true") -> float:
    trainer = L.Trainer(
        accelerator="cpu", devices=1, precision=precision, logger=False, enable_progress_bar=False,
        enable_model_summary=False, enable_checkpointing=False,
    )  # type: ignore[arg-type] # fmt: skip
    (metrics,) = trainer.validate(module, DataLoader(items, batch_size=4), verbose=False)  # type: ignore[arg-type]
    assert set(metrics) == {"dev/loss", *RESTORED}
    return metrics["dev/loss"]


def test_the_development_loss_is_the_mean_over_crops_not_over_batches() -> None:
    L.seed_everything(0, verbose=False)
    module, items = MAEModule(config()), crops(6)  # batches of four and two
    losses = []
    with torch.no_grad():
        for item in items:
            noise = masking_noise(0, 0, item["sample_index"][None], module.network.encoder.n_tokens)  # type: ignore[union-attr, arg-type]
            losses.append(float(module.network.eval()(item["image"][None], noise=noise).loss))
    assert validated(module, items) == pytest.approx(sum(losses) / 6, rel=1e-5)
    assert validated(module, items) == pytest.approx(sum(losses) / 6, rel=1e-5)  # the first is forgotten


@pytest.mark.parametrize("standardised", [False, True])
def test_what_was_restored_is_measured_against_interpolation_and_the_patches_own_means(standardised: bool) -> None:
    settings = config()
    settings.model.mae.normalise_targets = standardised
    module, items = MAEModule(settings), crops(6)
    trainer = L.Trainer(
        accelerator="cpu", devices=1, logger=False, enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=False,
    )  # fmt: skip
    (metrics,) = trainer.validate(module, DataLoader(items, batch_size=4), verbose=False)  # type: ignore[arg-type]
    network: Any = module.network.eval()
    truth: list[Tensor] = []
    said: dict[str, list[Tensor]] = {name: [] for name in RESTORED}
    for item in items:
        noise = masking_noise(0, 0, item["sample_index"][None], network.n_tokens)
        with torch.no_grad():
            output = network(item["image"][None], noise=noise)
        patches = patchify(item["image"][None], network.patch_size)
        hidden = output.mask
        between = interpolated(patches, hidden, network.grid, network.patch_size, settings.data.grid.spacing_mm)
        if standardised:  # interpolation is told what the network is told
            floor = 30 * 2 / 1200
            spread = [(x.var(-1, keepdim=True) + floor**2).sqrt() for x in (between, patches)]
            between = (between - between.mean(-1, keepdim=True)) / spread[0] * spread[1]
            between = between + patches.mean(-1, keepdim=True)
        truth.append(patches[hidden])
        said["dev/r2"].append(patchify(output.reconstruction, network.patch_size)[hidden])
        said["dev/r2_interpolation"].append(between[hidden])
        said["dev/r2_patch_mean"].append(patches.mean(-1, keepdim=True).expand_as(patches)[hidden])
    x = torch.cat(truth)
    for name, values in said.items():
        expected = 1 - (torch.cat(values) - x).square().sum() / (x - x.mean()).square().sum()
        assert metrics[name] == pytest.approx(expected.item(), rel=1e-4, abs=1e-5), name


def test_a_loss_that_is_no_number_is_shown() -> None:
    items = crops(6)
    items[5]["image"] = torch.full((1, *CROP), math.nan)
    assert math.isnan(validated(MAEModule(config()), items))


def test_halved_numbers_are_summed_in_full() -> None:
    """In bfloat16 a sum of 512 crops of one loss would stop growing long before its end."""
    L.seed_everything(0, verbose=False)
    settings = config()
    settings.model.vit.tokeniser = "linear"  # a CPU averages no cells in bfloat16
    module = MAEModule(settings)
    items: list[Any] = [{"image": crops(1)[0]["image"], "sample_index": torch.tensor(0)}] * 512
    few = validated(module, items[:4], "bf16-true")
    assert validated(module, items, "bf16-true") == pytest.approx(few, rel=1e-5)
