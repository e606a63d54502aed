"""Pre-train, fine-tune or train a baseline: one run, from its config to its best checkpoint."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, LearningRateMonitor, ModelCheckpoint
from lightning.pytorch.utilities.exceptions import SIGTERMException
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from data_modules.batches.ct_data_module import CTDataModule
from data_modules.cohort.folds import cohort_of
from data_modules.cohort.leakage import check_unseen, split_salt
from data_modules.errors import UserError
from data_modules.files import write_json_atomic, write_text_atomic
from iac_lightning.cluster import ranks
from iac_lightning.cluster.slurm import RequeuedError, slurm_job
from iac_lightning.config.batching import accumulated_batches, global_batch, learning_rate
from iac_lightning.config.reading import from_dict
from iac_lightning.config.schema import ExperimentConfig
from iac_lightning.evaluation.calibration.record import describe_calibration
from iac_lightning.models.precision import set_matmul_precision
from iac_lightning.modules.average import WeightAverage
from iac_lightning.modules.callbacks import (
    EpochHistory,
    LossBar,
    OverlayFigure,
    ReconstructionFigure,
    RequeueCallback,
    RunRecord,
    read_history,
)
from iac_lightning.modules.checkpoint import AtomicCheckpointIO, load_model
from iac_lightning.modules.common import ExperimentModule
from iac_lightning.modules.devices import check_devices
from iac_lightning.modules.finite import FiniteGuard
from iac_lightning.modules.foreign import FILE, ForeignEncoder, read_foreign
from iac_lightning.modules.mae_module import MAEModule
from iac_lightning.modules.probe import TokenProbe, describe_pretraining
from iac_lightning.modules.rule_module import RuleModule
from iac_lightning.modules.segmentation_module import SegmentationModule
from iac_lightning.modules.sources import SourcesWatch
from iac_lightning.modules.strategies import build_strategy, check_launched_processes
from iac_lightning.modules.throughput import DataWait
from iac_lightning.modules.transfer import other_conventions, pretrained_part, transfer_encoder, transfer_table
from iac_lightning.runs.directory import Run, is_main_process, load_run, open_run
from iac_lightning.tracking import logger as tracking
from iac_lightning.workflows.calibrate import calibrate_run
from iac_lightning.workflows.mlflow_model import log_trained

_DETERMINISTIC: dict[str, Any] = {"strict": True, "warn": "warn", "off": False}
"""Lightning's words for `trainer.deterministic`."""


def train(config: ExperimentConfig) -> Run:
    """Train as the config says, continuing where an earlier process of the same run stopped.

    Returns:
        The finished run. One that was finished before is returned as it is.

    Raises:
        UserError: when `init_from` does not exist, or another process trains this run.
        KeyboardInterrupt: after Ctrl-C; the run continues from its last checkpoint.
    """
    check_training(config)
    with open_run(config) as run:
        if run.is_finished:
            if is_main_process():
                print(f"{config.name} is finished already: {run.directory}")
            tracking.catch_up(run)
            return run
        data, module = set_up(config, run)
        logger = tracking.waiting_logger(run)
        trainer = build_trainer(config, run, logger)
        with failures_tracked(trainer, logger):
            trainer.fit(module, datamodule=data, ckpt_path=run.last_checkpoint, weights_only=True)
            if config.task == "segment":  # before the end is noted: a killed run does it again
                calibration = calibrate_run(run, logger)
                if is_main_process():
                    print(describe_calibration(calibration))
                    log_trained(run, logger)
            elif is_main_process():
                print(f"{config.name}: {describe_pretraining(last_epoch(run))}")
        tracking.announce_finish(logger)
        run.mark_finished(
            {
                "epochs": trainer.current_epoch,
                "steps": trainer.global_step,
                "global_batch": global_batch(config),
                "learning_rate": learning_rate(config),
                "parameters": sum(p.numel() for p in module.parameters()),
                "metrics": last_epoch(run),
            }
        )
        tracking.finish(logger, "FINISHED")
        return run


def last_epoch(run: Run) -> dict[str, Any]:
    """What was measured in the last epoch of a training."""
    return (read_history(run.directory / "logs" / "history.jsonl") or [{}])[-1]


def check_training(config: ExperimentConfig) -> None:
    """What can be known before a run is begun: its pre-training, its processes, its devices.

    Raises:
        UserError: when one of them is not there.
    """
    if config.init_from and not Path(config.init_from).exists():
        raise UserError(
            f"init_from: {config.init_from} does not exist. Pre-train first (iac pretrain …), or give the directory of "
            "a finished pre-training."
        )
    if ranks.forget_stray_variables():
        rank_zero_only.rank = 0  # type: ignore[attr-defined] # Lightning has read it when it was imported
    check_launched_processes(config)
    check_devices(config)


def set_up(config: ExperimentConfig, run: Run) -> tuple[CTDataModule, ExperimentModule]:
    """Data and network of a training, ready for `Trainer.fit`, and torch as the settings want it."""
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")  # Lightning's own use of torch
    warnings.filterwarnings("ignore", message="The `srun` command is available")  # wanted only inside a job
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)  # tips and "GPU available: False"
    if config.trainer.threads:
        torch.set_num_threads(config.trainer.threads)
    L.seed_everything(config.seed, workers=False, verbose=False)
    data = CTDataModule(
        config.data,
        config.task,
        config.seed,
        config.loss.restrict_hu,
        restrict_on=config.loss.restrict_on,
        condition_on=config.model.condition_on,
    )
    module = build_module(config)
    if config.init_from:
        start_from_pretraining(module, Path(config.init_from), run)
    return data, module


def build_module(config: ExperimentConfig) -> ExperimentModule:
    """What trains the network of an experiment."""
    if config.task == "pretrain":
        return MAEModule(config)
    return RuleModule(config) if config.model.name == "rule" else SegmentationModule(config)


@contextmanager
def failures_tracked(trainer: L.Trainer, logger: object) -> Iterator[None]:
    """Tell tracking how a training has ended that did not come to its end.

    Raises:
        KeyboardInterrupt: after Ctrl-C, which Lightning turns into an exit.
    """
    try:
        yield
    except BaseException as error:
        # Lightning calls a training that failed interrupted as well.
        stopped = isinstance(error, KeyboardInterrupt) or (isinstance(error, SystemExit) and trainer.interrupted)
        waits = isinstance(error, (RequeuedError, SIGTERMException))  # SLURM starts the job again
        tracking.finish(logger, "KILLED" if stopped or waits else "FAILED")
        if stopped:
            raise KeyboardInterrupt from None
        raise


def build_trainer(config: ExperimentConfig, run: Run, logger: object, **more: Any) -> L.Trainer:
    """Lightning's Trainer with the run's directory, checkpoints, figures and history.

    Args:
        config: the experiment.
        run: its directory.
        logger: of the run; None: nothing is tracked.
        more: further arguments of the Trainer.
    """
    monitor, mode = ("dev/loss", "min") if config.task == "pretrain" else ("dev/dice", "max")
    checkpoints = run.checkpoints_dir
    callbacks: list[Callback] = [
        RunRecord(run, logger),
        ModelCheckpoint(dirpath=checkpoints, filename="best", monitor=monitor, mode=mode, enable_version_counter=False),
        ModelCheckpoint(
            dirpath=checkpoints,
            filename="last",
            enable_version_counter=False,
            every_n_epochs=None if config.trainer.checkpoint_every_n_steps else 1,
            every_n_train_steps=config.trainer.checkpoint_every_n_steps,
            save_on_train_epoch_end=True,
        ),
        *([TokenProbe(config), ReconstructionFigure(run)] if config.task == "pretrain" else [OverlayFigure(run)]),
        DataWait(),
        SourcesWatch(),
        EpochHistory(run),
    ]
    if logger:
        callbacks.append(LearningRateMonitor(logging_interval="epoch"))
    if config.optimizer.ema_decay > 0:
        callbacks.append(WeightAverage(config.optimizer.ema_decay))
    callbacks.append(FiniteGuard(run))
    if slurm_job():
        callbacks.append(RequeueCallback(run))  # after all that change the weights at the end of a batch
    if sys.stderr.isatty():
        callbacks.append(LossBar(config.trainer.log_every_n_steps))
    settings = config.trainer
    # torch would also fill all memory that it allocates, which guards against code that reads what nobody has written.
    torch.utils.deterministic.fill_uninitialized_memory = settings.deterministic == "strict"  # type: ignore[attr-defined]
    trainer = L.Trainer(
        accelerator=settings.accelerator,
        devices=settings.devices,
        num_nodes=settings.num_nodes,
        strategy=build_strategy(config),
        precision=settings.precision,  # type: ignore[arg-type]
        max_epochs=settings.max_epochs,
        accumulate_grad_batches=accumulated_batches(config),
        sync_batchnorm=settings.sync_batchnorm,
        gradient_clip_val=settings.gradient_clip_val,
        check_val_every_n_epoch=settings.check_val_every_n_epoch,
        log_every_n_steps=settings.log_every_n_steps,
        deterministic=_DETERMINISTIC[settings.deterministic],
        benchmark=settings.deterministic == "off",
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        default_root_dir=run.directory,
        logger=logger or False,  # type: ignore[arg-type]
        callbacks=callbacks,
        plugins=[AtomicCheckpointIO()],
        enable_progress_bar=sys.stderr.isatty(),
        enable_model_summary=False,
        **more,
    )
    set_matmul_precision(settings.matmul_precision, trainer.strategy.root_device)
    return trainer


def start_from_pretraining(module: ExperimentModule, source: Path, run: Run) -> None:
    """Take over what a pre-training has made: its encoder, or all but the last layers.

    The report goes to `logs/transfer.txt`.

    Args:
        module: the new network's module, changed in place.
        source: a run directory (its last checkpoint is taken: reconstruction on development scans is no guide to
            which encoder transfers best) or a checkpoint file.
        run: where the report goes.

    Raises:
        UserError: when the source holds no finished pre-training of this project, its weights are not finite, or it
            learnt with other conventions than the settings have (`init_from_other` lets it through).
    """
    path: Path | None = source
    if source.is_dir():
        pretraining = load_run(source)
        if not pretraining.is_finished:
            raise UserError(
                f"init_from: {source} is not finished. Run its pre-training again (it continues), then this."
            )
        path = pretraining.last_checkpoint
    if path is None or not path.exists():
        raise UserError(f"init_from: no checkpoint in {source}. Give the run directory of a finished pre-training.")
    if not source.is_dir() and (foreign := read_foreign(path, run.config)) is not None:
        start_from_foreign(module, foreign, source, run)
        return
    saved = load_model(path)
    if saved.config.get("task") != "pretrain":
        raise UserError(f"init_from: {path} is not a pre-training of this project. Give one made with `iac pretrain`.")
    config = from_dict(saved.config, f"{path} (its settings)")
    if config.model.name != run.config.model.name:
        raise UserError(
            f"init_from: {source} has pre-trained a {config.model.name}, and this network is a "
            f"{run.config.model.name}: pre-train one with model.name={run.config.model.name}"
        )
    others = other_conventions(config, run.config)
    _check_conventions(others, source, run.config)
    x, y, z = (c // p for c, p in zip(config.data.sampling.crop, config.model.vit.patch_size, strict=True))
    refuse_known_development(run.config, saved.trained_on, source)
    rows = transfer_encoder(module.model, saved.state, (x, y, z), str(source), pretrained_part(config))
    module.trained_on = saved.trained_on
    report_transfer(transfer_table(rows, others), others, run)


def start_from_foreign(module: ExperimentModule, foreign: ForeignEncoder, source: Path, run: Run) -> None:
    """Take over the encoder of another project; what a model card says of it goes to `logs/foreign_encoder.json`.

    Args:
        module: the new network's module, changed in place.
        foreign: the encoder.
        source: its checkpoint, for messages.
        run: where the reports go.

    Raises:
        UserError: when it learnt with other conventions than the settings have (`init_from_other` lets it through), or
            has seen the development set.
    """
    _check_conventions(foreign.others, source, run.config)
    refuse_known_development(run.config, foreign.trained_on, source)
    rows = transfer_encoder(module.model, foreign.state, foreign.grid, str(source))
    module.trained_on = foreign.trained_on
    report_transfer(transfer_table(rows, foreign.others), foreign.others, run)
    if is_main_process():
        write_json_atomic(run.directory / FILE, foreign.record)


def _check_conventions(others: Sequence[str], source: Path, config: ExperimentConfig) -> None:
    if others and not config.init_from_other:
        raise UserError(
            f"init_from: the network of {source} has learnt other things than this network would show it: "
            f"{'; '.join(others)}. Set them alike, or, if that is meant, set init_from_other=true."
        )


def refuse_known_development(config: ExperimentConfig, trained_on: Sequence[Mapping[str, Any]], source: Path) -> None:
    """The leakage guard, before the first step rather than at calibration: whom a pre-training may not have seen.

    Args:
        config: of the training that starts from it.
        trained_on: whom the pre-training has seen, as its checkpoint says.
        source: of the pre-training, for the message.

    Raises:
        UserError: when a patient of the development set is among them.
    """
    if not trained_on:
        return
    patients, salt = cohort_of(config.data).patients("dev"), split_salt(config.data.cohort)
    for record in trained_on:
        try:
            check_unseen(patients, record, salt)  # another cohort's salt is told of when the run is calibrated
        except UserError as error:
            remedy = "" if config.data.fold is None else f": pre-train with data.fold={config.data.fold} too"
            raise UserError(f"init_from: {source} has seen the development set of this run{remedy}. {error}") from None


@rank_zero_only
def report_transfer(table: str, others: list[str], run: Run) -> None:
    """Keep the table and print its first line, and what was learnt otherwise."""
    write_text_atomic(run.directory / "logs" / "transfer.txt", table)
    print(f"{run.config.name}: pre-trained tensors: {table.splitlines()[0]}")
    for other in others:
        print(f"{run.config.name}: warning: the pre-training learnt otherwise: {other}")
