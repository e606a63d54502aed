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
from iac_lightning.cluster import slurm as launch
from iac_lightning.sweeps.cells import Cell
from iac_lightning.sweeps.spec import SweepSpec

PLAN = "sweep.json"

STATES = ("finished", "running", "queued", "waiting", "pending", "failed", "blocked")
"""waiting: for a pre-training; pending: can start; blocked: its pre-training failed."""


@dataclass(frozen=True, kw_only=True)
class PlannedCell:
    """A cell as the plan on disk has it; see `Cell`."""

    name: str
    kind: str
    levels: dict[str, str]
    seed: int
    experiment: str
    overrides: tuple[str, ...]
    needs: tuple[str, ...]
    config_hash: str


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
    cells: tuple[PlannedCell, ...]

    def cell(self, name: str) -> PlannedCell:
        """The cell of that name.

        Raises:
            UserError: when there is none.
        """
        for cell in self.cells:
            if cell.name == name:
                return cell
        raise UserError(f"{self.directory}: no cell is called {name}; `iac sweep --status` lists them")

    def log(self, cell: PlannedCell) -> Path:
        """Where a cell's output goes when it runs here."""
        return self.directory / "logs" / f"{cell.name}.log"

    def lock(self, cell: PlannedCell) -> FileLock:
        """Held by the process that works on a cell."""
        folder = self.directory / "cells"
        folder.mkdir(parents=True, exist_ok=True)
        return FileLock(folder / f"{cell.name}.lock")

    def record(self, cell: PlannedCell) -> dict[str, Any]:
        """What is known of a cell; empty before it began, and where it was made with other settings."""
        path = self.directory / "cells" / f"{cell.name}.json"
        known: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        return known if known.get("config_hash") == cell.config_hash else {}

    def note(self, cell: PlannedCell, state: str, **facts: Any) -> None:
        """Write down a cell's state, whole or not at all."""
        write_json_atomic(
            self.directory / "cells" / f"{cell.name}.json",
            {"state": state, "config_hash": cell.config_hash, **facts},
        )

    def forget(self, cell: PlannedCell) -> None:
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
        "seeds": spec.seeds,
        "axes": {axis: list(levels) for axis, levels in spec.axes.items()},
        "report": spec.report,
        "cells": [
            {
                "name": c.name,
                "kind": c.kind,
                "levels": c.levels,
                "seed": c.seed,
                "run": c.name,
                "experiment": str(c.experiment),
                "overrides": list(c.overrides),
                "needs": list(c.needs),
                "config_hash": c.hash,
            }
            for c in cells
        ],
    }
    sweep = Sweep(directory, plan, tuple(map(_planned, plan["cells"])))
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
        return Sweep(Path(directory), plan, tuple(map(_planned, plan["cells"])))


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
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: not what `iac sweep` writes ({error!r}); run the sweep's command again") from None


def states(sweep: Sweep) -> dict[str, str]:
    """State of every cell, by name (`STATES`)."""
    records = {cell.name: sweep.record(cell) for cell in sweep.cells}
    jobs = {name: record["job"] for name, record in records.items() if record.get("state") == "queued"}
    alive = launch.queued(list(jobs.values()))
    found: dict[str, str] = {}
    for cell in sweep.cells:  # pre-trainings come first
        state = records[cell.name].get("state")
        if state in ("finished", "failed"):
            found[cell.name] = state
        elif _is_locked(sweep.lock(cell)):
            found[cell.name] = "running"
        elif jobs.get(cell.name) in alive:
            found[cell.name] = "queued"
        elif any(found[name] in ("failed", "blocked") for name in cell.needs):
            found[cell.name] = "blocked"
        else:
            found[cell.name] = "waiting" if any(found[name] != "finished" for name in cell.needs) else "pending"
    return found


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


def _planned(cell: dict[str, Any]) -> PlannedCell:
    return PlannedCell(
        name=cell["name"],
        kind=cell["kind"],
        levels=cell["levels"],
        seed=cell["seed"],
        experiment=cell["experiment"],
        overrides=tuple(cell["overrides"]),
        needs=tuple(cell["needs"]),
        config_hash=cell["config_hash"],
    )
