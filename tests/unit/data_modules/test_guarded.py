"""Calls that crash, hang or ask for too much memory, and those beside them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from data_modules.guarded import (
    CRASHED,
    NO_MEMORY,
    RAISED,
    RETURNED,
    TIMED_OUT,
    Guarded,
    GuardedPool,
    Limits,
    is_out_of_memory,
)
from tests.poison import double, misbehave


@pytest.fixture(scope="module")
def guarded() -> Iterator[Guarded]:
    with Guarded(Limits(20, 1.0)) as one:
        yield one


def test_a_result_comes_back_whatever_is_printed(guarded: Guarded) -> None:
    assert guarded.call(double, 21).value == 42


def test_one_process_serves_many_calls(guarded: Guarded) -> None:
    assert guarded.call(misbehave, "").value == guarded.call(misbehave, "").value


@pytest.mark.parametrize(
    ("how", "outcome", "words"),
    [
        ("exit", CRASHED, "status 3"),
        ("segfault", CRASHED, "SIGSEGV"),
        ("bomb", NO_MEMORY, "MemoryError"),
        ("error", RAISED, "LookupError"),
    ],
)
def test_what_becomes_of_poison(guarded: Guarded, how: str, outcome: str, words: str) -> None:
    found = guarded.call(misbehave, how)
    assert found.how == outcome
    assert words in found.words
    assert guarded.call(double, 2).value == 4


def test_a_call_that_hangs_is_ended() -> None:
    begun = time.monotonic()
    with Guarded(Limits(1.0, 1.0)) as guarded:
        assert guarded.call(misbehave, "hang").how == TIMED_OUT
        assert guarded.call(double, 2).value == 4
    assert time.monotonic() - begun < 15


def test_a_process_killed_from_outside_is_no_fault_of_the_call(guarded: Guarded, tmp_path: Path) -> None:
    assert guarded.call(misbehave, f"killed:{tmp_path / 'n'}").how == RETURNED
    assert (tmp_path / "n").read_text() == "xxx"


def test_a_pool_goes_on_beside_a_crash() -> None:
    with GuardedPool(2, Limits(20, 1.0)) as pool:
        found = dict(pool.results(misbehave, ["", "exit", "segfault", "a", "b"]))
    assert {how: outcome.how for how, outcome in found.items()} == {
        "": RETURNED,
        "exit": CRASHED,
        "segfault": CRASHED,
        "a": RETURNED,
        "b": RETURNED,
    }


def test_a_pool_that_is_left_ends_what_it_does() -> None:
    begun = time.monotonic()
    with GuardedPool(1, Limits(60, 1.0)) as pool:
        assert next(iter(pool.results(misbehave, ["", "hang", "hang", "hang"])))[0] == ""
    assert time.monotonic() - begun < 15


def test_lack_of_memory_is_seen_behind_other_errors() -> None:
    decoding = ValueError("cannot be decoded")
    decoding.__cause__ = MemoryError()
    assert is_out_of_memory(decoding)
    assert is_out_of_memory(RuntimeError("std::bad_alloc"))
    assert not is_out_of_memory(ValueError("cannot be decoded"))
