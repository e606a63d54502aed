"""Work on separate items by several processes: each item by one of them, and all of them stop where one fails.

Lightning starts the processes and joins them (`launch`, or a training in progress); torchrun may. With one process
everything here is the plain loop.

Every exchange carries whether its sender has failed. A process that fails answers the next exchange of the others,
whichever it is, with its error, so that nobody waits for somebody who has gone.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch.distributed as dist
from tqdm import tqdm

from data_modules.errors import UserError
from data_modules.processes import Helpers, cores
from iac_lightning.cluster import ranks

T = TypeVar("T")
R = TypeVar("R")

TIMEOUT = timedelta(days=2)
"""Longest wait for another process; one that dies is noticed at once, by its closed connection."""


SERIES_A_HELPER = 8
"""Fewest series for which a helper is started: below, the second that it takes to start is more than it saves."""


class ElsewhereError(RuntimeError):
    """Another process has failed, with an error that is not the user's to mend."""


def launch(accelerator: str, devices: int | None = None) -> None:
    """Go on as one of several processes, which run the same command.

    Under torchrun they are there already. Otherwise Lightning starts `devices` − 1 more. Results are exchanged on the
    CPU (gloo) whatever the accelerator.

    Args:
        accelerator: where networks compute, as in `trainer.accelerator`.
        devices: processes on this machine; None: those of torchrun, else one.

    Raises:
        UserError: when torchrun has started another number, or another launcher more than one.
    """
    local, nodes = 1, 1
    if "TORCHELASTIC_RUN_ID" in os.environ:
        local = int(os.environ["LOCAL_WORLD_SIZE"])
        nodes = int(os.environ["WORLD_SIZE"]) // local
        if devices not in (None, local):
            raise UserError(f"--devices {devices}: torchrun has started {local} processes; leave the option out.")
    count = devices or local
    if count < 1:
        raise UserError(f"--devices {count}: expected 1 or more")
    if count * nodes == 1:
        if any(os.environ.get(name, "0") != "0" for name in ranks.RANKS):
            raise UserError(
                f"{ranks.described()} in the environment say that this process is one of several, and one measures: "
                "unset these variables, or let --devices or torchrun start the others."
            )
        return
    from lightning.fabric import Fabric
    from lightning.fabric.strategies import DDPStrategy

    logging.getLogger("lightning.fabric").setLevel(logging.WARNING)
    strategy = DDPStrategy(process_group_backend="gloo", timeout=TIMEOUT)
    Fabric(accelerator=accelerator, devices=count, num_nodes=nodes, strategy=strategy).launch()


def process() -> tuple[int, int]:
    """This process's number and the number of processes."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


@contextmanager
def together() -> Iterator[None]:
    """Around everything that exchanges, not nested: an error of one process ends all of them, each with that error.

    Raises:
        UserError: another process's, too.
        ElsewhereError: for any other error of another process.
    """  # noqa: DOC501 - an announced error is a UserError
    if process()[1] == 1:
        yield
        return
    try:
        yield
        exchange(None)  # nobody leaves before all have come through
    except (_AnnouncedUserError, ElsewhereError):
        raise
    except Exception as error:
        _answer(error)
        raise


def exchange(value: T) -> list[T]:
    """The values of all processes, in their order; each calls it alike, inside `together`."""
    if process()[1] == 1:
        return [value]
    answers = _gather((None, value))
    for rank, (problem, _) in enumerate(answers):
        if problem is not None:
            is_users, text = problem
            raise _AnnouncedUserError(text) if is_users else ElsewhereError(f"process {rank} failed: {text}")
    return [value for _, value in answers]


def on_first(action: Callable[[], T]) -> T:
    """What the first process gets from `action`, in all processes; the others wait."""
    result = action() if process()[0] == 0 else None
    return exchange(result)[0]  # type: ignore[return-value]


def share_out(action: Callable[[Sequence[T]], Iterable[R]], items: Sequence[T], description: str = "") -> list[R]:
    """What `action` gives for each item, in their order; item k is process k's modulo their number, and no other's.

    Args:
        action: takes the items of one process, and gives a result for each, in their order.
        items: the same in all processes.
        description: before the bar.
    """
    rank, world = process()
    mine = items[rank::world]
    results = tqdm(action(mine), total=len(mine), desc=description, unit="scan", disable=True if rank else None)
    parts = exchange(list(results))
    return [parts[k % world][k // world] for k in range(len(items))]


def helpers_for(workers: int | None, n_series: int) -> Helpers:
    """Processes that measure series beside this one.

    Args:
        workers: `evaluation.workers`; None: one for each core that this process has of its machine, as far as the work
            pays for their start.
        n_series: that are to be measured.
    """
    # SLURM gives each process of a launch cores of its own; elsewhere those of a machine share them.
    sharing = 1 if os.environ.get("SLURM_CPUS_PER_TASK") else int(os.environ.get("LOCAL_WORLD_SIZE", process()[1]))
    return Helpers(workers or min(cores() // sharing, n_series // SERIES_A_HELPER), "evaluation.workers")


class _AnnouncedUserError(UserError):
    """Another process's; all know of it."""


def _answer(error: Exception) -> None:
    """Meet the others at their next exchange with an error."""
    _gather(((isinstance(error, UserError), str(error) or type(error).__name__), None))


def _gather(answer: Any) -> list[Any]:
    answers: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(answers, answer)
    return answers
