"""Each training step has a seed of its own, which a resumed run finds again; clipping under a scaler."""

from __future__ import annotations

from itertools import combinations
from types import SimpleNamespace

import pytest
import torch

from iac_lightning.config.schema import ExperimentConfig
from iac_lightning.models.build import memory_format
from iac_lightning.modules.common import ExperimentModule

STEP = {"seed": 3, "global_step": 10, "batch_idx": 4, "global_rank": 0}


def drawn(**changes: int) -> list[float]:
    """The first numbers that a step draws, with its dropout and whatever else asks torch."""
    step = STEP | changes
    config = ExperimentConfig(name="a", task="segment", seed=step["seed"])
    config.model.name, config.model.cnn.base_features = "cnn", 2
    module = ExperimentModule(config)
    trainer = SimpleNamespace(global_step=step["global_step"], global_rank=step["global_rank"])
    module._trainer = trainer  # type: ignore[assignment]
    torch.rand(step["batch_idx"] + 1)  # what was drawn before does not matter
    module.on_train_batch_start(None, step["batch_idx"])
    return torch.rand(4).tolist()


@pytest.mark.parametrize("what", STEP)
def test_every_step_draws_its_own_numbers(what: str) -> None:
    # global_step alone is not enough: accumulated batches share it
    seen = [drawn(**{what: STEP[what] + k}) for k in range(4)]
    assert all(a != b for a, b in combinations(seen, 2))


def test_a_resumed_step_draws_what_the_uninterrupted_one_would() -> None:
    first = drawn()
    torch.manual_seed(99)
    assert drawn() == first


def test_a_fused_update_is_clipped_by_the_gradient_that_it_takes() -> None:
    """With 16-mixed, losses are scaled; Lightning would leave it to a fused optimiser to undo that after clipping."""

    def updated(scaler: torch.amp.GradScaler | None) -> tuple[dict[str, torch.Tensor], float]:
        config = ExperimentConfig(name="a", task="segment")
        config.model.name, config.model.cnn.base_features = "cnn", 2
        torch.manual_seed(0)
        module = ExperimentModule(config)
        plugin = SimpleNamespace(scaler=scaler)
        module._trainer = SimpleNamespace(precision_plugin=plugin, strategy=None)  # type: ignore[assignment]
        optimizer = torch.optim.SGD(module.parameters(), lr=1.0, fused=True)
        logits = module.model.eval()(torch.ones(1, 1, *config.data.sampling.crop))
        loss = logits.square().mean()
        (scaler.scale(loss) if scaler else loss).backward()
        module.configure_gradient_clipping(optimizer, 0.01)
        if scaler:
            scaler.step(optimizer)
        else:
            optimizer.step()
        return module.state_dict(), float(module.gradient_norm)  # type: ignore[arg-type]

    plain, norm = updated(None)
    scaled, seen = updated(torch.amp.GradScaler("cpu", init_scale=1024.0))
    assert norm > 0.01
    assert seen == pytest.approx(norm, rel=1e-4)
    torch.testing.assert_close(scaled, plain)


@pytest.mark.parametrize(
    ("name", "gpu", "settings", "channels_last"),
    [
        ("cnn", False, {}, True),
        ("vit", False, {}, True),
        ("vit", True, {}, True),
        ("cnn", True, {}, False),
        ("cnn", True, {"accelerator": "cpu"}, True),
        ("vit", True, {"strategy": "fsdp"}, False),
    ],
)
def test_channels_are_innermost_where_that_is_faster(
    name: str, gpu: bool, settings: dict[str, str], channels_last: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    config = ExperimentConfig(name="a", task="segment")
    config.model.name = name
    for key, value in settings.items():
        setattr(config.trainer, key, value)
    assert (memory_format(config) == torch.channels_last_3d) is channels_last
