"""Whether this machine has what an experiment computes on; asked before any data are prepared."""

from __future__ import annotations

from importlib.util import find_spec

import torch

from data_modules.errors import UserError
from iac_lightning.config.schema import ExperimentConfig

_GPUS = ("gpu", "cuda", "mps")
_HALF = ("16-mixed", "16-true")


def check_devices(config: ExperimentConfig) -> None:
    """Compare accelerator, number of devices and precision with what there is.

    Lightning answers most of it with an error of its own once data are prepared, and computes in another precision
    than it was asked for where a CPU does not know that one.

    Raises:
        UserError: naming the setting to change.
    """
    trainer = config.trainer
    wanted = trainer.accelerator
    cuda, mps = torch.cuda.device_count(), int(torch.backends.mps.is_available())
    there = {"gpu": cuda or mps, "cuda": cuda, "mps": mps, "auto": cuda or mps, "cpu": 0, "tpu": 0}[wanted]
    on_gpu = there > 0
    if wanted in _GPUS and not there:
        driver = "" if torch.version.cuda else " (this torch is built without CUDA)"
        raise UserError(
            f"trainer.accelerator={wanted}: there is no such device on this machine{driver}; set "
            "trainer.accelerator=auto or cpu, or look at the driver (nvidia-smi) and CUDA_VISIBLE_DEVICES"
        )
    if wanted == "tpu":
        if find_spec("torch_xla") is None:
            raise UserError("trainer.accelerator=tpu needs torch_xla, which is not installed: set auto, gpu or cpu")
        return
    if on_gpu and trainer.devices > there:
        raise UserError(
            f"trainer.devices={trainer.devices}: this machine has {there} GPU{'s' if there > 1 else ''}; set "
            f"trainer.devices={there}, or trainer.accelerator=cpu"
        )
    if not on_gpu and trainer.precision in _HALF:
        raise UserError(
            f"trainer.precision={trainer.precision} needs a GPU, and this run computes on the CPU; set "
            "trainer.precision=bf16-mixed or 32-true"
        )
    if on_gpu and not cuda and trainer.precision == "64-true":
        raise UserError("trainer.precision=64-true: Apple's GPUs have no such numbers; set trainer.precision=32-true")
