"""Trains in forked children, which kill themselves at a given place: the libraries are imported once for all of them.

    python -m tests.integration.kill_driver PLACES.json SETTINGS…

`PLACES.json` maps the name of a run to a place, or to null for a run that is left alone. Each run is started, killed
(if there is a place), and started again; exit statuses go to standard output as JSON. A place is

- `replace:FILE:N:before` or `:after`: the N-th move of a file of this name into its place;
- `save:N`: half of the N-th checkpoint is written;
- `line:FILE:N`: half of the N-th line is appended;
- `call:MODULE:NAME:N:before` or `:after`: the N-th call of a function.

Instead of killing, `fill:` before a place fills the file system of the runs, and `limit:BYTES` limits the size of any
file; what fills it is removed before the second start. Standard error of each start goes to `NAME.K.err` beside
`PLACES.json`.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import signal
import sys
import traceback
from pathlib import Path
from typing import Any

import mlflow.store.tracking.sqlalchemy_store  # noqa: F401 (imported here once, not in every child)
import torch

from iac_lightning.cli import main
from iac_lightning.workflows import train  # noqa: F401 (the same)
from tests.integration.settings import experiment


def kill() -> None:
    """What happens at the place."""
    os.kill(os.getpid(), signal.SIGKILL)


def fill(ballast: Path) -> None:
    """Leave no room for another byte."""
    with ballast.open("wb", buffering=0) as file:
        for size in (2**20, 2**12, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                continue


def arm(place: str, ballast: Path) -> None:
    """Prepare this process to kill itself, or to fill its disk."""
    global kill
    kind, *words = place.split(":")
    if kind == "limit":
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(words[0]), resource.RLIM_INFINITY))
        return
    deadly = kind != "fill"
    if not deadly:
        kill = lambda: fill(ballast)  # noqa: E731
        kind, *words = words
    if kind == "replace":
        name, number, when = words
        wrap(os, "replace", int(number), when, lambda _, target: Path(target).name.endswith(name))
    elif kind == "call":
        module, name, number, when = words
        *path, last = name.split(".")
        owner: Any = importlib.import_module(module)
        for part in path:
            owner = getattr(owner, part)
        wrap(owner, last, int(number), when, lambda *_, **__: True)
    elif kind == "save":
        halve_checkpoint(int(words[0]), deadly)
    else:
        halve_line(words[0], int(words[1]), deadly)


def wrap(owner: Any, name: str, number: int, when: str, counts: Any) -> None:
    original, seen = getattr(owner, name), [0]

    def wrapper(*args: Any, **kwargs: Any) -> Any:
        seen[0] += counts(*args, **kwargs)
        here = counts(*args, **kwargs) and seen[0] == number
        if here and when == "before":
            kill()
        result = original(*args, **kwargs)
        if here:
            kill()
        return result

    setattr(owner, name, wrapper)


def halve_checkpoint(number: int, deadly: bool) -> None:
    original, seen = torch.save, [0]

    def save(data: Any, path: Path) -> None:
        seen[0] += 1
        if seen[0] == number and not deadly:
            kill()
        original(data, path)
        if seen[0] == number and deadly:
            os.truncate(path, path.stat().st_size // 2)
            kill()

    torch.save = save


def halve_line(name: str, number: int, deadly: bool) -> None:
    original, seen = Path.open, [0]

    def open_(path: Path, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        file = original(path, mode, *args, **kwargs)
        if path.name != name or mode != "a":
            return file
        seen[0] += 1
        if seen[0] == number:
            write = file.write

            def half(text: str) -> int:
                if not deadly:
                    kill()
                    return int(write(text))
                write(text[: len(text) // 2])
                file.flush()
                kill()
                raise AssertionError

            file.write = half
        return file

    Path.open = open_  # type: ignore[method-assign]


def child(words: list[str], place: str | None, ballast: Path, errors: Path) -> int:
    """Wait status of one training."""
    ballast.unlink(missing_ok=True)
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.dup2(os.open(errors, os.O_WRONLY | os.O_CREAT), 2)
            if place:
                arm(place, ballast)
            status = main(words)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def run(places: dict[str, str | None], folder: Path, settings: list[str]) -> dict[str, list[int]]:
    """Exit statuses of the starts of each run."""
    found = {}
    ballast = next(Path(s.removeprefix("runs_dir=")) for s in settings if s.startswith("runs_dir=")) / "ballast"
    for name, place in places.items():
        words = ["finetune", str(experiment("vit_scratch")), *settings, f"name={name}"]
        starts = enumerate([place, None] if place else [None])
        found[name] = [child(words, p, ballast, folder / f"{name}.{k}.err") for k, p in starts]
    return found


if __name__ == "__main__":
    listed = Path(sys.argv[1])
    statuses = run(json.loads(listed.read_text()), listed.parent, sys.argv[2:])
    listed.with_suffix(".statuses").write_text(json.dumps(statuses))
