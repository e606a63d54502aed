"""Each training step has a seed of its own, which a resumed run finds again."""

from __future__ import annotations

from itertools import combinations
from types import SimpleNamespace

import pytest
import torch

from iac_lightning.config.schema import ExperimentConfig
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
