"""A step in the product's Trainer, timed from inside for a few seconds."""

from __future__ import annotations

import logging
import tempfile
import time
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from torch.profiler import ProfilerActivity, profile

from benchmarks.device import Device, kernels_s
from benchmarks.steps import Step
from benchmarks.synthetic import data_module
from data_modules.prepare.store import PreparedSeries
from iac_lightning.config.schema import ExperimentConfig
from iac_lightning.models.precision import set_matmul_precision
from iac_lightning.modules.callbacks import EpochHistory, OverlayFigure, ReconstructionFigure, RunRecord
from iac_lightning.modules.sources import SourcesWatch
from iac_lightning.runs.directory import Run
from iac_lightning.workflows.train import build_trainer, set_up

WARM = 5
"""Steps before the clock starts: compilation, the first batches of the loader, the search for kernels."""
PROFILED = 5
"""Steps behind the timed ones, of which the GPU's own times are taken."""
_NO_PART = (RunRecord, ModelCheckpoint, ReconstructionFigure, OverlayFigure, SourcesWatch, EpochHistory)


@dataclass(frozen=True)
class TrainerStep:
    """What a few seconds of a training showed.

    Attributes:
        seconds: of a step.
        steps: that were timed.
        data_wait_share: of the time, in which the training waited for its loader.
        busy_s: of a step, in which the GPU computed; None on a CPU.
        memory_gib: most that tensors took on the GPU; None on a CPU.
    """

    seconds: float
    steps: int
    data_wait_share: float
    busy_s: float | None
    memory_gib: float | None


class StepClock(Callback):
    """Times the steps of a training and ends it.

    Args:
        device: that trains.
        seconds: about how long to measure.
        gate: called when the training is warm.

    Attributes:
        result: once the training is over.
    """

    def __init__(self, device: Device, seconds: float, gate: Step | None = None) -> None:
        self.device, self.seconds, self.gate = device, seconds, gate
        self.result: TrainerStep | None = None
        self._steps = 0
        self._start = self._waited = 0.0
        self._profile: profile | None = None

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Start, stop, or look at the GPU for some steps more."""
        self._steps += 1
        if self._steps == WARM:
            self.device.synchronise()
            if self.gate is not None:
                self.gate()
            self.device.forget_peak_memory()
            self._start, self._waited = time.perf_counter(), self._wait_s(trainer)
        elif self._steps > WARM and self.result is None:
            if time.perf_counter() - self._start >= self.seconds and self._steps - WARM >= 3:
                self._stop(trainer)
        elif self._profile is not None and self._steps == PROFILED:
            self.device.synchronise()
            self._profile.stop()
            assert self.result is not None
            self.result = replace(self.result, busy_s=kernels_s(self._profile) / PROFILED)
            trainer.should_stop = True

    def _stop(self, trainer: L.Trainer) -> None:
        self.device.synchronise()
        seconds, n = time.perf_counter() - self._start, self._steps - WARM
        waited = self._wait_s(trainer) - self._waited
        self.result = TrainerStep(seconds / n, n, waited / seconds, None, self.device.peak_memory_gib())
        if self.device.is_cuda:
            self._steps = 0
            self._profile = profile(activities=[ProfilerActivity.CUDA])
            self._profile.start()
        else:
            trainer.should_stop = True

    @staticmethod
    def _wait_s(trainer: L.Trainer) -> float:
        return float(trainer.train_dataloader.wait_s)  # type: ignore[union-attr]


def trainer_step(
    config: ExperimentConfig,
    series: tuple[PreparedSeries, ...],
    device: Device,
    seconds: float,
    gate: Step | None = None,
) -> TrainerStep:
    """A step of the product's Trainer and data path, with all that a run has but its checkpoints, pages and validation.

    Args:
        config: the experiment.
        series: what patches are cut from.
        device: that trains.
        seconds: about how long to measure.
        gate: called once the training is warm, before the clock starts.
    """
    clock = StepClock(device, seconds, gate)
    with tempfile.TemporaryDirectory() as folder:
        run_trainer(config, series, clock, Path(folder))
    assert clock.result is not None, "the epoch was too short"
    return clock.result


def run_trainer(config: ExperimentConfig, series: tuple[PreparedSeries, ...], clock: StepClock, folder: Path) -> None:
    """Train until the clock ends it: the product's Trainer without what a run keeps (checkpoints, history, figures)."""
    config = deepcopy(config)
    config.runs_dir = str(folder)
    config.data.sampling.samples_per_epoch = 1_000_000 * config.data.batch_size
    config.trainer.max_epochs = 1
    run = Run(folder / config.name, config)
    _, module = set_up(config, run)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)  # of a loader with few workers, which is meant
    trainer = build_trainer(config, run, None)
    kept = [c for c in trainer.callbacks if not isinstance(c, _NO_PART)]  # type: ignore[attr-defined]
    trainer.callbacks = [*kept, clock]  # type: ignore[attr-defined]
    trainer.limit_val_batches = 0
    set_matmul_precision(config.trainer.matmul_precision, trainer.strategy.root_device)
    trainer.fit(module, datamodule=data_module(config, series))
