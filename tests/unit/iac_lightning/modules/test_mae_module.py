"""Which tokens are hidden: others in every epoch of training, the same at every validation, whatever the batch."""

from __future__ import annotations

from itertools import combinations
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from iac_lightning.modules.mae_module import MAEModule, masking_noise
from iac_lightning.schema import ExperimentConfig

CROP = (16, 16, 8)


def test_noise_differs_by_seed_epoch_and_sample_and_is_uniform() -> None:
    rows = [masking_noise(seed, epoch, [sample], 512)[0] for seed in (0, 1) for epoch in (0, 1) for sample in (0, 1)]
    for a, b in combinations(rows, 2):
        assert not torch.equal(a, b)
        assert abs(torch.corrcoef(torch.stack([a, b]))[0, 1].item()) < 0.25  # unrelated: 5.6 σ of 1/√512
    drawn = torch.cat(rows)
    assert (drawn.min() >= 0) & (drawn.max() < 1)
    assert drawn.mean().item() == pytest.approx(0.5, abs=0.02)


def test_noise_of_a_sample_does_not_depend_on_its_batch() -> None:
    together = masking_noise(7, 3, [5, 11, 5], 24)
    assert together.shape == (3, 24)
    assert torch.equal(together[0], together[2])
    torch.testing.assert_close(masking_noise(7, 3, [11], 24)[0], together[1], rtol=0, atol=0)


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
    monkeypatch.setattr(module, "log", lambda name, value, **how: logged.append((name, value.item(), how)))
    return module


def hidden(module: MAEModule, epoch: int, validation: bool = False) -> Tensor:
    """Which tokens a step hides in some epoch, `[B, N]`."""
    module._trainer = SimpleNamespace(current_epoch=epoch)  # type: ignore[assignment]
    masks: list[Tensor] = []
    hook = module.model.register_forward_hook(lambda _, __, output: masks.append(output.mask))
    batch: dict[str, Any] = {"image": torch.zeros(2, 1, *CROP), "sample_index": torch.tensor([0, 1])}
    (module.validation_step if validation else module.training_step)(batch, 0)
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
    visible = masking_noise(2, 0, [0, 1], 32).argsort(dim=1)[:, :8]
    assert torch.equal(first, torch.ones(2, 32, dtype=torch.bool).scatter(1, visible, False))


def test_what_is_logged_is_the_mean_over_samples_of_all_devices(module: MAEModule, logged: Logged) -> None:
    batch = {"image": torch.rand(3, 1, *CROP), "sample_index": torch.tensor([4, 0, 2])}
    module._trainer = SimpleNamespace(current_epoch=1)  # type: ignore[assignment]
    loss = module.training_step(batch, 0)
    module.validation_step(batch, 0)
    noise = masking_noise(2, 0, [4, 0, 2], 32)
    with torch.no_grad():
        expected = module.model(batch["image"], noise=noise).loss.item()
    shared = {"prog_bar": True, "batch_size": 3, "sync_dist": True}
    assert logged == [
        ("train/loss", pytest.approx(loss.item()), {"on_step": True, "on_epoch": True, **shared}),
        ("dev/loss", pytest.approx(expected), shared),
    ]
    assert loss.requires_grad


def test_a_last_small_batch_weighs_by_its_samples(module: MAEModule, logged: Logged) -> None:
    data, trainer = module.config.data, module.config.trainer
    data.batch_size, data.sampling.samples_per_epoch, trainer.accumulate_grad_batches = 2, 3, 2
    module._trainer = SimpleNamespace(current_epoch=0)  # type: ignore[assignment]
    batch = {"image": torch.rand(1, 1, *CROP), "sample_index": torch.tensor([2])}
    returned = module.training_step(batch, 1).item()
    assert returned == pytest.approx(logged[0][1] * 2 / 3)  # one of three samples, in one of two batches
