"""How many cells of a sweep run at once on one machine, on which GPUs, and what each may take of it."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from data_modules.errors import UserError
from data_modules.processes import cores
from iac_lightning.cluster.slurm import AT_ONCE
from iac_lightning.config.schema import ExperimentConfig, LauncherConfig
from iac_lightning.sweeps.cells import Cell


@dataclass(frozen=True)
class Room:
    """Where cells run.

    Attributes:
        at_once: most cells at the same time.
        gpus: names of the GPUs, as CUDA_VISIBLE_DEVICES has them; each cell gets one. Without, cells see what this
            process sees.
        per_gpu: most cells on one GPU.
    """

    at_once: int
    gpus: tuple[str, ...] = ()
    per_gpu: int = 1

    def free_gpu(self, taken: Collection[str | None]) -> str | None:
        """The GPU that fewest of the cells that run have taken; None without GPUs."""
        return min(self.gpus, key=list(taken).count) if self.gpus else None

    def settings_of(self, config: ExperimentConfig) -> tuple[str, ...]:
        """Its share of the machine, for one cell; nothing of it decides a result."""
        settings = []
        if self.per_gpu > 1:
            settings.append(f"data.residency_share={config.data.residency_share / self.per_gpu:.6g}")
        if config.evaluation.workers is None:
            settings.append(f"evaluation.workers={max(1, cores() // self.at_once)}")
        return tuple(settings)


def room_here(launcher: LauncherConfig, cells: Sequence[Cell]) -> Room:
    """Room on this machine: `per_gpu` cells on each GPU that this process sees, where the cells train on one GPU each.

    Raises:
        UserError: when cells shall share a GPU and there is none.
    """
    trainers = [cell.config.trainer for cell in cells]
    one_each = all(t.devices * t.num_nodes == 1 and t.accelerator in ("auto", "gpu", "cuda") for t in trainers)
    gpus = visible_gpus() if one_each else ()
    if not gpus:
        if launcher.per_gpu > 1:
            raise UserError(
                f"launcher.per_gpu={launcher.per_gpu}: cells can share a GPU, and there is none here for them; on "
                "processor cores launcher.at_once says how many run at the same time"
            )
        return Room(launcher.at_once or AT_ONCE)
    most = len(gpus) * launcher.per_gpu
    return Room(min(launcher.at_once or most, most), gpus, launcher.per_gpu)


def visible_gpus() -> tuple[str, ...]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return tuple(name.strip() for name in named.split(",") if name.strip() not in ("", "-1"))
    import torch

    return tuple(str(k) for k in range(torch.cuda.device_count()))


def check_sharing(launcher: LauncherConfig, cells: Sequence[Cell]) -> None:
    """Refuse `launcher.per_gpu` where no GPU could be shared.

    Raises:
        UserError: when a cell trains on several devices, or a SLURM job has not exactly one GPU.
    """
    if launcher.per_gpu == 1:
        return
    if launcher.name == "slurm" and (launcher.nodes, launcher.gpus_per_node) != (1, 1):
        raise UserError(
            f"launcher.per_gpu={launcher.per_gpu}: the cells of a job share its one GPU, and this job has "
            f"{launcher.gpus_per_node} on each of {launcher.nodes} nodes: set launcher.gpus_per_node=1 and "
            "launcher.nodes=1, or launcher.per_gpu=1"
        )
    several = [c.name for c in cells if c.config.trainer.devices * c.config.trainer.num_nodes > 1]
    if several:
        raise UserError(
            f"launcher.per_gpu={launcher.per_gpu}: {len(several)} cells train on several devices, such as "
            f"{several[0]}, and cells that share a GPU have one: set trainer.devices=1 and trainer.num_nodes=1, or "
            "launcher.per_gpu=1"
        )
