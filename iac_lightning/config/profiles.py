"""Profiles: one experiment's settings for a GPU, and those that its file has for a processor (`profiles: {cpu: …}`).

A file is written for a GPU; where there is none the section `cpu` is laid over it. The choice is stored with the run
(`profile: cpu`), and handed to jobs and cells, which may run on machines that look otherwise. Imports no torch where
the machine has no device that torch could find.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from iac_lightning.config.schema import ExperimentConfig

GPU, CPU = "gpu", "cpu"
_DEVICES = ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd")
"""Of drivers under Linux (NVIDIA, Windows' subsystem, AMD), without which torch finds no GPU and is not imported."""


def choose_profile(values: Mapping[str, Any]) -> str:
    """The profile of an experiment that has some: the one it asks for, or what suits where it will run.

    `trainer.accelerator` decides where it names a device. A SLURM job runs on its nodes, whatever the machine that it
    is submitted from has.

    Args:
        values: dotted key → value of the settings that were given, before any profile.
    """
    asked = values.get("profile", "auto")
    if asked != "auto":
        return str(asked)
    accelerator = values.get("trainer.accelerator", "auto")
    if accelerator != "auto":
        return CPU if accelerator == "cpu" else GPU
    if values.get("launcher.name") == "slurm":
        return GPU if values.get("launcher.gpus_per_node") else CPU
    return GPU if gpu_at_hand() else CPU


def gpu_at_hand() -> bool:
    """Whether torch finds a GPU here."""
    if sys.platform == "linux" and not any(Path(device).exists() for device in _DEVICES):
        return False
    import torch

    return torch.cuda.is_available()


def profile_words(config: ExperimentConfig) -> str | None:
    """A line for the terminal where an experiment runs at the size of a processor; None where it does not."""
    if config.profile != CPU:
        return None
    return f"{config.name}: cpu profile, a small network and few patches: no GPU here (profile=gpu: the whole recipe)"


def as_overrides(config: ExperimentConfig) -> tuple[str, ...]:
    """The choice as `key=value`, for a process elsewhere; nothing where the experiment has no profiles."""
    return () if config.profile == "auto" else (f"profile={config.profile}",)
