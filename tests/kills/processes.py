"""Processes that end, and those that run on although their parent is gone."""

from __future__ import annotations

import ctypes
import os
import signal
import time
from contextlib import suppress
from pathlib import Path

_NOTICE_S = 30.0
"""Within this time whoever is left without a parent must have noticed (loader processes look every five seconds)."""

_SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER


def adopt_orphans() -> None:
    """Make this process the parent of all below it that lose theirs, so that they can be found."""
    ctypes.CDLL(None).prctl(_SUBREAPER, 1, 0, 0, 0)


def ended(pid: int, seconds: float) -> int | None:
    """Exit status, or minus a signal, of a process that ends within some time; None where it does not."""
    deadline = time.monotonic() + seconds
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > deadline:
            return None
        time.sleep(0.005)


def children() -> dict[int, str]:
    """Processes whose parent is this one (orphans are), and what they run; those that have ended are collected."""
    found = {}
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, ValueError, IndexError):
            facts = (path / "stat").read_text().rpartition(")")[2].split()
            if int(facts[1]) != os.getpid():
                continue
            if facts[0] == "Z":
                os.waitpid(int(path.name), os.WNOHANG)
                continue
            found[int(path.name)] = (path / "cmdline").read_text().replace("\0", " ")[:120]
    return found


def orphans(seconds: float = _NOTICE_S) -> list[str]:
    """What runs on although its parent is gone; it is ended here."""
    deadline = time.monotonic() + seconds
    while (left := children()) and time.monotonic() < deadline:
        time.sleep(0.1)
    for pid in left:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
    return list(left.values())
