"""Tasks done by guarded processes of this machine, or by the workers of a dask scheduler."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

from data_modules.errors import UserError
from data_modules.guarded import CRASHED, NO_MEMORY, RETURNED, TIMED_OUT, Guarded, GuardedPool, Limits, Outcome
from data_modules.intake import codes
from data_modules.intake.tasks import Task

_CODES = {CRASHED: codes.CRASHED, TIMED_OUT: codes.TIMED_OUT, NO_MEMORY: codes.TOO_LARGE}
_AHEAD = 4
"""Tasks that a scheduler holds for each thread of its workers."""
_ANSWER_S = 30
_own = threading.local()


def read_series(task: Task) -> dict[str, Any]:
    """Read and write one series; called in a process of its own, which alone loads what reading needs.

    Returns:
        Plain types: `code`, `found`, `warnings` and, where the series is accepted, `facts` (cells of the inventory),
        `digest` of its image, and `roi_center_lps_mm` where a template was given. Nothing in it names a file.
    """
    from data_modules.intake.scans import read_task

    return read_task(task)


def results(tasks: Iterable[Task], pool: GuardedPool, scheduler: str = "") -> Iterator[tuple[Task, dict[str, Any]]]:
    """Each task with its result (`read_series`), as they end; one that broke down has its code.

    Args:
        tasks: to do.
        pool: processes of this machine, and the limits of a task.
        scheduler: address of a dask scheduler, whose workers do the tasks instead; empty: this machine.
    """
    outcomes = _by_dask(tasks, pool.limits, scheduler) if scheduler else pool.results(read_series, tasks)
    for task, outcome in outcomes:
        yield task, result_of(outcome)


def result_of(outcome: Outcome) -> dict[str, Any]:
    """The result of a task, whatever became of it."""
    if outcome.how == RETURNED:
        found: dict[str, Any] = outcome.value
        return found
    # The words of an exception may hold values of the header: its kind is told alone.
    words = outcome.words if outcome.how in (CRASHED, TIMED_OUT) else outcome.words.split(":")[0]
    return {"code": _CODES.get(outcome.how, codes.CRASHED), "found": words, "warnings": []}


def _by_dask(tasks: Iterable[Task], limits: Limits, scheduler: str) -> Iterator[tuple[Task, Outcome]]:
    """Tasks by the workers of a scheduler; each guards its tasks by a process of its own.

    Raises:
        UserError: where dask is not installed, or no scheduler answers.
    """
    try:
        from distributed import Client, as_completed
    except ImportError:
        raise UserError(
            "--scheduler needs dask.distributed, which is not installed: pip install 'iac-lightning[dask]', here and "
            "where the workers run"
        ) from None
    try:
        client = Client(scheduler, timeout=_ANSWER_S)
    except (OSError, ValueError, TimeoutError) as error:
        raise UserError(
            f"--scheduler {scheduler}: no dask scheduler answers there ({type(error).__name__}). Start one "
            "(dask scheduler; dask worker ADDRESS), or leave the option out."
        ) from error
    with client:
        waiting = iter(tasks)
        task_of: dict[str, Task] = {}

        def submit(task: Task) -> Any:
            future = client.submit(_on_worker, task, limits, key=f"iac-{task.series_id}-{id(task)}", pure=False)
            task_of[future.key] = task
            return future

        ahead = _AHEAD * max(1, sum(client.nthreads().values()))
        ended = as_completed([submit(task) for task in islice(waiting, ahead)])
        for future in ended:
            task = task_of.pop(future.key)
            problem = future.exception()
            outcome = future.result() if problem is None else Outcome(CRASHED, words=f"dask: {type(problem).__name__}")
            future.release()
            yield task, outcome
            following = next(waiting, None)
            if following is not None:
                ended.add(submit(following))


def _on_worker(task: Task, limits: Limits) -> Outcome:
    """On a worker of dask: the task in a guarded process, one for each thread."""
    if getattr(_own, "limits", None) != limits:
        _own.guarded, _own.limits = Guarded(limits), limits
    outcome: Outcome = _own.guarded.call(read_series, task)
    return outcome
