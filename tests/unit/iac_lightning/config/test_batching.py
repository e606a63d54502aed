"""Global batch, weights of unequal batches and scaled rates, by hand."""

from __future__ import annotations

import pytest

from data_modules.config import DataConfig, SamplingConfig
from iac_lightning.config.batching import (
    accumulated_batches,
    batch_weight,
    global_batch,
    learning_rate,
    updates_per_epoch,
)
from iac_lightning.config.schema import ExperimentConfig, OptimizerConfig, TrainerConfig


def experiment(samples: int = 96, batch_size: int = 4, **trainer: object) -> ExperimentConfig:
    return ExperimentConfig(
        name="a",
        data=DataConfig(batch_size=batch_size, sampling=SamplingConfig(samples_per_epoch=samples)),
        trainer=TrainerConfig(**trainer),  # type: ignore[arg-type]
    )


@pytest.mark.parametrize(
    ("batch_size", "devices", "nodes", "accumulated"), [(4, 1, 1, 12), (4, 3, 1, 4), (4, 3, 2, 2), (8, 3, 2, 1)]
)
def test_a_stated_global_batch_decides_the_accumulation(
    batch_size: int, devices: int, nodes: int, accumulated: int
) -> None:
    config = experiment(batch_size=batch_size, devices=devices, num_nodes=nodes, global_batch=48)
    assert accumulated_batches(config) == accumulated
    assert global_batch(config) == 48
    assert updates_per_epoch(config) == 2


def test_otherwise_it_is_what_the_other_settings_give() -> None:
    config = experiment(samples=103, devices=2, num_nodes=2, accumulate_grad_batches=3)
    assert global_batch(config) == 48
    assert updates_per_epoch(config) == 3  # 48 + 48 + 7


def test_full_updates_weigh_one() -> None:
    config = experiment(samples=48, devices=2, accumulate_grad_batches=3)
    assert {batch_weight(config, k) for k in range(6)} == {1}


def test_every_sample_of_an_update_counts_the_same() -> None:
    config = experiment(samples=36, batch_size=4, devices=2, accumulate_grad_batches=3)
    # Batches of 8 over both devices: 8 8 8 | 8 4. Lightning divides each mean by 3; in the last update of 12 samples
    # a sample of the batch of 8 then counts weight / (3 · 8), and has to count 1 / 12.
    weights = [batch_weight(config, k) for k in range(5)]
    assert weights == pytest.approx([1, 1, 1, 2.0, 1.0])
    for size, weight in ((8, weights[3]), (4, weights[4])):
        assert weight / 3 / size == pytest.approx(1 / 12)


@pytest.mark.parametrize(("rule", "expected"), [("none", 0.1), ("linear", 0.4), ("sqrt", 0.2)])
def test_the_rate_follows_the_global_batch(rule: str, expected: float) -> None:
    config = experiment(devices=2, accumulate_grad_batches=4)  # 32 samples an update
    config.optimizer = OptimizerConfig(lr=0.1, lr_scaling=rule, lr_batch_size=8)
    assert learning_rate(config) == pytest.approx(expected)
