"""A training that diverges stops before anything of it is saved, and goes on from the last finite checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from data_modules.errors import UserError
from iac_lightning.config.reading import load_experiment
from iac_lightning.config.schema import ExperimentConfig
from iac_lightning.modules.checkpoint import load_checkpoint, not_finite
from iac_lightning.modules.common import ExperimentModule
from iac_lightning.modules.finite import SKIPPED_IN_A_ROW, FiniteGuard, NotFiniteError
from iac_lightning.runs.directory import Run, load_run
from iac_lightning.workflows.train import train
from tests.integration.settings import experiment, overrides


class AtStep(torch.autograd.Function):
    """The loss as it is; its gradient is multiplied."""

    @staticmethod
    def forward(ctx: Any, loss: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0] * ctx.factor, None


def broken_at(monkeypatch: pytest.MonkeyPatch, step: int, what: str) -> None:
    """Update `step` (from 1) has a loss, or a gradient alone, that is NaN."""
    real = ExperimentModule.step_loss

    def step_loss(self: ExperimentModule, loss: Tensor, batch_idx: int) -> Tensor:
        if self.global_step + 1 != step:
            return real(self, loss, batch_idx)
        return loss * float("nan") if what == "loss" else AtStep.apply(loss, float("nan"))  # type: ignore[no-any-return]

    monkeypatch.setattr(ExperimentModule, "step_loss", step_loss)


def settings(cohort: Path, runs: Path, *more: str) -> list[str]:
    return overrides(
        cohort,
        runs,
        "tracking.enabled=false",
        "trainer.max_epochs=6",
        "trainer.check_val_every_n_epoch=3",
        "trainer.log_every_n_steps=50",
        "data.batch_size=2",
        *more,
    )


@pytest.mark.parametrize(("name", "what", "ema"), [("mae", "loss", 0), ("vit_scratch", "gradient", 0.9)])
def test_a_value_that_is_not_finite_ends_the_run_which_then_goes_on(
    name: str, what: str, ema: float, phantom_cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load_experiment(experiment(name), settings(phantom_cohort, tmp_path, f"optimizer.ema_decay={ema}"))
    with monkeypatch.context() as patch:
        broken_at(patch, 6, what)  # four updates an epoch; epoch 2 is not validated
        with pytest.raises(NotFiniteError) as stopped:
            train(config)
    path = tmp_path / config.name / "checkpoints/last.ckpt"
    message = str(stopped.value)
    assert f"the {what} is not finite in step 6 of 24 (epoch 2 of 6, learning rate" in message
    assert f"last finite checkpoint is {path} (after step 4); the same command goes on from there" in message
    saved = load_checkpoint(path)
    assert saved["global_step"] == 4
    assert not_finite(saved["state_dict"]) == not_finite(saved["optimizer_states"]) == []
    assert not load_run(tmp_path / config.name).is_finished
    run = train(config)
    assert [json.loads(line)["epoch"] for line in (run.directory / "logs/history.jsonl").open()] == list(range(6))
    assert run.finished["steps"] == 24


def test_a_step_before_the_first_checkpoint_leaves_none(
    phantom_cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load_experiment(experiment("cnn"), settings(phantom_cohort, tmp_path))
    broken_at(monkeypatch, 1, "loss")
    with pytest.raises(NotFiniteError, match=r"step 1 of 24 .*No checkpoint was written before"):
        train(config)
    assert not any((tmp_path / config.name / "checkpoints").iterdir())


class Trainer(SimpleNamespace):
    """What the guard asks of Lightning's, with one process."""

    def __init__(self, scaler: object = None) -> None:
        strategy = SimpleNamespace(reduce_boolean_decision=lambda d, all: d)
        super().__init__(
            global_step=0,
            world_size=1,
            strategy=strategy,
            log_every_n_steps=1,
            precision_plugin=SimpleNamespace(scaler=scaler),
            callback_metrics={},
        )


@pytest.fixture
def module() -> ExperimentModule:
    config = ExperimentConfig(name="a", task="segment")
    config.model.name, config.model.cnn.base_features = "cnn", 2
    return ExperimentModule(config)


def guard(module: ExperimentModule, trainer: Trainer, tmp_path: Path) -> FiniteGuard:
    callback = FiniteGuard(Run(tmp_path, module.config))
    callback.on_train_start(trainer, module)  # type: ignore[arg-type]
    return callback


def test_skipped_updates_of_a_scaler_are_ordinary_until_they_do_not_end(
    module: ExperimentModule, tmp_path: Path
) -> None:
    trainer = Trainer(scaler=object())
    callback = guard(module, trainer, tmp_path)

    def update(norm: float) -> None:
        trainer.global_step += 1
        module.gradient_norm = torch.tensor(norm)
        callback.on_train_batch_end(trainer, module, {"loss": torch.tensor(1.0)}, None, 0)  # type: ignore[arg-type]

    for norm in [float("inf")] * (SKIPPED_IN_A_ROW - 1) + [1.0] + [float("inf")] * (SKIPPED_IN_A_ROW - 1):
        update(norm)
    with pytest.raises(NotFiniteError, match=f"the gradient is not finite in step {2 * SKIPPED_IN_A_ROW} of"):
        update(float("inf"))


def test_weights_and_the_validation_are_looked_at(module: ExperimentModule, tmp_path: Path) -> None:
    trainer = Trainer()
    callback = guard(module, trainer, tmp_path)
    callback.on_validation_start(trainer, module)  # type: ignore[arg-type]
    trainer.callback_metrics = {"dev/loss": torch.tensor(1.0)}
    callback.on_validation_end(trainer, module)  # type: ignore[arg-type]
    trainer.callback_metrics = {"dev/loss": torch.tensor(float("nan"))}
    with pytest.raises(NotFiniteError, match="the loss of the development scans"):
        callback.on_validation_end(trainer, module)  # type: ignore[arg-type]
    saved = {"state_dict": {"a": torch.ones(1)}, "callbacks": {"best": torch.tensor(float("inf"))}}
    callback.on_save_checkpoint(trainer, module, saved)  # type: ignore[arg-type]
    saved["optimizer_states"] = [{"state": {0: {"exp_avg": torch.tensor([1.0, float("nan")])}}}]  # type: ignore[assignment]
    with pytest.raises(NotFiniteError, match=r"a weight \(optimizer_states\.0\.state\.0\.exp_avg\)"):
        callback.on_save_checkpoint(trainer, module, saved)  # type: ignore[arg-type]
    with torch.no_grad():
        next(module.parameters()).fill_(float("inf"))
    for look in (callback.on_validation_start, callback.on_train_end):
        with pytest.raises(NotFiniteError, match="a weight"):
            look(trainer, module)  # type: ignore[arg-type]


def test_a_checkpoint_of_other_settings_is_refused(module: ExperimentModule) -> None:
    checkpoint: dict[str, Any] = {}
    module.on_save_checkpoint(checkpoint)
    module._trainer = SimpleNamespace(ckpt_path="last.ckpt")  # type: ignore[assignment]
    module.on_load_checkpoint(checkpoint)
    checkpoint["iac"]["config"]["model"]["cnn"]["base_features"] = 4
    with pytest.raises(UserError, match=r"last\.ckpt.*model\.cnn\.base_features: 4 there, 2 here"):
        module.on_load_checkpoint(checkpoint)
    with pytest.raises(UserError, match="does not say of which"):
        module.on_load_checkpoint({})
