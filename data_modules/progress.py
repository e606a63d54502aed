"""How far long work has come: a bar on a terminal, a line a minute elsewhere, as in the log of a job."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")

EVERY_S = 60.0


def shown(items: Iterable[T], total: int, description: str, unit: str, every_s: float = EVERY_S) -> Iterator[T]:
    """The items as they come, with rate and time left on standard error.

    Args:
        items: what is counted.
        total: how many there will be.
        description: of the work.
        unit: of what is counted, in the singular.
        every_s: seconds between lines where there is no terminal.
    """
    if sys.stderr.isatty():
        yield from tqdm(items, total=total, desc=description, unit=unit)
        return
    begun = said = time.monotonic()
    for n, item in enumerate(items, start=1):
        yield item
        now = time.monotonic()
        if now - said >= every_s:
            said = now
            print(progress_line(n, total, now - begun, description, unit), file=sys.stderr, flush=True)


def progress_line(n: int, total: int, seconds: float, description: str, unit: str) -> str:
    """Such as "import: 120 of 1000 series, 34.2 a minute, 26 min left"."""
    rate = n / max(seconds, 1e-9)
    left = (total - n) / rate
    remaining = f"{left / 3600:.1f} h" if left > 5400 else f"{left / 60:.0f} min" if left > 90 else f"{left:.0f} s"
    return f"{description}: {n} of {total} {unit}, {60 * rate:.1f} a minute, {remaining} left"
