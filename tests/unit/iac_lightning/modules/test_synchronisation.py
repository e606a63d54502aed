"""Nothing inside a training step makes the host wait for the device.

On a machine without GPUs the training runs on torch's `meta` device, whose tensors hold no values: whatever would wait
for a value (`.item()`, `.tolist()`, `bool()`, `.cpu()`, `nonzero`, …) is an error there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.accelerators import CPUAccelerator
from lightning.pytorch.loops import evaluation_loop, fit_loop
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch import Tensor
from torch.overrides import TorchFunctionMode

from iac_lightning.config.reading import load_experiment
from iac_lightning.modules.average import WeightAverage
from iac_lightning.modules.common import ExperimentModule
from iac_lightning.workflows import train as training
from tests.integration.settings import experiment, overrides

STEPS = 4


class OnMeta(SingleDeviceStrategy):
    """Lightning's strategy for one device, of which nothing can be brought back."""

    def __init__(self) -> None:
        super().__init__(torch.device("meta"), accelerator=CPUAccelerator())

    def setup_environment(self) -> None:
        """Nothing: a `meta` device needs none."""


class Copies(TorchFunctionMode):
    """Refuses what copies ordinary memory to the device, which waits for the copy."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call, and look where the result lies."""
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if isinstance(result, Tensor) and result.device.type != "cpu":
            made = func in (torch.tensor, torch.as_tensor, torch.asarray)
            moved = func in (Tensor.to, Tensor.cuda, Tensor.copy_) and any(
                isinstance(a, Tensor) and a.device.type == "cpu" for a in args
            )
            waits = made or (moved and not kwargs.get("non_blocking"))
            assert not waits, f"{func} waits for a copy"
        return result


class EnoughError(Exception):
    """The steps that were to be looked at are done."""


class Look(L.Callback):
    """The first of the callbacks at the start of a step, and the last at its end."""

    def __init__(self) -> None:
        self.mode: Copies | None = None
        self.steps = 0

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """From here on, no waiting."""
        if pl_module.device.type == "cuda" and batch_idx > 0:  # the first step makes handles and workspaces
            torch.cuda.set_sync_debug_mode("error")
        self.mode = Copies()
        self.mode.__enter__()

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """The step is over."""
        assert self.mode is not None
        self.mode.__exit__(None, None, None)
        self.mode = None
        if pl_module.device.type == "cuda":
            torch.cuda.set_sync_debug_mode("default")
        self.steps += 1
        if self.steps == STEPS:
            raise EnoughError


@pytest.fixture
def look(monkeypatch: pytest.MonkeyPatch) -> Iterator[Look]:
    """Trainings are looked at."""
    look, build = Look(), training.build_trainer

    def build_trainer(*args: Any) -> L.Trainer:
        trainer = build(*args)
        trainer.callbacks.append(look)  # type: ignore[attr-defined]
        return trainer

    monkeypatch.setattr(training, "build_trainer", build_trainer)
    yield look
    if look.mode is not None:  # a step has failed
        look.mode.__exit__(None, None, None)


def settings(cohort: Path, runs: Path) -> list[str]:
    return overrides(
        cohort,
        runs,
        "data.sampling.samples_per_epoch=16",
        "data.batch_size=2",
        "trainer.accelerator=auto",
        "trainer.log_every_n_steps=100",
        "optimizer.ema_decay=0.9",
        "tracking.enabled=false",
        "name=looked_at",
    )


@pytest.fixture
def meta(look: Look, phantom_cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Look]:
    """Trains the demo's experiment of a name on `meta`, with other settings where they are given."""

    def run(name: str, *more: str) -> Look:
        monkeypatch.setattr(training, "build_strategy", lambda config: OnMeta())
        for loop in (fit_loop, evaluation_loop):  # ask the device, before the first step
            monkeypatch.setattr(loop, "has_len_all_ranks", lambda *_: True)
        monkeypatch.setattr(L.Trainer, "_teardown", lambda self: None)  # brings all back
        training.train(load_experiment(experiment(name), [*settings(phantom_cohort, tmp_path), *more]))
        return look

    return run


@pytest.mark.parametrize(
    ("name", "told", "more"),
    [
        ("mae", "[]", []),
        (
            "mae",
            "[position]",
            ["model.name=cnn", "model.cnn.base_features=4", "model.vit.patch_size=[4,4,4]", "model.mae.masking=blocks"],
        ),
        ("mae", "[]", ["model.mae.pretrain=segmenter", "model.decoder.tokeniser_skips=true"]),
        ("vit_scratch", "[position,slice_thickness]", []),
        ("cnn", "[position,spacing]", []),
    ],
)
def test_a_step_waits_for_nothing(
    name: str, told: str, more: list[str], meta: Callable[..., Look], look: Look, monkeypatch: pytest.MonkeyPatch
) -> None:
    averages: list[WeightAverage] = []
    update = WeightAverage.on_train_batch_end

    def noted(self: WeightAverage, *args: Any) -> None:
        averages.append(self)
        update(self, *args)

    monkeypatch.setattr(WeightAverage, "on_train_batch_end", noted)
    with pytest.raises(EnoughError):
        meta(name, f"model.condition_on={told}", *more)
    assert look.steps == len(averages) == STEPS
    average = averages[0]._average_model
    assert average is not None
    assert {p.device.type for p in average.module.parameters()} == {"meta"}
    assert int(average.n_averaged) == STEPS


WAITS: dict[str, Callable[[Tensor], object]] = {
    "item": lambda x: x.sum().item(),
    "tolist": lambda x: x.tolist(),
    "bool": lambda x: bool(x.any()),
    "cpu": lambda x: x.cpu(),
    "numpy": lambda x: x.numpy(),
    "nonzero": lambda x: x[x > 0],
    "a copy": lambda x: torch.tensor(1.0, device=x.device),
}


@pytest.mark.parametrize("how", WAITS)
def test_the_test_notices(how: str, meta: Callable[[str], Look], look: Look, monkeypatch: pytest.MonkeyPatch) -> None:
    step = ExperimentModule.on_train_batch_start

    def waits(self: ExperimentModule, batch: Any, batch_idx: int) -> None:
        step(self, batch, batch_idx)
        WAITS[how](batch["image"])

    monkeypatch.setattr(ExperimentModule, "on_train_batch_start", waits)
    with pytest.raises((RuntimeError, NotImplementedError, TypeError, AssertionError)):
        meta("mae")
    assert look.mode is not None  # in the first step
    assert look.steps == 0


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "16-mixed"])
@pytest.mark.parametrize("name", ["mae", "vit_scratch", "cnn"])
def test_a_step_on_a_gpu_waits_for_nothing(
    name: str, precision: str, look: Look, phantom_cohort: Path, tmp_path: Path
) -> None:
    more = [*settings(phantom_cohort, tmp_path), f"trainer.precision={precision}"]
    with pytest.raises(EnoughError):
        training.train(load_experiment(experiment(name), more))
    assert look.steps == STEPS
