"""How fast an epoch trains, how long it waits for data, and how much of it the device computes."""

from __future__ import annotations

import logging
import time
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback

log = logging.getLogger(__name__)

READ_EVERY_S = 1.0
"""NVML's utilisation is that of its last period, at most a second: read once a second, the readings cover the epoch."""


class DataWait(Callback):
    """Logs `train/data_wait_share`, `train/device_busy_share` and `train/samples_per_s` of each epoch's training.

    Validation is left out of all three.

    The first is the time in which a process waits for its loader (0: never; 1: all the time), of the device that waits
    most, which holds up the others. On a GPU steps run behind the process that asks for them, so that part of this
    wait may be hidden; the GPU's queue is emptied once an epoch, before the end is timed, and so the total is true.

    The second is how much of the time the device computes (`DeviceBusy`), of the device that does so least.
    """

    def __init__(self) -> None:
        self._start = self._samples = 0.0
        self._busy: DeviceBusy | None = None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock: a run continued inside an epoch does not start that epoch again."""
        busy = DeviceBusy(pl_module.device)
        known = trainer.strategy.reduce_boolean_decision(busy.is_known, all=True)  # all processes log, or none
        self._busy = busy if known else None
        self._begin()

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock."""
        self._begin()

    def _begin(self) -> None:
        self._start, self._samples = time.perf_counter(), 0.0
        if self._busy is not None:
            self._busy.begin()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count; after the last batch, which validation may follow, log."""
        self._samples += len(batch["image"])
        if self._busy is not None:
            self._busy.look()
        if batch_idx + 1 < trainer.num_training_batches:
            return
        if pl_module.device.type == "cuda":
            torch.cuda.synchronize(pl_module.device)
        total_s = max(time.perf_counter() - self._start, 1e-9)
        share = min(trainer.train_dataloader.wait_s / total_s, 1.0)  # type: ignore[union-attr]
        rate = self._samples * trainer.world_size / total_s
        settings: dict[str, Any] = {"on_step": False, "on_epoch": True, "sync_dist": True, "batch_size": 1}
        pl_module.log("train/data_wait_share", share, reduce_fx="max", **settings)
        pl_module.log("train/samples_per_s", rate, reduce_fx="min", **settings)
        if self._busy is not None:
            pl_module.log("train/device_busy_share", self._busy.share(), reduce_fx="min", **settings)


class DeviceBusy:
    """The share of the time in which a device computes.

    On an NVIDIA GPU: in which at least one kernel ran, by NVML's counter (what `nvidia-smi` shows), read about once a
    second without waiting for the GPU. Pauses between the kernels of a step count as idle, which events around a step
    could not tell; how much of the card a kernel fills is not told. The counter is the card's: of cells that share it,
    each sees what all of them do.

    On a CPU: the processor time of this process (loader processes are not in it) over the time of torch's threads.

    Args:
        device: that trains.

    Attributes:
        is_known: False where nothing tells: another kind of device, a GPU shared out by MIG, no `nvidia-ml-py`.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.is_known = device.type == "cpu" or (device.type == "cuda" and self._read() is not None)
        self.begin()

    def begin(self) -> None:
        """Forget what was before."""
        self._start, self._processor_start = time.perf_counter(), time.process_time()
        self._readings: list[float] = []
        self._next = self._start + READ_EVERY_S

    def look(self) -> None:
        """After a step: read the counter, where that is due."""
        if self.device.type == "cuda" and (now := time.perf_counter()) >= self._next:
            self._next = now + READ_EVERY_S
            reading = self._read()
            self._readings += [] if reading is None else [reading]

    def share(self) -> float:
        """Since `begin`, from 0 to 1; NaN where the GPU's counter failed all the time."""
        if self.device.type == "cuda":
            if not self._readings:  # less than a second
                self._next = 0.0
                self.look()
            return sum(self._readings) / len(self._readings) if self._readings else float("nan")
        wall_s = max(time.perf_counter() - self._start, 1e-9)
        return min((time.process_time() - self._processor_start) / (wall_s * torch.get_num_threads()), 1.0)

    def _read(self) -> float | None:
        """Of the GPU in NVML's last period."""
        try:
            return torch.cuda.utilization(self.device) / 100
        except Exception as error:  # NVML has its own for drivers, MIG and containers; none may end a training
            log.info("train/device_busy_share is left out: %s", error)
            return None
