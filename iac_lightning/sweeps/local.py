"""The cells of a sweep as processes of this machine, a few at a time."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO, Any

from tqdm import tqdm

from data_modules.processes import cores
from iac_lightning.cluster import slurm
from iac_lightning.sweeps.cells import Cell
from iac_lightning.sweeps.sharing import Room
from iac_lightning.sweeps.state import Sweep, states

ENDED = ("finished", "failed")
"""States that a cell notes at its end."""
POLL_S = 0.3
GRACE_S = 60.0
"""A cell that has lost its parent and does not end by itself is ended after this long."""
START_S = 30.0
"""No cell is begun that would have less time than this: it takes as long until the first step."""
STOP_S = 90.0
"""How long stopped cells may take to end before they are killed."""


@dataclass
class _Process:
    cell: Cell
    process: subprocess.Popen[bytes]
    log: IO[bytes]
    start: float
    gpu: str | None = None


def run_here(sweep: Sweep, room: Room, extra: Sequence[str] = (), deadline: float = math.inf) -> bool:
    """Run every cell that is neither finished nor failed, those that others need first.

    A cell that fails stops only those that need it. On Ctrl-C (and when this process is killed) the cells that run
    stop as a training does; the same call goes on.

    Args:
        sweep: the plan.
        room: how many at once, and on which GPUs.
        extra: settings for every cell that do not decide its result.
        deadline: of `time.monotonic`, when the cells that run are stopped as on Ctrl-C.

    Returns:
        Whether every cell has come to its end that can; False: the deadline came first.

    Raises:
        KeyboardInterrupt: after Ctrl-C, once no cell runs any more.
    """
    hear_interrupts()
    running: dict[str, _Process] = {}
    now = states(sweep)
    bar: tqdm[Any] = tqdm(total=len(now), initial=list(now.values()).count("finished"), unit="cell", disable=None)
    try:
        while True:
            for name, entry in list(running.items()):
                if entry.process.poll() is not None:
                    del running[name]
                    _ended(sweep, entry, bar)
            now = states(sweep)
            elsewhere = [name for name, state in now.items() if state == "running" and name not in running]
            pending = [c for c in sweep.cells if now[c.name] == "pending" and c.name not in running]
            # A cell of an earlier, killed call ends within seconds, and is then taken up here.
            if not running and not elsewhere and not pending:
                return True
            left = deadline - time.monotonic()
            if left <= 0 or (left < START_S and not running and not elsewhere):
                _stop(running)
                return False
            begins = pending if left >= START_S else []
            for cell in begins[: max(0, room.at_once - len(running) - len(elsewhere))]:
                running[cell.name] = _start(sweep, cell, room, extra, room.free_gpu([p.gpu for p in running.values()]))
            time.sleep(POLL_S)
    except KeyboardInterrupt:
        _stop(running)
        raise
    finally:
        bar.close()


def run_together(sweep: Sweep, names: Sequence[str], extra: Sequence[str] = ()) -> int:
    """Run some cells at the same time inside a SLURM job, whose GPU they share; output goes to their own logs.

    When SLURM asks the job to leave, each cell saves as it would in a job of its own, and then the job goes back into
    the queue, once. Arguments as for `run_here`.

    Returns:
        0 when all are finished, 1 when some failed.

    Raises:
        RequeuedError: once all cells have saved.
        KeyboardInterrupt: after Ctrl-C, once no cell runs any more.
    """
    cells = [sweep.cell(name) for name in names]
    room = Room(len(cells), per_gpu=len(cells))
    slurm.training_batches(True)  # the signal is answered here, when all have saved
    running = {
        cell.name: _start(sweep, cell, room, extra, shared_job=True)
        for cell in cells
        if sweep.record(cell).get("state") not in ENDED
    }
    told = False
    try:
        while running:
            if slurm.asked() and not told:
                told = True
                for entry in running.values():
                    entry.process.send_signal(slurm.SIGNAL_NUMBER)
            for name, entry in list(running.items()):
                if entry.process.poll() is not None:
                    del running[name]
                    _ended(sweep, entry, requeued=told)
            time.sleep(POLL_S)
    except KeyboardInterrupt:
        _stop(running)
        raise
    finally:
        slurm.training_batches(False)
    ends = [sweep.record(cell).get("state") for cell in cells]
    if told and not set(ends) <= set(ENDED):
        slurm.requeue()
    return 0 if set(ends) == {"finished"} else 1


def command(sweep: Sweep, cell: Cell, extra: Sequence[str]) -> list[str]:
    """What runs a cell in a process of its own."""
    program = [sys.executable, "-m", "iac_lightning.cli", "cell", str(sweep.directory), cell.name]
    return [*program, *extra, "--with-parent"]


def _start(
    sweep: Sweep, cell: Cell, room: Room, extra: Sequence[str], gpu: str | None = None, *, shared_job: bool = False
) -> _Process:
    path = sweep.log(cell)
    path.parent.mkdir(parents=True, exist_ok=True)
    log = path.open("ab")
    environment = {
        "OMP_NUM_THREADS": str(max(1, cores() // room.at_once)),
        "PYTHONUNBUFFERED": "1",
        "PYTHONIOENCODING": "utf-8",
        **os.environ,
        **({"CUDA_VISIBLE_DEVICES": gpu} if gpu is not None else {}),
        **({slurm.SHARED_JOB: "1"} if shared_job else {}),
    }
    process = subprocess.Popen(
        command(sweep, cell, [*room.settings_of(cell.config), *extra]),
        env=environment,
        stdin=subprocess.PIPE,  # its end tells the cell that this process is gone, however it went
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,  # Ctrl-C reaches the cells through `_stop` alone
    )
    return _Process(cell, process, log, time.monotonic(), gpu)


def _ended(sweep: Sweep, entry: _Process, bar: tqdm[Any] | None = None, *, requeued: bool = False) -> None:
    entry.log.close()
    status, cell = entry.process.returncode, entry.cell
    record = sweep.record(cell)
    if requeued and record.get("state") not in ENDED:
        return  # it has saved, or was told before it could; either way it goes on
    if record.get("state") not in ENDED:
        reason = f"ended with status {status}" if status >= 0 else f"killed by signal {-status}"
        hint = " (out of memory?)" if status == -9 else ""
        sweep.note(cell, "failed", reason=f"{reason}{hint}; see logs/{cell.name}.log")
        record = sweep.record(cell)
    seconds = time.monotonic() - entry.start
    if bar is not None and record["state"] == "finished":
        bar.update(1)
    tqdm.write(f"{record['state']:9s} {cell.name}  {seconds:.0f} s  {record.get('reason', '')}".rstrip())


def _stop(running: dict[str, _Process]) -> None:
    for entry in running.values():
        if entry.process.stdin:
            entry.process.stdin.close()
    deadline = time.monotonic() + STOP_S
    for entry in running.values():
        try:
            entry.process.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            entry.process.kill()
        entry.log.close()


def end_with_parent() -> None:
    """Stop this process as Ctrl-C does when the one that started it is gone: its end of standard input closes.

    A sweep that is killed leaves no training behind that nobody watches.
    """

    def watch() -> None:
        while os.read(0, 1024):  # not sys.stdin, whose lock a thread that waits would hold when Python ends
            pass
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(GRACE_S)
        os._exit(1)

    hear_interrupts()
    threading.Thread(target=watch, daemon=True).start()


def hear_interrupts() -> None:
    """Let SIGINT raise `KeyboardInterrupt`, whatever this process has inherited; in the main thread.

    What a script starts in the background ignores it, and so do all processes below: a sweep could not be asked to
    stop, nor a cell stop itself.
    """
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.default_int_handler)
