"""What an experiment's values may be: the rules of single settings (`schema`) and settings that must fit together.

Works on a complete, well-typed `ExperimentConfig`; reading it and saying where a value came from is `reading`'s.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator

from iac_lightning.config.addresses import holds_secret, mentions_secret
from iac_lightning.config.keys import leaves, rules, value_at
from iac_lightning.config.model_checks import model_problems, nearest_words
from iac_lightning.config.schema import ExperimentConfig

_NAME_PART = re.compile(r"[A-Za-z0-9][A-Za-z0-9._=+,-]*")
_NAME_PART_LENGTH, _NAME_LENGTH = 200, 1000
_MOST_VOXELS, _MOST_AT_ONCE, _MOST_WINDOWS = 2**27, 2**30, 100_000
_STORES = ("sqlite:///", "http://", "https://", "postgresql", "mysql", "mssql", "databricks")


def range_problems(config: ExperimentConfig) -> Iterator[tuple[str, str]]:
    """Settings that are wrong on their own: key, and what is wrong and how to mend it."""
    for key, rule in rules().items():
        value = value_at(config, key)
        if value is not None and not rule.fine(value):
            yield key, f"out of range: expected {rule.expected}"
    yield from _name_problems(config.name)
    yield from _address_problems(config)


def _name_problems(name: str) -> Iterator[tuple[str, str]]:
    if not all(_NAME_PART.fullmatch(part) and ".." not in part for part in name.split("/")):
        yield (
            "name",
            "not a safe folder name: use letters, digits and . _ - = + , each part beginning with a letter or "
            "digit; '/' nests folders (demo/vit_mae)",
        )
    elif max(map(len, name.split("/"))) > _NAME_PART_LENGTH or len(name) > _NAME_LENGTH:
        yield (
            "name",
            f"too long for a folder: at most {_NAME_PART_LENGTH} characters between two '/', {_NAME_LENGTH} in all",
        )


def _address_problems(config: ExperimentConfig) -> Iterator[tuple[str, str]]:
    """Settings are stored with every run: no text among them may hold a credential."""
    uri = config.tracking.uri
    if uri is not None and holds_secret(uri):
        yield (
            "tracking.uri",
            "may hold a password or token (before an @, behind a ? or #), and settings are stored with every run: "
            "leave it out here and give it in the environment (MLFLOW_TRACKING_USERNAME, MLFLOW_TRACKING_PASSWORD or "
            "MLFLOW_TRACKING_TOKEN; PGUSER, PGPASSWORD; DATABRICKS_CONFIG_PROFILE)",
        )
    elif uri is not None and not uri.startswith(_STORES):
        yield (
            "tracking.uri",
            "MLflow needs a database or a server: sqlite:///<absolute path>/mlflow.db, http://<host>:<port>, …; "
            "or null for a database in runs_dir",
        )
    for key in leaves(ExperimentConfig):
        value = value_at(config, key)
        if key != "tracking.uri" and isinstance(value, str) and mentions_secret(value):
            yield key, "holds an address with a user, password or token, and settings are stored with every run"


def joint_problems(config: ExperimentConfig) -> Iterator[tuple[tuple[str, ...], str]]:
    """Settings that do not fit together: the keys involved, and what is wrong and how to mend it."""
    yield from _task_problems(config)
    yield from _fold_problems(config)
    yield from _size_problems(config)
    yield from model_problems(config)
    yield from _device_problems(config)
    yield from _batch_problems(config)
    if config.trainer.strategy.startswith("fsdp"):
        yield from _sharding_problems(config)
    epochs, every = config.trainer.max_epochs, config.trainer.check_val_every_n_epoch
    if epochs % every:
        yield (
            ("trainer.max_epochs", "trainer.check_val_every_n_epoch"),
            f"trainer.max_epochs {epochs} is not a multiple of trainer.check_val_every_n_epoch {every}, so the last "
            f"epochs would never be validated: use {nearest_words(epochs, every)} epochs, or another interval",
        )


def _task_problems(config: ExperimentConfig) -> Iterator[tuple[tuple[str, ...], str]]:
    if config.init_from is not None and config.task != "segment":
        yield (
            ("init_from", "task"),
            f"what was pre-trained is taken over only by task=segment; this is task={config.task}: remove init_from or "
            "change that",
        )
    if config.task == "segment" and config.loss.dice_weight == 0 and config.loss.ce_weight == 0:
        yield ("loss.dice_weight", "loss.ce_weight"), "both losses weigh 0, so nothing is learned: raise one of them"


def _fold_problems(config: ExperimentConfig) -> Iterator[tuple[tuple[str, ...], str]]:
    fold, more = config.data.fold, config.data.more_folds
    if more and (fold is None or fold in more):
        yield (
            ("data.more_folds", "data.fold"),
            f"data.more_folds {list(more)} are held out beside data.fold, which is {'null' if fold is None else fold}: "
            "name each fold once, the first as data.fold",
        )


def _size_problems(config: ExperimentConfig) -> Iterator[tuple[tuple[str, ...], str]]:
    """What no memory holds and no patience outlasts: to be said before anything is allocated."""
    grid, crop, inference = config.data.grid, config.data.sampling.crop, config.inference
    region = [math.ceil(length / spacing) for length, spacing in zip(grid.roi_mm, grid.spacing_mm, strict=True)]
    steps = [max(1, int(edge * (1 - inference.overlap))) for edge in crop]
    windows = [
        max(1, math.ceil((whole - edge) / step) + 1) for whole, edge, step in zip(region, crop, steps, strict=True)
    ]
    for keys, factors, what, most in (
        (("data.sampling.crop",), crop, "voxels", _MOST_VOXELS),
        (("data.grid.spacing_mm", "data.grid.roi_mm"), region, "voxels", _MOST_VOXELS),
        (("data.batch_size", "data.sampling.crop"), (config.data.batch_size, *crop), "voxels", _MOST_AT_ONCE),
        (("inference.window_batch", "data.sampling.crop"), (inference.window_batch, *crop), "voxels", _MOST_AT_ONCE),
        (("inference.overlap", "data.sampling.crop", "data.grid.roi_mm"), windows, "windows", _MOST_WINDOWS),
    ):
        if math.prod(factors) > most:
            words = " × ".join(map(str, factors))
            yield keys, f"{' and '.join(keys)} make {words} {what}, and at most {most:,} are taken"


def _device_problems(config: ExperimentConfig) -> Iterator[tuple[tuple[str, ...], str]]:
    samples, batch = config.data.sampling.samples_per_epoch, config.data.batch_size
    world = config.trainer.devices * config.trainer.num_nodes
    # A process that runs out of batches before the others would leave them waiting in the gradient exchange.
    if world > 1 and (samples % world or samples < batch * world):
        step = batch * world
        yield (
            ("data.sampling.samples_per_epoch", "data.batch_size", "trainer.devices", "trainer.num_nodes"),
            f"data.sampling.samples_per_epoch {samples} does not share out over {world} processes with batches of "
            f"{batch}: use {nearest_words(samples, step)}",
        )
    if config.trainer.accelerator == "cpu" and config.trainer.precision.startswith("16-"):
        yield (
            ("trainer.precision", "trainer.accelerator"),
            f"{config.trainer.precision} does not run on a CPU: use bf16-mixed or 32-true",
        )


def _batch_problems(config: ExperimentConfig) -> Iterator[tuple[tuple[str, ...], str]]:
    """The global batch and the learning rate that follows from it."""
    trainer, optimizer = config.trainer, config.optimizer
    step = config.data.batch_size * trainer.devices * trainer.num_nodes
    whole, accumulate = trainer.global_batch, trainer.accumulate_grad_batches
    keys = ("trainer.global_batch", "data.batch_size", "trainer.devices", "trainer.num_nodes")
    if whole is not None and whole % step:
        yield (
            keys,
            f"a global batch of {whole} is not made of whole batches of {config.data.batch_size} on "
            f"{trainer.devices * trainer.num_nodes} devices: use {nearest_words(whole, step)}, or another "
            "data.batch_size",
        )
    elif whole is not None and accumulate not in (1, whole // step):
        yield (
            (*keys, "trainer.accumulate_grad_batches"),
            f"a global batch of {whole} accumulates {whole // step} batches, and trainer.accumulate_grad_batches is "
            f"{accumulate}: leave that one out",
        )
    elif whole is not None and whole > config.data.sampling.samples_per_epoch:
        yield (
            (*keys, "data.sampling.samples_per_epoch"),
            f"a global batch of {whole} is more than the {config.data.sampling.samples_per_epoch} samples of an epoch "
            "(data.sampling.samples_per_epoch): lower the one or raise the other",
        )
    if trainer.compile == "cuda_graphs" and max(accumulate, (whole or 0) // step) > 1:
        yield (
            (*keys, "trainer.compile", "trainer.accumulate_grad_batches"),
            "a recorded graph overwrites the gradients of the batch before, so none can be added up: take a "
            "data.batch_size that fills the global batch, or trainer.compile=default",
        )
    if optimizer.lr_scaling != "none" and optimizer.lr_batch_size is None:
        yield (
            ("optimizer.lr_scaling", "optimizer.lr_batch_size"),
            f"the rate is to follow the global batch, but nothing says for which batch optimizer.lr {optimizer.lr:g} "
            "is meant: set optimizer.lr_batch_size",
        )


def _sharding_problems(config: ExperimentConfig) -> Iterator[tuple[tuple[str, ...], str]]:
    """What does not go with FSDP."""
    trainer = config.trainer
    if trainer.accelerator not in ("auto", "gpu", "cuda"):
        yield (
            ("trainer.strategy", "trainer.accelerator"),
            f"FSDP runs on CUDA GPUs, and trainer.accelerator is {trainer.accelerator}: use trainer.strategy=ddp",
        )
    if trainer.devices * trainer.num_nodes == 1:
        yield (
            ("trainer.strategy", "trainer.devices", "trainer.num_nodes"),
            "FSDP shares a network out over several GPUs, and there is one: raise trainer.devices, or use "
            "trainer.strategy=auto",
        )
    if config.model.name != "vit":
        yield (
            ("trainer.strategy", "model.name"),
            f"FSDP shares out transformer blocks, and model.name is {config.model.name}: use trainer.strategy=ddp",
        )
    if config.optimizer.ema_decay > 0:
        yield (
            ("trainer.strategy", "optimizer.ema_decay"),
            f"the average of the weights (optimizer.ema_decay {config.optimizer.ema_decay:g}) needs them whole, and "
            "FSDP keeps a part on each GPU: set optimizer.ema_decay=0, or use trainer.strategy=ddp",
        )
    if trainer.compile != "off":
        yield (
            ("trainer.strategy", "trainer.compile"),
            "torch.compile is offered without FSDP only: set trainer.compile=off, or use trainer.strategy=ddp",
        )
