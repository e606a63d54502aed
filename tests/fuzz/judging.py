"""What an input may lead to, and how it is judged.

Each input knows the truth: what it holds apart from its damage. It is right to refuse it with a `UserError`, to read
it to the same values at the same places, or, where it differs, to say so in a warning. It is wrong to do anything else.
"""

from __future__ import annotations

import contextlib
import io
import logging
import re
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np

from data_modules.errors import UserError


class Verdict(StrEnum):
    """Columns of the table."""

    NAMED = "named error"
    WARNED = "warned"
    RIGHT = "right"
    RAW = "raw"
    HANG = "hang"
    SILENT = "silently wrong"
    REFUSED = "refused wrongly"


BAD = (Verdict.RAW, Verdict.HANG, Verdict.SILENT, Verdict.REFUSED)


class Wanted(StrEnum):
    """What is right for an input."""

    REFUSAL = "refusal"
    """Nothing but a named error: no warning makes up for it."""
    VALUES = "values"
    """The true values: the input is ordinary, or damaged where it does not matter. A warning does no harm."""
    HONESTY = "honesty"
    """A named error, the true values, or others with a warning."""


@dataclass(frozen=True)
class Trial:
    """One input, ready to be read.

    Attributes:
        read: the product's own reading of it.
        differs: in what the result differs from the truth; empty where it does not.
        wanted: what is right.
        warnings: what the result says beside its values; what is printed or logged counts too.
        usual: warnings of an undamaged input, which say nothing about the damage.
        names: pattern of a warning that would be about the damage.
    """

    read: Callable[[], Any]
    differs: Callable[[Any], str]
    wanted: Wanted = Wanted.HONESTY
    warnings: Callable[[Any], Sequence[str]] = lambda result: result.warnings
    usual: tuple[str, ...] = ()
    names: str = ""


Maker = Callable[[np.random.Generator, Path], Trial]
"""Makes an input in an empty folder."""

_LONGEST_MESSAGE = 8000


def spoken(main: Callable[[list[str]], int], words: list[str]) -> str:
    """What a command prints.

    Raises:
        UserError: with what it says, where it ends with status 2.
        AssertionError: where it ends with another status than 0.
    """
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        status = main(words)
    if status == 2:
        raise UserError(said.getvalue())
    assert status == 0, f"status {status}: {said.getvalue()[-300:]}"
    return said.getvalue()


def judge(trial: Trial) -> tuple[Verdict, str]:
    """Read an input and judge what came of it; the second value is a line for whoever looks into it."""
    said = io.StringIO()
    handler = logging.StreamHandler(said)
    handler.setLevel(logging.WARNING)
    logging.getLogger().addHandler(handler)
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            result = trial.read()
    except (UserError, SystemExit) as error:
        return _judge_refusal(error, trial.wanted)
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        words = (str(error).splitlines() or [""])[0][:200]
        return Verdict.RAW, f"{type(error).__name__}: {words} ({Path(place.filename).name}:{place.lineno})"
    finally:
        logging.getLogger().removeHandler(handler)
    difference = trial.differs(result)
    if trial.wanted is Wanted.REFUSAL:
        return Verdict.SILENT, f"accepted though it must be refused; {difference or 'the values are as they were'}"
    if not difference:
        return Verdict.RIGHT, ""
    told = [*trial.warnings(result), *said.getvalue().splitlines()]
    about = [w for w in told if w not in trial.usual and re.search(trial.names, w, re.IGNORECASE)]
    if about and trial.wanted is Wanted.HONESTY:
        return Verdict.WARNED, about[0]
    return Verdict.SILENT, difference


def _judge_refusal(error: BaseException, wanted: Wanted) -> tuple[Verdict, str]:
    if isinstance(error, SystemExit):
        if error.code != 2:
            return Verdict.RAW, f"SystemExit with status {error.code}, expected 2"
        return (Verdict.REFUSED if wanted is Wanted.VALUES else Verdict.NAMED), "usage"
    text = str(error)
    if not text.strip() or "Traceback (most" in text or len(text) > _LONGEST_MESSAGE:
        return Verdict.RAW, f"a message that nobody can use ({len(text)} characters)"
    first = text.splitlines()[0][:300]
    return (Verdict.REFUSED if wanted is Wanted.VALUES else Verdict.NAMED), first
