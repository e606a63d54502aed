"""Where a training step's time goes: a few steps of an experiment, timed and traced."""

from __future__ import annotations

import copy
import os
import resource
import shutil
import sys
import tempfile
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, Checkpoint

from data_modules.errors import UserError
from data_modules.files import replacing, write_json_atomic, write_text_atomic
from iac_lightning.config.batching import processes
from iac_lightning.config.schema import ExperimentConfig
from iac_lightning.figures.profile import step_figure
from iac_lightning.modules.callbacks import EpochHistory, RequeueCallback
from iac_lightning.modules.profile import PHASES, StepClock, Timed
from iac_lightning.modules.profile_trace import Operator, Traced, Wait, analyse, read_events
from iac_lightning.runs.directory import Run, is_main_process, open_run
from iac_lightning.tracking import logger as tracking
from iac_lightning.workflows.train import build_trainer, check_training, failures_tracked, set_up

FOLDER = "profile"
"""Below `runs_dir`: profiles have runs of their own."""
TRACE = "trace.json.gz"
SHOWN = 10
"""Operators and places that the terminal and `profile.json` list."""
_KEEPING = (Checkpoint, EpochHistory, RequeueCallback)
"""Callbacks that keep what a training goes on from: a profile is begun anew, also when SLURM has asked it to leave."""


@dataclass(frozen=True)
class StepProfile:
    """What was measured.

    Attributes:
        experiment: its name.
        setting: task, network, precision and batch in a line.
        device: that trained.
        samples_per_s: of all devices.
        timed: without torch's profiler: all times but those of `traced` come from here.
        traced: with it.
        busy_share: share of a step in which the device computed (`traced.device_ms` of a timed step); on a CPU, the
            processor time of the process over that of torch's threads.
        peak_memory_mib: allocated on the GPU; on a CPU, of the whole process.
    """

    experiment: str
    setting: str
    device: str
    samples_per_s: float
    timed: Timed
    traced: Traced
    busy_share: float
    peak_memory_mib: float

    @property
    def on_gpu(self) -> bool:
        """Whether the trace holds work of a GPU."""
        return self.traced.device_ms is not None

    @property
    def waits_a_step(self) -> float:
        """How often a step waits for the device (on a CPU: would wait for one)."""
        return sum(wait.times for wait in self.traced.waits)

    def metrics(self) -> dict[str, float]:
        """The numbers, under their names in MLflow below `profile/`."""
        step_ms = self.timed.step_ms
        numbers = {
            "step_ms": step_ms,
            "step_median_ms": self.timed.median_ms,
            "samples_per_s": self.samples_per_s,
            "device_busy_share": self.busy_share,
            "device_idle_share": 1 - self.busy_share,
            "synchronisations_a_step": self.waits_a_step,
            "peak_memory_mib": self.peak_memory_mib,
        }
        for phase, ms in self.timed.phases_ms.items():
            numbers |= {f"{phase}_ms": ms, f"{phase}_share": ms / step_ms}
        if self.on_gpu:
            numbers |= {f"gpu/{phase}_ms": ms for phase, ms in self.traced.device_phases_ms.items()}
            numbers["gpu/launches_a_step"] = self.traced.launches
        return numbers

    def as_json(self) -> dict[str, Any]:
        """All of it, as `profile.json` holds it."""
        return {
            "experiment": self.experiment,
            "setting": self.setting,
            "device": self.device,
            "timed_steps": len(self.timed.steps_ms),
            "traced_steps": self.traced.steps,
            **self.metrics(),
            "steps_ms": self.timed.steps_ms,
            "synchronisations": [asdict(wait) for wait in self.traced.waits[:SHOWN]],
            "operators": [asdict(operator) for operator in self.traced.operators[:SHOWN]],
        }


def profile(
    config: ExperimentConfig, steps: int = 20, warmup: int = 5, traced: int = 3
) -> tuple[StepProfile | None, Path]:
    """Train a few steps of an experiment as `iac finetune` or `iac pretrain` would, and measure them.

    Data are prepared where they are not; validation, checkpoints and history, which come between epochs, are left
    out. With several devices, the first one is measured.

    Args:
        config: the experiment; its own run directory is left alone.
        steps: that are timed.
        warmup: before them, not looked at.
        traced: after them, under torch's profiler.

    Returns:
        The profile (None in all processes but the first), and the folder `<runs_dir>/profile/<name>` that holds
        `profile.json`, `profile.txt`, `trace.json.gz` and `figures/profile.png`; an earlier profile there is replaced.

    Raises:
        UserError: when a number of steps makes no sense, or the training could not begin.
    """
    if min(steps, warmup, traced) < 1:
        raise UserError(f"--steps {steps} --warmup {warmup} --traced {traced}: each must be 1 or more")
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # chatter of torch's profiler
    warnings.filterwarnings("ignore", message=".*smaller than the logging interval")  # the epoch is cut short
    clock = StepClock(warmup, steps, traced)
    config = profiled(config, clock.batches)
    check_training(config)
    with open_run(config) as run:
        _begin_anew(run)
        data, module = set_up(config, run)
        logger = tracking.waiting_logger(run)
        trainer = build_trainer(config, run, logger, profiler=clock, limit_val_batches=0)
        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
        callbacks[:] = [*(c for c in callbacks if not isinstance(c, _KEEPING)), _Device(clock)]
        module.log = clock.logging(module.log)  # type: ignore[method-assign]
        with failures_tracked(trainer, logger):
            try:
                trainer.fit(module, datamodule=data)
            finally:
                clock.end()
            measured = None
            if is_main_process():
                measured = _profile_of(config, clock, trainer.strategy.root_device, run.directory)
                _keep(measured, run, logger)
        tracking.finish(logger, "FINISHED")
        return measured, run.directory


class _Device(Callback):
    """Tells the clock what trains, once that is known."""

    def __init__(self, clock: StepClock) -> None:
        self.clock = clock

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.clock.device = pl_module.device


def profiled(config: ExperimentConfig, batches: int) -> ExperimentConfig:
    """The experiment as it is profiled: a run of its own, one epoch of as many batches."""
    config = copy.deepcopy(config)
    config.name = f"{FOLDER}/{config.name}"
    config.trainer.max_epochs = 1
    config.data.sampling.samples_per_epoch = batches * config.data.batch_size * processes(config)
    return config


def _begin_anew(run: Run) -> None:
    """Forget an earlier profile, and the MLflow run that it had.

    Raises:
        UserError: when a training lies there.
    """
    if not is_main_process():
        return
    if run.is_finished or run.last_checkpoint is not None:
        raise UserError(f"{run.directory}: is a training, and a profile goes there; give name=… or runs_dir=…")
    for folder in ("logs", "figures"):
        shutil.rmtree(run.directory / folder)
        (run.directory / folder).mkdir()
    for name in ("mlflow_run_id", "provenance.json", "profile.json", "profile.txt", TRACE):
        (run.directory / name).unlink(missing_ok=True)


def _profile_of(config: ExperimentConfig, clock: StepClock, device: torch.device, folder: Path) -> StepProfile:
    """Write the trace and read it."""
    assert clock.trace is not None, "all steps were made"
    with tempfile.TemporaryDirectory() as place, replacing(folder / TRACE) as temporary:
        packed = Path(place) / TRACE  # by its ending torch knows that it is to be packed
        clock.trace.export_chrome_trace(str(packed))
        shutil.copyfile(packed, temporary)
    traced = analyse(read_events(folder / TRACE))
    timed, step_ms = clock.measured, clock.measured.step_ms
    threads = torch.get_num_threads()
    busy_ms = timed.processor_ms / threads if traced.device_ms is None else traced.device_ms
    batch, count = config.data.batch_size, processes(config)
    return StepProfile(
        experiment=config.name.removeprefix(f"{FOLDER}/"),
        setting=f"{config.task}, {config.model.name}, {config.trainer.precision}, "
        f"compile {config.trainer.compile}, batch {batch} × {count} device{'s' if count > 1 else ''}",
        device=torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else f"CPU, {threads} thread{'s' if threads > 1 else ''}",
        samples_per_s=1000 * batch * count / step_ms,
        timed=timed,
        traced=traced,
        busy_share=min(busy_ms / step_ms, 1.0),
        peak_memory_mib=_process_mib() if timed.peak_memory_mib is None else timed.peak_memory_mib,
    )


def _process_mib() -> float:
    """Of this process since its start (KiB on Linux, bytes elsewhere)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**10 if sys.platform == "linux" else 2**20)


def _keep(measured: StepProfile, run: Run, logger: object) -> None:
    """Write the files and send all to MLflow."""
    write_json_atomic(run.directory / "profile.json", measured.as_json())
    write_text_atomic(run.directory / "profile.txt", describe_profile(measured) + "\n")
    bars = {"process": measured.timed.phases_ms}
    if measured.on_gpu:
        bars["GPU"] = measured.traced.device_phases_ms
    figure = step_figure(
        bars,
        tuple(PHASES),
        f"{measured.experiment}: where a training step's time goes",
        f"{measured.setting}\n{measured.device}; mean of {len(measured.timed.steps_ms)} steps, "
        f"{measured.samples_per_s:.3g} samples/s",
    )
    tracking.log_figure(logger, figure, run.directory / "figures" / "profile.png")
    tracking.log_summary(run, measured.metrics(), FOLDER, logger)
    if isinstance(logger, tracking.RunLogger):
        for name in ("profile.json", "profile.txt", TRACE):
            logger.store(run.directory / name, FOLDER)


def describe_profile(measured: StepProfile) -> str:
    """The profile as text: phases, device, waiting, operators."""
    timed, traced = measured.timed, measured.traced
    lines = [
        f"{measured.experiment}: {measured.setting}",
        f"{measured.device}; {len(timed.steps_ms)} steps timed, {traced.steps} traced",
        "",
        f"{timed.step_ms:.4g} ms a step (median {timed.median_ms:.4g}), {measured.samples_per_s:.4g} samples/s",
        "",
        f"{'phase':<11}{'ms':>9}{'share':>8}{'GPU ms':>9}"
        if measured.on_gpu
        else f"{'phase':<11}{'ms':>9}{'share':>8}",
    ]
    for phase, words in PHASES.items():
        ms = timed.phases_ms[phase]
        if phase == "queue" and not measured.on_gpu:
            continue
        gpu = f"{traced.device_phases_ms.get(phase, 0.0):>9.2f}" if measured.on_gpu else ""
        lines.append(f"{phase:<11}{ms:>9.2f}{ms / timed.step_ms:>8.1%}{gpu}   {words}")
    busy = f"{measured.busy_share:.1%} busy, {1 - measured.busy_share:.1%} idle"
    if measured.on_gpu:
        lines += ["", f"GPU: {busy}: {traced.device_ms:.4g} ms of work a step in {traced.launches:.0f} launches"]
        lines.append(f"peak memory: {measured.peak_memory_mib:.0f} MiB allocated on the GPU")
        head, none = "waits for the GPU", "the process never waits for the GPU inside a step"
    else:
        lines += ["", f"processor: {busy} of {measured.device.removeprefix('CPU, ')}"]
        lines.append(f"peak memory: {measured.peak_memory_mib:.0f} MiB of the process")
        head = "values read back, for each of which a step on a GPU might wait"
        none = "no value is read back: a step on a GPU would not wait for it"
    lines += ["", *(_table_of_waits(f"{head}: {measured.waits_a_step:.3g} a step", traced.waits) or [none])]
    where = "on the GPU" if measured.on_gpu else "of the process"
    lines += ["", *_table_of_operators(f"longest operators, own time {where}", traced.operators)]
    return "\n".join(lines)


def _table_of_waits(head: str, waits: list[Wait]) -> list[str]:
    if not waits:
        return []
    rows = [f"{w.times:>7.2f}{w.ms:>9.3f}   {w.phase:<11}{w.operator:<28}{w.place}" for w in waits[:SHOWN]]
    more = [f"{'':>7} … and {len(waits) - SHOWN} more places"] if len(waits) > SHOWN else []
    return [head, f"{'times':>7}{'ms':>9}   {'phase':<11}{'operator':<28}where", *rows, *more]


def _table_of_operators(head: str, operators: list[Operator]) -> list[str]:
    total = sum(o.ms for o in operators)
    rows = [f"{o.calls:>7.0f}{o.ms:>9.2f}{o.ms / total:>8.1%}   {o.name}" for o in operators[:SHOWN]]
    return [head, f"{'calls':>7}{'ms':>9}{'share':>8}   operator", *rows]
