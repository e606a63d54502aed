"""How many samples a weight update sees, how they are split, and which learning rate follows. Imports no torch.

An update holds `global_batch` consecutive samples of the epoch, which are the same for every split into devices,
accumulated batches and samples a batch: a sample depends on (seed, epoch, index) alone. The mean over samples (the
MAE's loss) is therefore the same too. The segmentation loss is a ratio of sums over the batch of all devices, so it is
the same for every number of devices at one `batch_size × devices`, and is averaged over accumulated batches: the mean
of the Dice losses of two halves is not the Dice loss of the whole.
"""

from __future__ import annotations

import math

from iac_lightning.config.schema import ExperimentConfig


def processes(config: ExperimentConfig) -> int:
    """Devices over all nodes."""
    return config.trainer.devices * config.trainer.num_nodes


def accumulated_batches(config: ExperimentConfig) -> int:
    """Batches of a device in one weight update: `trainer.global_batch` decides, where it is set."""
    trainer = config.trainer
    if trainer.global_batch is None:
        return trainer.accumulate_grad_batches
    return max(trainer.global_batch // (config.data.batch_size * processes(config)), 1)


def global_batch(config: ExperimentConfig) -> int:
    """Samples of one weight update over all devices and accumulated batches."""
    return config.data.batch_size * processes(config) * accumulated_batches(config)


def updates_per_epoch(config: ExperimentConfig) -> int:
    """Weight updates in an epoch; the last may hold fewer samples."""
    return math.ceil(config.data.sampling.samples_per_epoch / global_batch(config))


def training_steps(config: ExperimentConfig) -> int:
    """Weight updates of a whole run."""
    return updates_per_epoch(config) * config.trainer.max_epochs


def batch_weight(config: ExperimentConfig, batch_index: int) -> float:
    """What a batch's loss is multiplied with, so that an update is the mean over its samples.

    Lightning divides every loss by the number of accumulated batches. The last update of an epoch may hold fewer
    batches, and its last batch fewer samples: without this factor its gradient would be too small, and the samples
    of the small batch would count too much. 1 wherever an update is full.

    Args:
        config: the experiment.
        batch_index: of the batch in its epoch.
    """
    samples, whole = config.data.sampling.samples_per_epoch, global_batch(config)
    accumulated = accumulated_batches(config)
    size = whole // accumulated
    left = samples - batch_index * size  # of this batch on
    in_update = min(samples - batch_index // accumulated * whole, whole)
    return min(left, size) * accumulated / in_update


def learning_rate(config: ExperimentConfig) -> float:
    """Peak learning rate after `optimizer.lr_scaling`.

    linear: in proportion to the global batch (Goyal et al. 2017, for SGD). sqrt: to its square root (Krizhevsky 2014;
    Malladi et al. 2022, for adaptive optimisers such as AdamW).
    """
    optimizer = config.optimizer
    if optimizer.lr_scaling == "none" or optimizer.lr_batch_size is None:
        return optimizer.lr
    ratio = global_batch(config) / optimizer.lr_batch_size
    return optimizer.lr * (ratio if optimizer.lr_scaling == "linear" else math.sqrt(ratio))
