"""(d) Samples a second of 1, 2 and 4 trainings that share one card, all together and each."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.synchronize import Barrier
from pathlib import Path
from queue import Empty
from typing import Any

import torch
from torch import multiprocessing

from benchmarks.device import open_device, seconds_a_step
from benchmarks.figures import reason, table
from benchmarks.gpu.arguments import begin, parser
from benchmarks.steps import bare_step
from benchmarks.synthetic import NETWORKS, Size, example, experiment, write_series

COLUMNS = {
    **{name: name for name in ("network", "arm", "batch", "cells")},
    "samples_per_s": "samples/s, all",
    "gain": "× one cell",
    "each": "a cell's share of its speed alone",
    "problem": "left out",
}
TOO_LONG_S = 150
"""A cell that has told nothing for so long hangs."""


@dataclass(frozen=True)
class Cell:
    """What each process trains; everything that it needs to do so."""

    network: str
    size: Size
    batch: int
    precision: str
    device: str
    arm: str
    workers: int
    seconds: float
    folder: Path


def main(argv: Sequence[str] | None = None) -> int:
    """One cell, then two, then four, at the same time on the same card."""
    options = parser("shared_card", __doc__ or "")
    options.add_argument("--cells", nargs="+", type=int, help="at the same time (default 1 2 4; on a CPU 1 2)")
    options.add_argument("--networks", nargs="+", choices=NETWORKS, help="what cells train (default mae vit cnn)")
    options.add_argument("--batch", type=int, help="samples a step of each (default 32; on a CPU 2)")
    options.add_argument("--arm", choices=["trainer", "bare"], default="trainer", help="what is timed")
    task = begin("shared_card", options.parse_args(argv))
    cuda = task.device.is_cuda
    batch = task.options.batch or (32 if cuda else 2)
    counts = sorted(task.options.cells or ([1, 2, 4] if cuda else [1, 2]))
    for network in task.options.networks or (NETWORKS if cuda else ("mae",)):
        named = {"network": network, "arm": task.options.arm, "batch": batch}
        alone = None
        with tempfile.TemporaryDirectory() as folder:
            what = (network, task.size, batch, task.precision, task.options.device, task.options.arm)
            cells = Cells(Cell(*what, task.workers, 2 * task.each_s, Path(folder)), counts)
            try:
                for count in counts:
                    if task.figures.seconds_left < 0:
                        break
                    rates = cells.train(count)
                    alone = sum(rates) if count == 1 else alone
                    gain = sum(rates) / alone if alone else None
                    each = gain / count if gain else None
                    rounded = [round(rate, 1) for rate in rates]
                    found = {"samples_per_s": sum(rates), "gain": gain, "each": each, "of_each": rounded}
                    task.figures.add(**named, cells=count, **found)
            except CellError as error:
                task.figures.add(**named, cells=count, problem=str(error))
            finally:
                cells.close()
    print(table(COLUMNS, task.figures.rows))
    return task.figures.status


class CellError(Exception):
    """A cell could not train."""


class Cells:
    """Processes of their own, as a sweep's cells are, of which some train at the same time while the others wait.

    Args:
        cell: what each of them trains.
        counts: how many shall train together, at one time or another.
    """

    def __init__(self, cell: Cell, counts: Sequence[int]) -> None:
        context = multiprocessing.get_context("spawn")
        self._barriers = {count: context.Barrier(count) for count in counts}  # kept: they end with their last owner
        self._asked = [context.SimpleQueue() for _ in range(max(counts))]
        self._told = context.Queue()
        self._processes = [
            context.Process(target=serve, args=(cell, number, self._barriers, asked, self._told))
            for number, asked in enumerate(self._asked)
        ]
        for process in self._processes:
            process.start()

    def train(self, count: int) -> list[float]:
        """Samples a second of each of the first `count`, which start their clocks together once all are warm.

        Raises:
            CellError: where one of them failed, died, or hangs.
        """
        for asked in self._asked[:count]:
            asked.put(count)
        found = [self._answer() for _ in range(count)]
        rates = [answer for answer in found if not isinstance(answer, str)]
        problems = [answer for answer in found if isinstance(answer, str)]
        if problems:  # of those whose partner failed it is told that their barrier broke: the first is the cause
            raise CellError(problems[0])
        return rates

    def _answer(self) -> float | str:
        """What the next of the processes tells."""
        for _ in range(TOO_LONG_S):
            try:
                answer: float | str = self._told.get(timeout=1)
                return answer
            except Empty:
                if not all(process.is_alive() for process in self._processes):
                    break
        raise CellError("a cell has died, or has told nothing for too long")

    def close(self) -> None:
        """End the processes."""
        for asked, process in zip(self._asked, self._processes, strict=True):
            asked.put(0)
            process.join(timeout=10)
            process.kill()


def serve(cell: Cell, number: int, barriers: dict[int, Barrier], asked: Any, told: Any) -> None:
    """One process: train whenever it is asked to, together with so many; tell samples a second, or what went wrong."""
    torch.set_num_threads(1)
    while count := asked.get():
        try:
            told.put(cell.batch / cell_seconds(cell, f"{count}_{number}", barriers[count]))
        except Exception as error:
            told.put(reason(error))
            barriers[count].abort()  # the others need not wait
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def cell_seconds(cell: Cell, name: str, barrier: Barrier) -> float:
    """Of a step, while the others train too."""
    device = open_device(cell.device, cell.precision)
    config = experiment(cell.network, cell.size, batch=cell.batch, precision=cell.precision, device=cell.device)
    config.data.num_workers = cell.workers
    if cell.arm == "trainer":
        from benchmarks.trainer_step import trainer_step

        series = write_series(cell.folder / name, 8)
        return trainer_step(config, series, device, cell.seconds, barrier.wait).seconds
    step = bare_step(config, example(config, device.torch), device)
    seconds_a_step(step, device, 0)
    barrier.wait()
    return seconds_a_step(step, device, cell.seconds)[0]
