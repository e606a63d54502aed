"""One cell of a sweep: train, evaluate, note how it ended."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from filelock import Timeout

from data_modules.errors import UserError
from data_modules.system_errors import in_words
from iac_lightning.config.reading import load_experiment
from iac_lightning.runs.directory import LOCK_WAIT_S, is_main_process
from iac_lightning.sweeps.cells import Cell
from iac_lightning.sweeps.state import open_sweep


def run_cell(directory: Path, name: str, extra: tuple[str, ...] = ()) -> None:
    """Train and evaluate a cell, continuing where an earlier process stopped.

    Whatever stops a process (a signal, Ctrl-C, the queue) leaves nothing noted; an error is noted and raised.

    Args:
        directory: of the sweep.
        name: of the cell.
        extra: settings that do not decide the result.

    Raises:
        UserError: when another process works on the cell, or a pre-training is missing.
    """
    sweep = open_sweep(directory)
    cell = sweep.cell(name)
    if not is_main_process():  # another rank of the same job: the first one locks and notes
        train_and_evaluate(cell, sweep.plan, None, extra)
        return
    try:
        lock = sweep.lock(cell).acquire(timeout=LOCK_WAIT_S)
    except Timeout:
        raise UserError(f"{directory}: another process works on cell {name}") from None
    with lock:
        if sweep.record(cell).get("state") == "finished":
            print(f"{name} is finished already")
            return
        lacking = [n for n in cell.needs if sweep.record(sweep.cell(n)).get("state") != "finished"]
        if lacking:
            raise UserError(f"{directory}: cell {name} needs {', '.join(lacking)}, which is not finished")
        from iac_lightning.sweeps.parent_run import parent_run_id  # torch, after everything that may be refused

        start = time.monotonic()
        try:
            train_and_evaluate(cell, sweep.plan, parent_run_id(directory), extra)
        except Exception as error:
            sweep.note(cell, "failed", reason=one_line(error), seconds=round(time.monotonic() - start, 1))
            raise
        sweep.note(cell, "finished", seconds=round(time.monotonic() - start, 1))


def train_and_evaluate(cell: Cell, plan: Mapping[str, Any], parent: str | None, extra: tuple[str, ...]) -> None:
    """The run of a cell, and of a fine-tuning its evaluation on the development split and on that of the sweep.

    Where the sweep names slice thicknesses, the heads of that split are re-imaged with them too.
    """
    overrides = [*cell.overrides, *extra, *([f"tracking.parent_run_id={parent}"] if parent else [])]
    config = load_experiment(cell.experiment, overrides)
    from iac_lightning.cluster import sharding
    from iac_lightning.workflows.evaluate import evaluate
    from iac_lightning.workflows.train import train

    run = train(config)
    # Ranks that training has joined share the scans out; where it has parted them again the first does all.
    if cell.kind == "finetune" and (is_main_process() or sharding.process()[1] > 1):
        for name in dict.fromkeys(("dev", plan["split"])):
            evaluate(run, name)
    if cell.kind == "finetune" and plan.get("stress") and is_main_process():
        from iac_lightning.workflows.stress import stress

        stress([run], plan["split"], plan["stress"])


def one_line(error: Exception) -> str:
    """What went wrong, without folders."""
    words = in_words(error, "cell")
    lines = [line for line in (words.kept if words else str(error)).splitlines() if line.strip()] or [
        type(error).__name__
    ]
    text = lines[0] if words else f"{type(error).__name__}: {lines[0]}"
    return text.replace(str(Path.cwd()) + os.sep, "")[:300]
