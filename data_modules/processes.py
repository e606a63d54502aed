"""One function over many items in processes of their own."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context, parent_process
from typing import TypeVar

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
            raise UserError(
                "a worker process was killed; if it shows no error above, memory ran out: set "
                f"{setting} below {workers} and run again"
            ) from None
        finally:
            pool.shutdown(cancel_futures=True)
