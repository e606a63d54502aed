"""A sweep from its file to its report."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Sequence
from pathlib import Path

from filelock import FileLock, Timeout

from data_modules.errors import UserError
from iac_lightning.cluster.slurm import JOBS, Entry
from iac_lightning.config.schema import ExperimentConfig
from iac_lightning.runs.directory import LOCK_WAIT_S
from iac_lightning.sweeps.cells import Cell, cells
from iac_lightning.sweeps.cluster import submit_sweep
from iac_lightning.sweeps.local import run_here
from iac_lightning.sweeps.parent_run import finish_parent, start_parent
from iac_lightning.sweeps.sharing import check_sharing, room_here
from iac_lightning.sweeps.spec import SweepSpec, read_sweep
from iac_lightning.sweeps.state import Sweep, open_sweep, states, status_table, write_plan

GOES_ON = os.EX_TEMPFAIL
"""Status of a sweep whose time was up before its cells were done."""
MARGIN_S = 20.0
"""Cells are stopped so long before the time is up: they end between two steps."""


def sweep(
    path: Path,
    overrides: Sequence[str],
    *,
    entry: Entry,
    dry_run: bool = False,
    retry: bool = False,
    minutes: float | None = None,
) -> int:
    """Run a sweep, or go on with it: finished cells are skipped, failed ones run again only with `retry`.

    Args:
        path: the sweep's file.
        overrides: see `read_sweep`.
        entry: what a job of a cluster calls with its command.
        dry_run: the plan only.
        retry: run failed cells again, from their last checkpoint.
        minutes: after which cells that run here are stopped; the same call goes on.

    Returns:
        0 when every cell is finished or in the queue, 1 when some failed, `GOES_ON` when the time was up.

    Raises:
        UserError: when the file is wrong, or this sweep is in progress in another process.
    """
    deadline = math.inf if minutes is None else time.monotonic() + max(0.0, 60 * minutes - MARGIN_S)
    spec = read_sweep(path, overrides)
    if minutes is not None and (minutes <= 0 or spec.launcher.name != "local"):
        raise UserError(
            f"--minutes {minutes:g}: expected a number above 0, of a sweep on this machine; on SLURM "
            "launcher.time_min limits each job"
        )
    planned = cells(spec)
    check_sharing(spec.launcher, planned)
    from iac_lightning.sweeps.plan import plan_table  # torch, after the checks

    print(plan_table(spec, planned))
    if dry_run:
        return 0
    spec.directory.mkdir(parents=True, exist_ok=True)
    lock = FileLock(spec.directory / "sweep.lock")
    try:
        lock.acquire(timeout=LOCK_WAIT_S)
    except Timeout:
        raise UserError(
            f"{spec.directory}: this sweep is in progress in another process; `iac sweep --status {path}` shows it"
        ) from None
    with lock:
        return run(spec, planned, entry, retry, deadline)


def run(spec: SweepSpec, planned: Sequence[Cell], entry: Entry, retry: bool, deadline: float = math.inf) -> int:
    """The cells that are left, then the report; arguments and result as for `sweep`, `deadline` as for `run_here`."""
    room = room_here(spec.launcher, planned) if spec.launcher.name == "local" else None
    begun = write_plan(spec, planned)
    if retry:
        for cell in begun.cells:
            if begun.record(cell).get("state") == "failed":
                begun.forget(cell)
    config = planned[0].config
    prepare(spec, planned)
    start_parent(begun, config)
    if room is None:
        lines = submit_sweep(begun, spec.launcher, (), ["sweep", str(begun.directory), "--finish"], entry)
        print("\n".join([*lines, f"output: {begun.directory / JOBS}; state: iac sweep --status {begun.directory}"]))
        return 0
    try:
        in_time = run_here(begun, room, deadline=deadline)
    except BaseException:
        finish_parent(begun, config, "KILLED")
        raise
    if not in_time:
        finish_parent(begun, config, "KILLED")
        print(f"{status_table(begun)}\nthe time was up; the same command goes on")
        return GOES_ON
    return end(begun, config)


def prepare(spec: SweepSpec, planned: Sequence[Cell]) -> None:
    """Make the phantom cohort and the volumes on every common grid once, before cells that start at once would."""
    from data_modules.cohort.assigning import split_cohort
    from data_modules.phantom.cohort import DEFAULT_FRACTIONS, make_phantom_cohort
    from data_modules.prepare.preparation import prepare_cohort

    if spec.phantom:
        phantom = spec.phantom
        fractions = phantom.get("fractions") or DEFAULT_FRACTIONS
        cohort = make_phantom_cohort(
            Path(phantom["folder"]),
            phantom.get("patients", 60),
            seed=phantom.get("seed", 0),
            workers=planned[0].config.data.prepare_workers,
            max_series=phantom.get("max_series", 3),
            fractions=fractions,
        )
        if spec.folds:
            split_cohort(cohort, fractions, phantom.get("seed", 0), folds=spec.folds)
    for config in {repr((c.config.data.cohort, c.config.data.grid)): c.config for c in planned}.values():
        prepare_cohort(config.data)


def end(sweep: Sweep, config: ExperimentConfig) -> int:
    """The report, the states, and the status of the whole."""
    from iac_lightning.workflows.reports.sweep import sweep_report

    page = None
    now = states(sweep)
    if any(now[c.name] == "finished" for c in sweep.cells if c.kind == "finetune"):
        page = sweep_report([sweep.directory], report_of(sweep))
    done = all(state == "finished" for state in now.values())
    finish_parent(sweep, config, "FINISHED" if done else "FAILED", report_of(sweep) if page else None)
    print(status_table(sweep))
    if page:
        print(f"report: {page}")
    if "failed" in now.values():
        print("failed cells run again with --retry")
    return 0 if done else 1


def finish(directory: Path) -> int:
    """The end of a sweep whose cells ran elsewhere: report, states, MLflow."""
    sweep = open_sweep(directory)
    return end(sweep, sweep.cells[0].config)


def status(path: Path, overrides: Sequence[str]) -> str:
    """States of the cells of a sweep, given by its file or its folder."""
    directory = path if path.is_dir() else read_sweep(path, overrides).directory
    return status_table(open_sweep(directory))


def report_of(sweep: Sweep) -> Path:
    """Where a sweep's report goes."""
    return sweep.directory / "report"
