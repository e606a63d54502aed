"""Calls in a process of their own that may crash, hang or ask for too much memory: they cost that call alone.

A pool of `concurrent.futures` breaks as a whole where one process dies, and waits for ever where one hangs. Here each
worker is one child process, spoken to over its pipes; a call that ends it, or takes too long, is answered with what
happened, and the next call gets a new child. Children are plain programs (`subprocess`), because workers of
dask.distributed may not have children of `multiprocessing`.
"""

from __future__ import annotations

import os
import pickle
import resource
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, BinaryIO, Self, TypeVar

T = TypeVar("T")

RETURNED, RAISED, CRASHED, TIMED_OUT, NO_MEMORY = "returned", "raised", "crashed", "timed_out", "no_memory"
"""How a call can end."""

_LENGTH_BYTES = 8
_BEGUN = b"begun"
_START_S = 300.0
_GRACE_S = 5.0  # beyond the limit, after which a child ends itself whose parent is gone
_OWN_FAULT_TRIES = 2
_OUTSIDE_TRIES = 6
_FROM_OUTSIDE = {signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP}
"""Signals that another process sends: what ends by them is tried again more often."""


@dataclass(frozen=True)
class Limits:
    """What one call may use.

    Attributes:
        seconds: of wall-clock time.
        memory_gb: beyond what the process holds before the call; where the system can limit it (Linux).
    """

    seconds: float
    memory_gb: float


@dataclass(frozen=True)
class Outcome:
    """How a call ended.

    Attributes:
        how: one of the words above.
        value: what it returned; None where it did not.
        words: what happened, for people; of an exception its kind and text.
    """

    how: str
    value: Any = None
    words: str = ""


class Guarded:
    """One child process at a time, started when it is first needed; for one thread."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._child: subprocess.Popen[bytes] | None = None
        self._closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def call(self, function: Callable[[T], Any], argument: T) -> Outcome:
        """`function(argument)` in the child; both must be picklable, the function by its name.

        A call whose child dies is repeated: once where the child ended by itself, for the second time shows that the
        call is at fault, and several times where a signal from outside ended it.
        """
        message = pickle.dumps((function, argument, self._limits))
        n_own = n_outside = 0
        while True:
            outcome, from_outside = self._try(message)
            if outcome.how != CRASHED or self._closed:
                return outcome
            n_own, n_outside = n_own + (not from_outside), n_outside + from_outside
            if n_own >= _OWN_FAULT_TRIES or n_outside >= _OUTSIDE_TRIES:
                return outcome

    def close(self) -> None:
        """End the child, whatever it does, and start none again; may be called from another thread."""
        self._closed = True
        if self._child is not None:
            self._child.kill()

    def _try(self, message: bytes) -> tuple[Outcome, bool]:
        child = self._child
        if child is None or child.poll() is not None:
            self._end()
            child = self._child = subprocess.Popen(
                [sys.executable, "-m", "data_modules.guarded"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,  # libraries warn there, with values of headers
                env=_environment(),
                start_new_session=True,  # Ctrl-C is the parent's affair
            )
        assert child.stdin is not None, "it is a pipe"
        assert child.stdout is not None, "it is a pipe"
        try:
            _send(child.stdin, message)
        except OSError:  # it has died since the last call
            return self._died(child)
        begun = _receive(child.stdout, time.monotonic() + _START_S)  # time for imports is no part of the call's
        answer = _receive(child.stdout, time.monotonic() + self._limits.seconds) if begun else begun
        if answer:
            return pickle.loads(answer), False
        if answer is not None:
            return self._died(child)
        self._end()
        return Outcome(TIMED_OUT, words=f"took more than {self._limits.seconds:g} s"), False

    def _died(self, child: subprocess.Popen[bytes]) -> tuple[Outcome, bool]:
        status = child.wait()
        self._end()
        if status == -signal.SIGALRM:
            return Outcome(TIMED_OUT, words=f"took more than {self._limits.seconds:g} s"), False
        how = f"signal {signal.Signals(-status).name}" if status < 0 else f"status {status}"
        return Outcome(CRASHED, words=f"the process that read it ended with {how}"), -status in _FROM_OUTSIDE

    def _end(self) -> None:
        child, self._child = self._child, None
        if child is not None:
            child.kill()
            child.wait()
            for pipe in (child.stdin, child.stdout):
                with suppress(OSError):  # what stood in its buffer reaches nobody
                    assert pipe is not None, "both are pipes"
                    pipe.close()


class GuardedPool:
    """Several guarded processes, each driven by a thread and started when it is first needed.

    Attributes:
        limits: of each call.
    """

    def __init__(self, workers: int, limits: Limits) -> None:
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="guard")
        self._workers = workers
        self.limits = limits
        self._own = threading.local()
        self._all: list[Guarded] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for guarded in list(self._all):
            guarded.close()
        self._threads.shutdown(cancel_futures=True)

    def results(self, function: Callable[[T], Any], items: Iterable[T]) -> Iterator[tuple[T, Outcome]]:
        """Each item with how its call ended, as they end; few items are in hand at any time."""
        waiting: dict[Future[Outcome], T] = {}
        for item in items:
            waiting[self._threads.submit(self._call, function, item)] = item
            if len(waiting) > 2 * self._workers:
                yield from _ended(waiting)
        while waiting:
            yield from _ended(waiting)

    def _call(self, function: Callable[[T], Any], item: T) -> Outcome:
        if not hasattr(self._own, "guarded"):
            self._own.guarded = Guarded(self.limits)
            self._all.append(self._own.guarded)
        outcome: Outcome = self._own.guarded.call(function, item)
        return outcome


def _ended(waiting: dict[Future[Outcome], T]) -> Iterator[tuple[T, Outcome]]:
    for future in wait(waiting, return_when=FIRST_COMPLETED).done:
        yield waiting.pop(future), future.result()


def _environment() -> dict[str, str]:
    """Of a child: it finds what its parent finds, and computes with one thread."""
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"), "1")
    return {**os.environ, **threads, "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)}


def _send(pipe: Any, message: bytes) -> None:
    pipe.write(len(message).to_bytes(_LENGTH_BYTES, "big") + message)
    pipe.flush()


def _receive(pipe: Any, until: float) -> bytes | None:
    """A message; empty where the other side is gone, None where none has come in time."""
    content = b""
    needed = _LENGTH_BYTES
    while len(content) < needed:
        if not select.select([pipe], [], [], max(0.0, until - time.monotonic()))[0]:
            return None
        chunk = os.read(pipe.fileno(), needed - len(content))
        if not chunk:
            return b""
        content += chunk
        if len(content) >= _LENGTH_BYTES:
            needed = _LENGTH_BYTES + int.from_bytes(content[:_LENGTH_BYTES], "big")
    return content[_LENGTH_BYTES:]


# --- in the child -------------------------------------------------------------------------------------------------


def _serve(calls: BinaryIO, answers: BinaryIO) -> None:
    """Answer calls until the parent closes its end."""
    while header := calls.read(_LENGTH_BYTES):
        function, argument, limits = pickle.loads(calls.read(int.from_bytes(header, "big")))
        _send(answers, _BEGUN)
        # What hangs in foreign code ends by the system's own alarm, also where the parent is gone.
        signal.setitimer(signal.ITIMER_REAL, limits.seconds + _GRACE_S)
        _limit_memory(limits.memory_gb)
        try:
            outcome = Outcome(RETURNED, function(argument))
        except Exception as error:
            how = NO_MEMORY if is_out_of_memory(error) else RAISED
            outcome = Outcome(how, words=f"{type(error).__name__}: {error}")
        signal.setitimer(signal.ITIMER_REAL, 0)
        _send(answers, pickle.dumps(outcome))


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether an error, or what led to it, is that memory could not be had."""
    while error is not None:
        if isinstance(error, MemoryError) or "bad alloc" in str(error).lower() or "bad_alloc" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


def _limit_memory(memory_gb: float) -> None:
    """No more address space than is held now and `memory_gb`; nothing where the system does not say what is held."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            held = int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    most = held + int(memory_gb * 2**30)
    resource.setrlimit(resource.RLIMIT_AS, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))


if __name__ == "__main__":
    from data_modules import guarded  # under its own name, by which the parent knows what it gets

    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints is no answer
    guarded._serve(sys.stdin.buffer, answers)
