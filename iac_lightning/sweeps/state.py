"""A sweep on disk: its plan, and what has become of each cell.

`<runs_dir>/<name>/` holds `sweep.json` (the plan), `cells/<cell>.json` (how it ended, or its job), a run directory for
each cell, `logs/<cell>.log`, `report/`. A cell is `finished` or `failed` by its own word; it is running while a process
holds its lock, which a killed process does not.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from data_modules.errors import UserError
from data_modules.files import write_json_atomic
from iac_lightning.cluster import slurm
from iac_lightning.sweeps.cells import Cell
from iac_lightning.sweeps.spec import SweepSpec

PLAN = "sweep.json"

STATES = ("finished", "running", "queued", "waiting", "pending", "failed", "blocked")
"""waiting: for a pre-training; pending: can start; blocked: its pre-training failed."""


@dataclass(frozen=True)
class Sweep:
    """A sweep's folder.

    Attributes:
        directory: `<runs_dir>/<name>`.
        plan: what `sweep.json` holds.
        cells: in the order of the plan, pre-trainings first.
    """

    directory: Path
    plan: dict[str, Any]
    cells: tuple[Cell, ...]

    def cell(self, name: str) -> Cell:
        """The cell of that name.

        Raises:
            UserError: when there is none.
        """
        for cell in self.cells:
            if cell.name == name:
                return cell
        raise UserError(f"{self.directory}: no cell is called {name}; `iac sweep --status` lists them")

    def log(self, cell: Cell) -> Path:
        """Where a cell's output goes when it runs here."""
        return self.directory / "logs" / f"{cell.name}.log"

    def lock(self, cell: Cell) -> FileLock:
        """Held by the process that works on a cell."""
        folder = self.directory / "cells"
        folder.mkdir(parents=True, exist_ok=True)
        return FileLock(folder / f"{cell.name}.lock")

    def record(self, cell: Cell) -> dict[str, Any]:
        """What is known of a cell; empty before it began, and where it was made with other settings."""
        path = self.directory / "cells" / f"{cell.name}.json"
        known: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        return known if known.get("config_hash") == cell.config_hash else {}

    def note(self, cell: Cell, state: str, **facts: Any) -> None:
        """Write down a cell's state, whole or not at all."""
        write_json_atomic(
            self.directory / "cells" / f"{cell.name}.json",
            {"state": state, "config_hash": cell.config_hash, **facts},
        )

    def forget(self, cell: Cell) -> None:
        """Take back what was noted, so that the cell runs again (from its last checkpoint)."""
        (self.directory / "cells" / f"{cell.name}.json").unlink(missing_ok=True)


def write_plan(spec: SweepSpec, cells: Sequence[Cell]) -> Sweep:
    """Write `sweep.json`.

    Raises:
        UserError: when the folder holds cells that were made with other settings, or is no sweep.
    """
    directory = spec.directory
    if (directory / "config.yaml").exists():
        raise UserError(f"{directory}: is a run, not a sweep. Give the sweep another name (name=…).")
    plan: dict[str, Any] = {
        "name": spec.name,
        "question": spec.question,
        "caveat": spec.caveat,
        "file": spec.path.name,
        "split": spec.split,
        "stress": spec.stress,
        "seeds": spec.seeds,
        "folds": spec.folds,
        "axes": {axis: list(levels) for axis, levels in spec.axes.items()},
        "report": spec.report,
        "risk_cutoffs_mm3": next((c.config.evaluation.risk_cutoffs_mm3 for c in cells if c.kind == "finetune"), None),
        "cells": [cell.to_dict() for cell in cells],
    }
    sweep = Sweep(directory, plan, tuple(cells))
    changed = []
    for cell in sweep.cells:
        path = directory / "cells" / f"{cell.name}.json"
        if path.exists() and not sweep.record(cell):
            changed.append(cell.name)
    if changed:
        raise UserError(
            f"{directory}: {len(changed)} cells were made with other settings ({', '.join(changed[:3])}). Give the "
            f"sweep another name (name=…), bring the settings back, or delete {directory}."
        )
    write_json_atomic(directory / PLAN, plan)
    return sweep


def open_sweep(directory: Path) -> Sweep:
    """A sweep that was begun.

    Raises:
        UserError: when the folder holds none.
    """
    with reading_plan(directory) as plan:
        return Sweep(Path(directory), plan, tuple(map(Cell.from_dict, plan["cells"])))


@contextmanager
def reading_plan(directory: Path) -> Iterator[dict[str, Any]]:
    """What `sweep.json` holds; whatever the block misses in it is an error of the file.

    Raises:
        UserError: when there is no plan, or it is not what `iac sweep` writes.
    """
    path = Path(directory) / PLAN
    try:
        yield json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{directory}: no sweep here (it has no {PLAN}). Begin one: iac sweep FILE") from None
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: not what `iac sweep` writes ({error!r}); run the sweep's command again") from None


def states(sweep: Sweep) -> dict[str, str]:
    """State of every cell, by name (`STATES`)."""
    records = {cell.name: sweep.record(cell) for cell in sweep.cells}
    jobs = {name: record["job"] for name, record in records.items() if record.get("state") == "queued"}
    alive = slurm.queued(list(jobs.values()))
    known: dict[str, str] = {}
    for cell in sweep.cells:  # pre-trainings come first
        state = records[cell.name].get("state")
        if state in ("finished", "failed"):
            known[cell.name] = state
        elif _is_locked(sweep.lock(cell)):
            known[cell.name] = "running"
        elif jobs.get(cell.name) in alive:
            known[cell.name] = "queued"
        elif any(known[name] in ("failed", "blocked") for name in cell.needs):
            known[cell.name] = "blocked"
        else:
            known[cell.name] = "waiting" if any(known[name] != "finished" for name in cell.needs) else "pending"
    return known


def status_table(sweep: Sweep) -> str:
    """One line a cell: state, time or reason, and a count of the states."""
    now = states(sweep)
    width = max(len(name) for name in now)
    lines = []
    for cell in sweep.cells:
        record = sweep.record(cell)
        remark = record.get("reason") or (f"{record['seconds']:.0f} s" if "seconds" in record else "")
        if now[cell.name] in ("queued", "running") and "job" in record:
            remark = f"job {record['job']}"
        lines.append(f"{cell.name.ljust(width)}  {now[cell.name]:9s} {remark}".rstrip())
    counts = [f"{n} {state}" for state in STATES if (n := list(now.values()).count(state))]
    return "\n".join([*lines, f"{len(now)} cells: {', '.join(counts)}"])


def _is_locked(lock: FileLock) -> bool:
    try:
        with lock.acquire(timeout=0):
            return False
    except Timeout:
        return True
