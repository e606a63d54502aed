"""Trains in forked children, which kill themselves at a given place: the libraries are imported once for all of them.

    python -m tests.integration.kill_driver PLACES.json SETTINGS…

`PLACES.json` maps the name of a run to a place, or to null for a run that is left alone. Each run is started, killed
(if there is a place), and started again; exit statuses go to standard output as JSON. A place is

- `replace:FILE:N:before` or `:after`: the N-th move of a file of this name into its place;
- `save:N`: half of the N-th checkpoint is written;
- `line:FILE:N`: half of the N-th line is appended;
- `call:MODULE:NAME:N:before` or `:after`: the N-th call of a function.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
import traceback
from pathlib import Path
from typing import Any, NoReturn

import mlflow.store.tracking.sqlalchemy_store  # noqa: F401 (imported here once, not in every child)
import torch

from iac_lightning.cli import main
from iac_lightning.workflows import train  # noqa: F401 (the same)
from tests.integration.settings import experiment


def kill() -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def arm(place: str) -> None:
    """Prepare this process to kill itself."""
    kind, *words = place.split(":")
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
        halve_checkpoint(int(words[0]))
    else:
        halve_line(words[0], int(words[1]))


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


def halve_checkpoint(number: int) -> None:
    original, seen = torch.save, [0]

    def save(data: Any, path: Path) -> None:
        original(data, path)
        seen[0] += 1
        if seen[0] == number:
            os.truncate(path, path.stat().st_size // 2)
            kill()

    torch.save = save


def halve_line(name: str, number: int) -> None:
    original, seen = Path.open, [0]

    def open_(path: Path, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        file = original(path, mode, *args, **kwargs)
        if path.name != name or mode != "a":
            return file
        seen[0] += 1
        if seen[0] == number:
            write = file.write
            file.write = lambda text: (write(text[: len(text) // 2]), file.flush(), kill())
        return file

    Path.open = open_  # type: ignore[method-assign]


def child(words: list[str], place: str | None) -> int:
    """Wait status of one training."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            if place:
                arm(place)
            status = main(words)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def run(places: dict[str, str | None], settings: list[str]) -> dict[str, list[int]]:
    found = {}
    for name, place in places.items():
        words = ["finetune", str(experiment("vit_scratch")), *settings, f"name={name}"]
        found[name] = [child(words, p) for p in ([place, None] if place else [None])]
    return found


if __name__ == "__main__":
    statuses = run(json.loads(Path(sys.argv[1]).read_text()), sys.argv[2:])
    Path(sys.argv[1]).with_suffix(".statuses").write_text(json.dumps(statuses))
