"""Inputs judged in processes of their own: one that hangs, dies or takes all memory is an answer; the rest go on."""

from __future__ import annotations

import contextlib
import multiprocessing
import resource
import shutil
import tempfile
import time
import traceback
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.fuzz.judging import Maker, Verdict, judge

LIMIT_S = 30.0
"""An input that takes longer hangs; none needs a tenth of it."""

_MEMORY = 6 * 2**30


@dataclass(frozen=True)
class Case:
    """An input by its name: kind, number, and the seed of the run."""

    kind: str
    number: int
    seed: int


@dataclass(frozen=True)
class Outcome:
    """What came of an input.

    Attributes:
        case: which.
        what: which damage.
        verdict: how it is judged.
        detail: a line for whoever looks into it.
        seconds: how long it took.
    """

    case: Case
    what: str
    verdict: Verdict
    detail: str
    seconds: float


Makers = dict[str, Sequence[Maker]]
"""Kind of input to its damages: input `n` has damage `n % len`."""


def maker_of(case: Case, makers: Makers) -> Maker:
    kind = makers[case.kind]
    return kind[case.number % len(kind)]


def run_case(case: Case, makers: Makers, keep: Path | None = None) -> Outcome:
    """Make and judge one input in this process."""
    maker = maker_of(case, makers)
    start = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix=f"{case.kind}-{case.number}-")) if keep is None else keep
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            kind = sum(case.kind.encode())
            try:
                verdict, detail = judge(maker(np.random.default_rng([case.seed, kind, case.number]), folder))
            except Exception as error:
                place = traceback.extract_tb(error.__traceback__)[-1]
                verdict, detail = Verdict.RAW, f"THE INSTRUMENT ITSELF FAILED: {error!r} ({place.name}:{place.lineno})"
        detail = detail.replace(str(folder), "…")
    finally:
        if keep is None:
            shutil.rmtree(folder, ignore_errors=True)
    return Outcome(case, maker.__name__, verdict, detail, time.monotonic() - start)


def _serve(pipe: Connection, makers: Makers) -> None:
    """What a worker does: judge what it is sent, until there is no more."""
    torch.set_num_threads(1)  # a pool of threads does not survive a fork: whoever waits for it waits for ever
    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + _MEMORY, resource.RLIM_INFINITY))
    with contextlib.suppress(EOFError):
        while True:
            pipe.send(run_case(pipe.recv(), makers))


class _Worker:
    """A process and what it works on."""

    def __init__(self, makers: Makers) -> None:
        context: Any = multiprocessing.get_context("fork")  # the libraries are imported once
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, makers), daemon=True)
        self.process.start()
        theirs.close()
        self.case: Case | None = None
        self.since = 0.0

    def give(self, case: Case) -> None:
        self.case, self.since = case, time.monotonic()
        self.pipe.send(case)

    def end(self) -> None:
        self.process.kill()  # which may be dead
        self.process.join()
        self.pipe.close()


def judged(
    cases: Sequence[Case],
    makers: Makers,
    workers: int = 2,
    limit_s: float = LIMIT_S,
) -> Iterator[Outcome]:
    """Outcomes as they come."""
    todo = list(reversed(cases))
    team = [_Worker(makers) for _ in range(min(workers, len(todo)))]
    try:
        while todo or any(w.case for w in team):
            for worker in team:
                if worker.case is None and todo:
                    worker.give(todo.pop())
            ready = wait([w.pipe for w in team if w.case], timeout=0.2)
            for k, worker in enumerate(team):
                case, spent = worker.case, time.monotonic() - worker.since
                if case is None:
                    continue
                if worker.pipe in ready:
                    try:
                        outcome = worker.pipe.recv()
                    except EOFError:
                        worker.process.join()
                        detail = f"the process died (exit status {worker.process.exitcode})"
                        outcome = Outcome(case, maker_of(case, makers).__name__, Verdict.RAW, detail, spent)
                elif spent > limit_s:
                    detail = f"not done after {spent:.0f} s"
                    outcome = Outcome(case, maker_of(case, makers).__name__, Verdict.HANG, detail, spent)
                    worker.end()
                else:
                    continue
                worker.case = None
                yield outcome
                if not worker.process.is_alive():
                    worker.end()
                    team[k] = _Worker(makers)
    finally:
        for worker in team:
            worker.end()
