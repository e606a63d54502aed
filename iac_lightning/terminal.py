"""Standard output and error that never end a command: whoever reads them may go away, run full, or know no `³`."""

from __future__ import annotations

import errno
import io
import os
import select
import sys
from contextlib import suppress
from typing import TextIO, cast


class LossyFile(io.FileIO):
    """A file descriptor whose failures are noted instead of raised; what could not be written is lost.

    Attributes:
        lost: the first failure.
    """

    lost: OSError | None = None

    def write(self, data: object) -> int:
        """All of it, as far as anybody can tell."""
        view = memoryview(data).cast("B")  # type: ignore[arg-type]
        if self.lost is None:
            try:
                while (done := super().write(view)) is None:  # a terminal that takes no more just now
                    select.select([], [self], [])
                return done
            except OSError as error:
                self.lost = error
        return len(view)


def make_robust() -> None:
    """Let `print`, warnings and progress bars go through `LossyFile`, with `?` for what a terminal has no sign for.

    Where a standard stream was closed (`>&-`), its number is given to the null device first: the next file that is
    opened would get it, and with it whatever a library prints.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            with suppress(OSError):
                os.open(os.devnull, os.O_RDWR)  # the lowest free number, which is this one
    for number, name in ((1, "stdout"), (2, "stderr")):
        stream = getattr(sys, name)
        if stream is None or (stream is getattr(sys, f"__{name}__") and lossy_file(stream) is None):
            setattr(sys, name, _robust(number, stream))
            setattr(sys, f"__{name}__", getattr(sys, name))


def lost_output() -> OSError | None:
    """Why something that was printed is lost; None as well where its reader has gone, who had enough (`| head -1`)."""
    sys.stdout.flush()
    file = lossy_file(sys.stdout)
    return file.lost if file is not None and file.lost is not None and file.lost.errno != errno.EPIPE else None


def lossy_file(stream: TextIO) -> LossyFile | None:
    """What lies below a stream that `make_robust` has made."""
    raw = getattr(getattr(stream, "buffer", None), "raw", None)
    return raw if isinstance(raw, LossyFile) else None


def _robust(number: int, before: TextIO | None) -> TextIO:
    if before is not None:
        with suppress(OSError, ValueError):
            before.flush()
    old = cast("io.TextIOWrapper | None", before)
    return io.TextIOWrapper(
        io.BufferedWriter(LossyFile(number, "wb", closefd=False)),
        encoding=old.encoding if old else "utf-8",
        errors="replace",
        line_buffering=number == 2 or (old is not None and (old.line_buffering or old.write_through)),
    )
