"""What a file that no decoder survives does to the process that reads it; found by name in that process."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from data_modules.intake.tasks import Task


def double(value: int) -> int:
    print("a library says something")  # on standard output, which carries answers
    return 2 * value


def misbehave(how: str) -> Any:
    """By a word; `killed:FILE` is killed from outside until FILE says that it was three times."""
    if how == "exit":
        os._exit(3)
    if how == "segfault":
        os.kill(os.getpid(), signal.SIGSEGV)
    if how == "hang":
        time.sleep(60)
    if how == "bomb":
        return len(bytearray(3 * 2**30))
    if how == "error":
        raise LookupError("for MUELLER^HANS")
    if how.startswith("killed:"):
        path = Path(how.removeprefix("killed:"))
        n = len(path.read_text()) if path.exists() else 0
        if n < 3:
            path.write_text("x" * (n + 1))
            os.kill(os.getpid(), signal.SIGKILL)
    return os.getpid()


def read_unless_poisonous(task: Task) -> dict[str, Any]:
    """As `read_task`; at 13, 14 or 15 slices the process breaks down."""
    from data_modules.intake.scans import read_task

    words = dict(zip((13, 14, 15), ("segfault", "hang", "bomb"), strict=True))
    if len(task.slices) in words:
        misbehave(words[len(task.slices)])
    return read_task(task)
