"""One function over many items in processes of their own, results in order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import TypeVar

from data_modules.errors import UserError

T = TypeVar("T")
R = TypeVar("R")


def mapped(function: Callable[[T], R], items: Sequence[T], workers: int) -> Iterator[R]:
    """Results in the order of the items, whatever the number of workers.

    Processes are fresh ones, so that nothing heavy is inherited; one worker is this process itself.

    Raises:
        UserError: when a process was killed.
    """
    if workers <= 1:
        yield from map(function, items)
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        try:
            yield from pool.map(function, items, chunksize=4)
        except BrokenProcessPool:
            raise UserError(
                f"a worker process was killed, probably for lack of memory; use fewer than {workers} (--workers)"
            ) from None
        finally:
            pool.shutdown(cancel_futures=True)
