"""Work in processes of their own: one function over many items, and helpers that wait for work."""

from __future__ import annotations

import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context, parent_process
from typing import Any, Self, TypeVar

from tqdm import tqdm

from data_modules.errors import UserError

T = TypeVar("T")
R = TypeVar("R")


def mapped(
    function: Callable[[T], R],
    items: Sequence[T],
    workers: int,
    description: str,
    unit: str,
    *,
    in_order: bool = True,
    n_done: int = 0,
    setting: str = "--workers",
) -> Iterator[tuple[T, R]]:
    """Each item with its result, under a progress bar.

    Processes are fresh ones: nothing heavy is inherited, and forking a process with threads (torch, ITK) can hang. One
    worker, or one item, is this process itself.

    Args:
        function: of a module, not of a function's body, for it travels to the processes; so do items and results.
        items: what it is called with.
        workers: most processes at once.
        description: before the bar.
        unit: of what the bar counts.
        in_order: results in the order of the items, whatever the number of workers; else as they finish.
        n_done: how many items the bar counts as finished before.
        setting: what gives the number of workers, for the message.

    Raises:
        UserError: when a process was killed.
    """
    workers = min(workers, len(items))
    here = ((item, function(item)) for item in items)
    results = _in_pool(function, items, workers, in_order, setting) if workers > 1 else here
    n_all = n_done + len(items)
    yield from tqdm(results, total=n_all, initial=n_done, desc=description, unit=unit, disable=None)


class Helpers:
    """Processes beside this one that take over calls, started once, when the first is handed on.

    Ctrl-C, and the signal by which SLURM asks a job to leave, are this process's affair: the helpers do not hear them,
    and end with what they have in hand. A call that needs no helper (`count` 1 or less) is done here and at once.

    Args:
        count: processes; 1 or less: none.
        setting: what gives their number, for the message.
    """

    def __init__(self, count: int, setting: str) -> None:
        self.count = count
        self._setting = setting
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def submit(self, function: Callable[..., R], *arguments: Any) -> Future[R]:
        """Hand a call on; function, arguments and result travel between processes.

        Raises:
            UserError: when a helper was killed.
        """  # noqa: DOC501 - `_killed` makes a UserError
        if self.count <= 1:
            done: Future[R] = Future()
            done.set_result(function(*arguments))  # an error is the caller's at once
            return done
        if self._pool is None:
            self._pool = ProcessPoolExecutor(self.count, get_context("spawn"), _begin_helper)
        # A process that is being started dies of a signal that it cannot ignore yet; it inherits what is held back.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _UNHEARD)
        try:
            return self._pool.submit(function, *arguments)
        except BrokenProcessPool:
            raise _killed(self._setting, self.count) from None
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def result(self, call: Future[R]) -> R:
        """What a call gave.

        Raises:
            UserError: when a helper was killed.
        """  # noqa: DOC501 - `_killed` makes a UserError
        try:
            return call.result()
        except BrokenProcessPool:
            raise _killed(self._setting, self.count) from None

    def results(self, function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
        """`function(item)` of each item, in their order; few items are in hand at any time, however many there are.

        Raises:
            UserError: when a helper was killed.
        """
        waiting: deque[Future[R]] = deque()
        for item in items:
            waiting.append(self.submit(function, item))
            if len(waiting) > (2 * self.count if self.count > 1 else 0):
                yield self.result(waiting.popleft())
        while waiting:
            yield self.result(waiting.popleft())

    def close(self) -> None:
        """End the helpers; what nobody has begun is not done."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None


_UNHEARD = (signal.SIGINT, signal.SIGUSR1)


def _begin_helper() -> None:
    for number in _UNHEARD:
        signal.signal(number, signal.SIG_IGN)
    os.environ["OMP_NUM_THREADS"] = "1"  # before numpy is there; the helpers are what works in parallel
    _end_with_parent()


def cores() -> int:
    """Processor cores that this process may use: those it is bound to, and no more than SLURM gives a task."""
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    given = os.environ.get("SLURM_CPUS_PER_TASK", "")
    return min(bound, int(given)) if given.isdecimal() and int(given) else bound


def _killed(setting: str, workers: int) -> UserError:
    return UserError(
        "a worker process was killed; if it shows no error above, memory ran out: set "
        f"{setting} below {workers} and run again"
    )


def _end_with_parent() -> None:
    """End a worker whose parent was killed: it would wait for its next item for ever."""

    def watch() -> None:
        parent = parent_process()
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _in_pool(
    function: Callable[[T], R], items: Sequence[T], workers: int, in_order: bool, setting: str
) -> Iterator[tuple[T, R]]:
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_end_with_parent) as pool:
        try:
            if in_order:
                waiting = deque((item, pool.submit(function, item)) for item in items)
                while waiting:  # what was handed on is not kept
                    item, future = waiting.popleft()
                    yield item, future.result()
            else:
                item_of = {pool.submit(function, item): item for item in items}
                for future in as_completed(item_of):
                    yield item_of.pop(future), future.result()
        except BrokenProcessPool:
            raise _killed(setting, workers) from None
        finally:
            pool.shutdown(cancel_futures=True)
