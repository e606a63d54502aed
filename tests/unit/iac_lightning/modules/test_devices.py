from __future__ import annotations

import pytest
import torch

from data_modules.errors import UserError
from iac_lightning.config.schema import ExperimentConfig, TrainerConfig
from iac_lightning.modules.devices import check_devices


def check(**trainer: object) -> None:
    check_devices(ExperimentConfig(name="a", trainer=TrainerConfig(**trainer)))  # type: ignore[arg-type]


def gpus(monkeypatch: pytest.MonkeyPatch, n: int) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: n)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)


def test_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus(monkeypatch, 0)
    check()
    check(accelerator="cpu", devices=4)
    check(devices=4, precision="bf16-mixed")
    for accelerator in ("gpu", "cuda", "mps"):
        with pytest.raises(UserError, match=f"trainer.accelerator={accelerator}: there is no such device"):
            check(accelerator=accelerator)
    with pytest.raises(UserError, match=r"trainer\.accelerator=tpu needs torch_xla"):
        check(accelerator="tpu")
    for precision in ("16-mixed", "16-true"):
        with pytest.raises(UserError, match=f"trainer.precision={precision} needs a GPU"):
            check(precision=precision)


def test_with_two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus(monkeypatch, 2)
    check(accelerator="gpu", devices=2, precision="16-mixed")
    check(accelerator="cpu", devices=4)
    for accelerator in ("auto", "gpu", "cuda"):
        with pytest.raises(UserError, match=r"trainer\.devices=4: this machine has 2 GPUs; set trainer\.devices=2"):
            check(accelerator=accelerator, devices=4)
