"""(a) A step of MAE, ViT and CNN: bare and in the Trainer, eager and compiled, over patch and batch sizes."""

from __future__ import annotations

import gc
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from benchmarks.device import busy_s, seconds_a_step
from benchmarks.figures import reason, table
from benchmarks.gpu.arguments import Task, begin, parser
from benchmarks.steps import bare_step
from benchmarks.synthetic import NETWORKS, example, experiment, write_series
from iac_lightning.config.schema import ExperimentConfig
from iac_lightning.models.cost import step_flops

if TYPE_CHECKING:
    from data_modules.prepare.store import PreparedSeries

MODES = ("off", "cuda_graphs", "default")
ARMS = ("bare", "trainer")
SLOW_START_S = 60.0
"""Compilation takes so long that nothing compiled is begun with less time left."""
COLUMNS = {
    **{name: name for name in ("network", "patch", "batch", "compile", "arm")},
    "samples_per_s": "samples/s",
    "ms": "ms a step",
    "to_bare": "÷ bare",
    "share_of_peak": "of peak",
    "busy_share": "busy",
    "memory_gib": "GiB",
    "data_wait_share": "waits",
    "problem": "left out",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Measure what the options name, the plain ones first."""
    options = parser("steps", __doc__ or "")
    options.add_argument("--networks", nargs="+", choices=NETWORKS, default=NETWORKS, help="which (default all)")
    options.add_argument("--patches", nargs="+", type=int, help="edges of the ViT's patches (default 8 4 16)")
    options.add_argument("--batches", nargs="+", type=int, help="samples a step (default 32 128 8 256; on a CPU 2)")
    options.add_argument("--modes", nargs="+", choices=MODES, help="trainer.compile (default all; on a CPU off)")
    options.add_argument("--arms", nargs="+", choices=ARMS, default=ARMS, help="bare, trainer (default both)")
    task = begin("steps", options.parse_args(argv))
    with tempfile.TemporaryDirectory() as folder:
        series, problem = made_series(Path(folder), 8 if task.is_trial else 64)
        for network, patch, batch, mode in plan(task):
            if task.figures.seconds_left < (SLOW_START_S if mode != "off" and not task.is_trial else 0):
                continue
            config = experiment(
                network, task.size, patch=patch, batch=batch, precision=task.precision, device=task.options.device
            )
            config.trainer.compile = mode
            config.data.num_workers = task.workers
            measure(task, config, network, patch, series, problem)
    print(table(COLUMNS, task.figures.rows))
    return task.figures.status


def made_series(folder: Path, n: int) -> tuple[tuple[PreparedSeries, ...], str | None]:
    """Volumes for the Trainer, or why there are none."""
    try:
        return write_series(folder, n), None
    except ModuleNotFoundError as error:
        return (), reason(error)


def plan(task: Task) -> Iterator[tuple[str, int, int, str]]:
    """Network, patch, batch and mode of each figure, those that come quickly first; a CNN has no patch (0)."""
    options = task.options
    patches = options.patches or [8, 4, 16]
    batches = options.batches or ([32, 128, 8, 256] if task.device.is_cuda else [2])
    for mode in options.modes or (MODES if task.device.is_cuda else MODES[:1]):
        for batch in batches:
            for network in options.networks:
                few = task.is_trial and network == "vit"  # its decoder is the slowest of all
                for patch in [0] if network == "cnn" else patches[:1] if few else patches:
                    yield network, patch, batch, mode


def measure(
    task: Task,
    config: ExperimentConfig,
    network: str,
    patch: int,
    series: tuple[PreparedSeries, ...],
    problem: str | None,
) -> None:
    """The bare step, then the Trainer's, each a line as soon as it is known."""
    batch = config.data.batch_size
    named = {"network": network, "patch": patch or None, "batch": batch, "compile": config.trainer.compile}
    flops = batch * step_flops(config)[0] if task.device.peak_tflops else 0  # counting takes a second
    bare_s = None
    for arm in task.options.arms:
        try:
            if arm == "bare":
                found = measure_bare(task, config)
                bare_s = found["seconds"]
            elif problem:
                found = {"problem": problem}
            else:
                found = measure_trainer(task, config, series)
        except Exception as error:  # an arm that fails, for want of memory or of a library, ends no other
            found = {"problem": reason(error)}
        seconds = found.pop("seconds", None)
        if seconds:
            busy = found.pop("busy_s")
            found |= {
                "samples_per_s": batch / seconds,
                "ms": 1000 * seconds,
                "to_bare": seconds / bare_s if bare_s and arm != "bare" else None,
                "share_of_peak": task.device.share_of_peak(flops, seconds),
                "busy_share": min(busy / seconds, 1.0) if busy is not None else None,
            }
        task.figures.add(**named, arm=arm, precision=task.precision, **found)
        clean_up()


def measure_bare(task: Task, config: ExperimentConfig) -> dict[str, Any]:
    """Seconds of a bare step, of which the GPU computes some; and memory."""
    task.device.forget_peak_memory()
    step = bare_step(config, example(config, task.device.torch), task.device)
    seconds, n = seconds_a_step(step, task.device, task.each_s)
    memory = task.device.peak_memory_gib()
    return {"seconds": seconds, "steps": n, "memory_gib": memory, "busy_s": busy_s(step, task.device)}


def measure_trainer(task: Task, config: ExperimentConfig, series: tuple[PreparedSeries, ...]) -> dict[str, Any]:
    """The same in the Trainer, fed by the data path."""
    from benchmarks.trainer_step import trainer_step

    return vars(trainer_step(config, series, task.device, task.each_s))


def clean_up() -> None:
    """Forget networks and what was compiled, so that each figure starts alike."""
    gc.collect()
    torch.compiler.reset()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
