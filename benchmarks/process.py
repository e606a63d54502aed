"""Measuring two things in turn, and the time and memory of a whole command."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from collections.abc import Callable

from data_modules.errors import UserError


def alternate(a: Callable[[], float], b: Callable[[], float], rounds: int) -> tuple[list[float], list[float], float]:
    """Two measurements in turn; their values and the median of the ratios a/b, pair by pair."""
    pairs = [(a(), b()) for _ in range(rounds)]
    ratio = statistics.median(x / y for x, y in pairs)
    return [x for x, _ in pairs], [y for _, y in pairs], ratio


WATCH = """
import json, os, subprocess, sys, threading, time
start = time.perf_counter()
process = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL, start_new_session=True)
page = os.sysconf("SC_PAGE_SIZE")
peak, over = 0, threading.Event()
def resident():
    total = 0
    for name in filter(str.isdigit, os.listdir("/proc") if os.path.isdir("/proc") else ()):
        try:
            if os.getsid(int(name)) == process.pid:
                with open(f"/proc/{name}/statm") as file:
                    total += int(file.read().split()[1]) * page
        except (OSError, ValueError, IndexError):
            pass
    return total
def watch():
    global peak
    while not over.wait(0.1):
        peak = max(peak, resident())
watcher = threading.Thread(target=watch)
watcher.start()
_, status, usage = os.wait4(process.pid, 0)
over.set()
watcher.join()
peak = max(peak, usage.ru_maxrss * 1024)
seconds = time.perf_counter() - start
print(json.dumps([os.waitstatus_to_exitcode(status), seconds, usage.ru_utime + usage.ru_stime, peak / 2**30]))
"""
"""Starts a process and prints its status, wall-clock and CPU seconds (children included) and peak memory (GiB). It runs
in a small process of its own: on Linux the peak of a new process begins at that of the one that starts it, and this one
holds torch and networks. The memory of all processes of the command is added up ten times a second (pages that they
share count more than once); it is at least the peak of the largest."""


IAC = "iac_lightning.cli"


def measured(command: list[str], module: str = IAC) -> dict[str, float]:
    """Seconds, CPU seconds and peak resident memory of one command, start of Python and its workers included.

    Args:
        command: its arguments.
        module: that is run; by default `iac`.

    Raises:
        UserError: when it ends with another status than 0.
    """
    program = [sys.executable, "-m", module, *command]
    done = subprocess.run([sys.executable, "-c", WATCH, *program], stdout=subprocess.PIPE, text=True, check=True)
    status, seconds, cpu_seconds, peak_memory_gib = json.loads(done.stdout)
    if status:
        name = "iac" if module == IAC else module
        raise UserError(f"{name} {' '.join(command)} ended with status {status}. Its message stands above.")
    return {"seconds": seconds, "cpu_seconds": cpu_seconds, "peak_memory_gib": peak_memory_gib}
