"""What an experiment would do, before any data is touched."""

from __future__ import annotations

import math
from collections.abc import Sequence

from iac_lightning.models.build import model_summary
from iac_lightning.schema import ExperimentConfig


def plan(config: ExperimentConfig) -> str:
    """Network, shapes, parameters, memory, steps and samples of an experiment, as text."""
    data, trainer = config.data, config.trainer
    devices = trainer.devices * trainer.num_nodes
    batches = math.ceil(data.sampling.samples_per_epoch / (data.batch_size * devices))
    updates = math.ceil(batches / trainer.accumulate_grad_batches)
    size = [n * s for n, s in zip(data.sampling.crop, data.grid.spacing_mm, strict=True)]
    region = [math.ceil(m / s) for m, s in zip(data.grid.roi_mm, data.grid.spacing_mm, strict=True)]

    def by(values: Sequence[float]) -> str:
        return " × ".join(f"{v:g}" for v in values)

    lines = [
        f"{config.name}: {config.task}, {config.model.name}",
        "",
        model_summary(config),
        "",
        f"region       {by(data.grid.roi_mm)} mm = {by(region)} voxels of {by(data.grid.spacing_mm)} mm",
        f"crop         {by(data.sampling.crop)} voxels = {by(size)} mm",
        f"batch        {data.batch_size} × {devices} devices × {trainer.accumulate_grad_batches} accumulated = "
        f"{data.batch_size * devices * trainer.accumulate_grad_batches} patches an update",
        f"steps        {updates} updates an epoch × {trainer.max_epochs} epochs = {updates * trainer.max_epochs}; "
        f"{data.sampling.samples_per_epoch * trainer.max_epochs} patches in all",
        f"optimiser    {config.optimizer.name}, peak rate {config.optimizer.lr:g}, {config.optimizer.schedule}",
        f"results      {config.runs_dir}/{config.name}",
    ]
    return "\n".join(lines)
