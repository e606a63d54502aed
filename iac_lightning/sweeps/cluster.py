"""The cells of a sweep as SLURM job arrays: pre-trainings first, what needs them as arrays that depend on them."""

from __future__ import annotations

from collections.abc import Sequence

from iac_lightning.cluster.slurm import JOBS, Entry, submit
from iac_lightning.config.schema import LauncherConfig
from iac_lightning.sweeps.cells import Cell
from iac_lightning.sweeps.state import Sweep, states


def submit_sweep(
    sweep: Sweep, launcher: LauncherConfig, extra: Sequence[str], report: Sequence[str], entry: Entry
) -> list[str]:
    """Submit every cell that is neither finished, failed, running nor in the queue; returns a line for each array.

    One array holds the pre-trainings, one those fine-tunings that need none (or whose pre-training is finished), and
    one each the fine-tunings of a pre-training, which start when it is finished and are cancelled when it fails. A last
    job writes the report when all have ended, however they did.

    With `launcher.per_gpu` above 1 each job runs that many cells at the same time, with logs of their own in `logs/`.

    Args:
        sweep: the plan.
        launcher: of each job.
        extra: settings for every cell that do not decide its result.
        report: arguments of `iac` that make the report.
        entry: what each job calls with its command.
    """
    now = states(sweep)
    jobs = {c.name: str(sweep.record(c).get("job")) for c in sweep.cells if now[c.name] in ("queued", "running")}
    lines: list[str] = []

    def send(cells: list[Cell], kind: str, dependency: str | None) -> None:
        n = min(launcher.per_gpu, launcher.at_once or launcher.per_gpu)
        groups = [cells[first : first + n] for first in range(0, len(cells), n)]
        word = "cell" if n == 1 else "cells"
        names = [",".join(cell.name for cell in group) for group in groups]
        commands = [[word, str(sweep.directory), name, "launcher=local", *extra] for name in names]
        ids = submit(commands, launcher, sweep.directory / JOBS, f"{sweep.plan['name']}-{kind}", entry, dependency)
        for group, job in zip(groups, ids, strict=True):
            for cell in group:
                sweep.note(cell, "queued", job=job)
                jobs[cell.name] = job
        after = f", after {dependency.split(':', 1)[1]}" if dependency else ""
        lines.append(f"{len(cells)} cells: job {ids[0].split('_')[0]}{after} ({cells[0].name}, …)")

    to_send = [c for c in sweep.cells if now[c.name] in ("pending", "waiting")]
    for kind in ("pretrain", "finetune"):
        waiting: dict[str | None, list[Cell]] = {}
        for cell in (c for c in to_send if c.kind == kind):
            waits = sorted({jobs[name] for name in cell.needs if now[name] != "finished"})
            waiting.setdefault(f"afterok:{':'.join(waits)}" if waits else None, []).append(cell)
        for dependency, cells in waiting.items():
            send(cells, kind, dependency)
    if jobs:
        one = LauncherConfig(**{**vars(launcher), "nodes": 1, "gpus_per_node": 0, "tasks_per_node": 1})
        arrays = ":".join(sorted({job.split("_")[0] for job in jobs.values()}))
        (job,) = submit([list(report)], one, sweep.directory / JOBS, "report", entry, f"afterany:{arrays}")
        lines.append(f"the report: job {job}, after all of them")
    return lines
