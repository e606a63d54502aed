"""Shares and rates of an epoch: waiting for data, the device's work, samples a second."""

from __future__ import annotations

import time
from typing import Any

import lightning as L
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from data_modules.batches.loader import PatchLoader, PatchSampler
from iac_lightning.modules import throughput
from iac_lightning.modules.throughput import DataWait, DeviceBusy


def test_waiting_for_data_and_training_share_an_epoch() -> None:
    class Slow(Dataset[Any]):
        def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
            time.sleep(0.05)
            return {"image": torch.zeros(1)}

        def __len__(self) -> int:
            return 8

    class Loader(PatchLoader):
        """The patches' loader, with its clock, over other items."""

        def __init__(self) -> None:
            DataLoader.__init__(self, Slow(), batch_size=2, sampler=PatchSampler(8, 2))
            self._batches, self._resume, self.wait_s = 0, None, 0.0

    class Module(L.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(1, 1)

        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            time.sleep(0.1)
            return self.layer(batch["image"]).sum()

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            time.sleep(1)  # no part of the share

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    trainer = L.Trainer(
        accelerator="cpu", devices=1, max_epochs=1, logger=False, enable_checkpointing=False, callbacks=[DataWait()],
        enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0, use_distributed_sampler=False,
    )  # fmt: skip
    trainer.fit(Module(), Loader(), DataLoader([{"image": torch.zeros(1)}], batch_size=1))
    # Four batches: 2 · 0.05 s for the data of each, 0.1 s for the step: half of 0.8 s, and longer on a busy machine.
    assert trainer.callback_metrics["train/data_wait_share"] == pytest.approx(0.5, abs=0.2)
    assert trainer.callback_metrics["train/device_busy_share"] < 0.7  # it sleeps most of the time
    assert 5 < trainer.callback_metrics["train/samples_per_s"] <= 10  # with validation's second it would be below 5


def busy(monkeypatch: pytest.MonkeyPatch, readings: list[Any]) -> DeviceBusy:
    """Of a GPU whose counter gives these percentages, one after the other; an exception is raised."""

    def utilization(device: torch.device) -> int:
        reading = readings.pop(0) if readings else 100  # one that nobody should have asked for
        if isinstance(reading, Exception):
            raise reading
        return reading

    monkeypatch.setattr(torch.cuda, "utilization", utilization)
    return DeviceBusy(torch.device("cuda", 0))


def test_a_gpus_counter_is_read_once_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(throughput.time, "perf_counter", lambda: now[0])
    device = busy(monkeypatch, [99, 20, 40, RuntimeError("away"), 90])
    assert device.is_known
    for step in range(20):  # of 0.2 s: readings after 1, 2, 3 and 4 s
        now[0] = 100 + 0.2 * (step + 1) + 1e-6
        device.look()
    assert device.share() == pytest.approx((0.2 + 0.4 + 0.9) / 3)


def test_an_epoch_of_less_than_a_second_is_read_at_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    device = busy(monkeypatch, [99, 30])
    device.look()
    assert device.share() == 0.3


def test_where_nothing_tells_nothing_is_logged(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not busy(monkeypatch, [ModuleNotFoundError("nvidia-ml-py")]).is_known
    assert not DeviceBusy(torch.device("mps")).is_known


def test_a_processor_that_computes_is_busy_and_one_that_sleeps_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    wall, processor = [0.0], [0.0]
    monkeypatch.setattr(throughput.time, "perf_counter", lambda: wall[0])
    monkeypatch.setattr(throughput.time, "process_time", lambda: processor[0])
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    device = DeviceBusy(torch.device("cpu"))
    wall[0], processor[0] = 10.0, 30.0  # three of four threads
    assert device.share() == 0.75
    device.begin()
    wall[0] = 20.0
    assert device.share() == 0.0


@pytest.mark.gpu
def test_a_gpu_at_work_is_busy_and_an_idle_one_is_not() -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    device = DeviceBusy(torch.device("cuda", 0))
    if not device.is_known:
        pytest.skip("NVML tells nothing of this GPU")
    matrix = torch.randn(4096, 4096, device="cuda")
    time.sleep(2)
    idle = device.share()
    device.begin()
    end = time.perf_counter() + 3
    while time.perf_counter() < end:
        for _ in range(20):
            matrix @ matrix
        torch.cuda.synchronize()
        device.look()
    assert device.share() > 0.5
    assert idle < device.share()
