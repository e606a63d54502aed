"""The phases of a step: what each holds, and that they are all of it."""

from __future__ import annotations

from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import Callback, WeightAveraging
from lightning.pytorch.loggers.logger import Logger
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from iac_lightning.modules import profile as module_of_clock
from iac_lightning.modules.profile import PHASES, StepClock, phase_of
from iac_lightning.modules.profile_trace import PHASE_RANGE, STEP_RANGE

COSTS_S = {
    "data": 1.0, "transfer": 2.0, "forward": 4.0, "backward": 8.0, "optimiser": 16.0, "average": 32.0, "logging": 64.0,
    "callbacks": 128.0, "other": 256.0,
}  # fmt: skip


class Watch:
    """Time that passes only where it is told to."""

    now = 0.0

    def spend(self, phase: str) -> None:
        self.now += COSTS_S[phase]


class Spend(torch.autograd.Function):
    """Costs time in the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, watch: Watch) -> Tensor:
        ctx.watch = watch
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        ctx.watch.spend("backward")
        return gradient, None


def run(clock: StepClock, watch: Watch, fails_at: int | None = None) -> L.Trainer:
    """An epoch in which each phase of a step takes its own time."""

    class Data(Dataset[Tensor]):
        def __getitem__(self, index: int) -> Tensor:
            watch.spend("data")
            return torch.ones(2)

        def __len__(self) -> int:
            return clock.batches

    class SGD(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            loss = super().step(closure)
            watch.spend("optimiser")
            return loss

    class Module(L.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(2, 1)

        def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
            watch.spend("transfer")
            return batch

        def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
            watch.spend("other")

        def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
            if batch_idx == fails_at:
                raise ValueError("in the middle of a trace")
            watch.spend("forward")
            loss = Spend.apply(self.layer(batch).sum(), watch)
            self.log("loss", loss)
            return loss

        def log(self, *args: Any, **kwargs: Any) -> None:
            watch.spend("logging")
            super().log(*args, **kwargs)

        def configure_optimizers(self) -> Any:
            return SGD(self.parameters(), lr=0.1)

    class Average(WeightAveraging):
        def on_train_batch_end(self, *args: Any) -> None:
            watch.spend("average")
            super().on_train_batch_end(*args)

    class Other(Callback):
        def on_before_optimizer_step(self, *args: Any) -> None:
            watch.spend("callbacks")

    class ToNowhere(Logger):
        name, version = "nowhere", 0

        def log_metrics(self, metrics: Any, step: int | None = None) -> None:
            watch.spend("logging")

        def log_hyperparams(self, *args: Any, **kwargs: Any) -> None: ...

    trainer = L.Trainer(
        accelerator="cpu", devices=1, max_epochs=1, logger=ToNowhere(), log_every_n_steps=1, profiler=clock,
        enable_checkpointing=False, callbacks=[Average(), Other()], enable_progress_bar=False,
        enable_model_summary=False,
    )  # fmt: skip
    module = Module()
    module.log = clock.logging(module.log)  # type: ignore[method-assign]
    trainer.fit(module, DataLoader(Data(), batch_size=None))
    return trainer


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Watch:
    watch = Watch()
    monkeypatch.setattr(module_of_clock, "perf_counter", lambda: watch.now)
    return watch


def test_each_phase_has_its_own_time_and_together_they_are_the_step(watch: Watch) -> None:
    clock = StepClock(warmup=2, timed=3, traced=1)
    run(clock, watch)
    expected = dict.fromkeys(PHASES, 0.0) | {phase: 1000 * cost for phase, cost in COSTS_S.items()}
    expected["logging"] *= 2  # by the module, and by the loop behind it
    assert clock.measured.phases_ms == pytest.approx(expected)
    assert clock.measured.steps_ms == pytest.approx([sum(expected.values())] * 3)
    assert clock.measured.step_ms == pytest.approx(clock.measured.median_ms)


def test_the_trace_holds_the_traced_steps_and_their_phases() -> None:
    clock = StepClock(warmup=1, timed=1, traced=2)
    run(clock, Watch())
    assert clock.trace is not None
    names = [event.name for event in clock.trace.events() or []]
    assert names.count(STEP_RANGE) == 2
    for phase in ("data", "transfer", "forward", "backward", "optimiser", "average", "logging", "callbacks"):
        assert names.count(PHASE_RANGE + phase) >= 2, phase
    assert names.count(PHASE_RANGE + "logging") >= 4  # by the module, and by the loop behind it


def test_a_training_that_fails_ends_the_trace() -> None:
    clock = StepClock(warmup=1, timed=1, traced=2)
    with pytest.raises(ValueError, match="in the middle"):
        run(clock, Watch(), fails_at=3)
    assert torch.autograd._profiler_enabled()
    clock.end()
    assert not torch.autograd._profiler_enabled()


@pytest.mark.parametrize(
    ("action", "phase"),
    [
        ("[_TrainingEpochLoop].train_dataloader_next", "data"),
        ("[_EvaluationLoop].val_next", None),
        ("[Strategy]DDPStrategy.batch_to_device", "transfer"),
        ("[LightningDataModule]CTDataModule.transfer_batch_to_device", None),
        ("[Strategy]DDPStrategy.training_step", "forward"),
        ("[Strategy]DDPStrategy.backward", "backward"),
        ("[LightningModule]MAEModule.optimizer_step", "optimiser"),
        ("[LightningModule]MAEModule.configure_gradient_clipping", None),  # inside the optimiser's
        ("[LightningModule]MAEModule.lr_scheduler_step", "optimiser"),
        ("[Callback]EMAWeightAveraging.on_train_batch_end", "average"),
        ("[Callback]FiniteGuard.on_train_batch_end", "callbacks"),
        ("run_training_batch", None),
    ],
)
def test_phases_of_lightnings_actions(action: str, phase: str | None) -> None:
    assert phase_of(action) == phase
