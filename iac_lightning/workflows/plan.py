"""What an experiment would do, before any data is touched."""

from __future__ import annotations

from collections.abc import Sequence

from iac_lightning.config.batching import (
    accumulated_batches,
    global_batch,
    learning_rate,
    processes,
    training_steps,
    updates_per_epoch,
)
from iac_lightning.config.remarks import region_voxels, remarks, token_mm
from iac_lightning.config.schema import ExperimentConfig
from iac_lightning.models.build import model_summary


def plan(config: ExperimentConfig) -> str:
    """Network, shapes, parameters, memory, steps and samples of an experiment, as text."""

    def by(values: Sequence[float]) -> str:
        return " × ".join(f"{v:g}" for v in values)

    data, trainer = config.data, config.trainer
    updates = updates_per_epoch(config)
    size = [n * s for n, s in zip(data.sampling.crop, data.grid.spacing_mm, strict=True)]
    tokens = [f"token        {by(token_mm(config))} mm"] if config.model.name == "vit" else []
    lines = [
        f"{config.name}: {config.task}, {config.model.name}",
        "",
        model_summary(config),
        "",
        f"region       {by(data.grid.roi_mm)} mm = {by(region_voxels(config))} voxels of {by(data.grid.spacing_mm)} mm",
        f"crop         {by(data.sampling.crop)} voxels = {by(size)} mm",
        *tokens,
        f"batch        {data.batch_size} × {processes(config)} devices × {accumulated_batches(config)} accumulated = "
        f"{global_batch(config)} patches an update",
        f"steps        {updates} updates an epoch × {trainer.max_epochs} epochs = {training_steps(config)}; "
        f"{data.sampling.samples_per_epoch * trainer.max_epochs} patches in all",
        f"optimiser    {config.optimizer.name}, peak rate {rate_words(config)}, {config.optimizer.schedule}",
        f"results      {config.runs_dir}/{config.name}",
        *([] if config.profile == "auto" else [f"profile      {config.profile}"]),
    ]
    lines += [f"remark       {remark}" for remark in remarks(config)]
    return "\n".join(lines)


def rate_words(config: ExperimentConfig) -> str:
    """The peak learning rate and, where it was scaled, by which rule."""
    optimizer, rate = config.optimizer, learning_rate(config)
    if optimizer.lr_scaling == "none":
        return f"{rate:g}"
    sign = "" if optimizer.lr_scaling == "linear" else "√"
    return f"{rate:g} = {optimizer.lr:g} × {sign}({global_batch(config)} / {optimizer.lr_batch_size})"
