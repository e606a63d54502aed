"""The cells of a sweep as processes of this machine, a few at a time."""

from __future__ import annotations

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

from iac_lightning.sweeps.cells import Cell
from iac_lightning.sweeps.state import Sweep, states

POLL_S = 0.3
GRACE_S = 60.0
"""A cell that has lost its parent and does not end by itself is ended after this long."""
STOP_S = 90.0
"""How long stopped cells may take to end before they are killed."""


@dataclass
class _Process:
    cell: Cell
    process: subprocess.Popen[bytes]
    log: IO[bytes]
    start: float


def run_here(sweep: Sweep, at_once: int, extra: Sequence[str] = ()) -> None:
    """Run every cell that is neither finished nor failed, those that others need first.

    A cell that fails stops only those that need it. On Ctrl-C (and when this process is killed) the cells that run
    stop as a training does; the same call goes on.

    Args:
        sweep: the plan.
        at_once: processes.
        extra: settings for every cell that do not decide its result.

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
            for cell in pending[: max(0, at_once - len(running) - len(elsewhere))]:
                running[cell.name] = _start(sweep, cell, at_once, extra)
            # A cell of an earlier, killed call ends within seconds, and is then taken up here.
            if not running and not elsewhere and not pending:
                return
            time.sleep(POLL_S)
    except KeyboardInterrupt:
        _stop(running)
        raise
    finally:
        bar.close()


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def command(sweep: Sweep, cell: Cell, extra: Sequence[str]) -> list[str]:
    """What runs a cell in a process of its own."""
    program = [sys.executable, "-m", "iac_lightning.cli", "cell", str(sweep.directory), cell.name]
    return [*program, *extra, "--with-parent"]


def _start(sweep: Sweep, cell: Cell, at_once: int, extra: Sequence[str]) -> _Process:
    path = sweep.log(cell)
    path.parent.mkdir(parents=True, exist_ok=True)
    log = path.open("ab")
    threads = max(1, cores() // at_once)
    process = subprocess.Popen(
        command(sweep, cell, extra),
        env={"OMP_NUM_THREADS": str(threads), "PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": "utf-8", **os.environ},
        stdin=subprocess.PIPE,  # its end tells the cell that this process is gone, however it went
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,  # Ctrl-C reaches the cells through `_stop` alone
    )
    return _Process(cell, process, log, time.monotonic())


def _ended(sweep: Sweep, entry: _Process, bar: tqdm[Any]) -> None:
    entry.log.close()
    status, cell = entry.process.returncode, entry.cell
    record = sweep.record(cell)
    if record.get("state") not in ("finished", "failed"):
        reason = f"ended with status {status}" if status >= 0 else f"killed by signal {-status}"
        hint = " (out of memory?)" if status == -9 else ""
        sweep.note(cell, "failed", reason=f"{reason}{hint}; see logs/{cell.name}.log")
        record = sweep.record(cell)
    seconds = time.monotonic() - entry.start
    if record["state"] == "finished":
        bar.update(1)
    bar.write(f"{record['state']:9s} {cell.name}  {seconds:.0f} s  {record.get('reason', '')}".rstrip())


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
