"""The one pool: order, bar, and a worker that is killed."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from data_modules.errors import UserError
from data_modules.processes import mapped


def square(number: int) -> tuple[int, int]:
    return number**2, os.getpid()


def wait_for(paths: tuple[Path | None, Path]) -> str:
    """Say its name when the file that it waits for is there."""
    awaited, own = paths
    end = time.monotonic() + 60
    while awaited is not None and not awaited.exists():
        assert time.monotonic() < end
        time.sleep(0.01)
    own.touch()
    return own.name


def killed(number: int) -> int:
    if number == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def fails(number: int) -> int:
    if number == 1:
        raise ValueError("item 1 is bad")
    return number


@pytest.mark.parametrize(("workers", "items"), [(1, [3, 1, 2]), (0, [3]), (4, [3]), (4, [])])
def test_one_worker_or_one_item_is_this_process(workers: int, items: list[int]) -> None:
    results = list(mapped(square, items, workers, "squares", "number"))
    assert results == [(n, (n**2, os.getpid())) for n in items]


def test_items_wait_for_whoever_asks_in_this_process() -> None:
    seen: list[int] = []
    results = mapped(lambda n: seen.append(n), [1, 2], 1, "seeing", "number")
    next(results)
    assert seen == [1]


def test_in_order_though_the_first_finishes_last(tmp_path: Path) -> None:
    items = [(tmp_path / "b", tmp_path / "a"), (None, tmp_path / "b")]
    results = list(mapped(wait_for, items, 2, "waiting", "file"))
    assert results == [(items[0], "a"), (items[1], "b")]


def test_as_they_finish(tmp_path: Path) -> None:
    items = [(tmp_path / "b", tmp_path / "a"), (None, tmp_path / "b")]
    results = list(mapped(wait_for, items, 2, "waiting", "file", in_order=False))
    assert [name for _, name in results] == ["b", "a"]
    assert [item for item, _ in results] == [items[1], items[0]]


def test_workers_are_other_processes() -> None:
    results = dict(mapped(square, [1, 2, 3, 4], 2, "squares", "number"))
    assert {n: s for n, (s, _) in results.items()} == {1: 1, 2: 4, 3: 9, 4: 16}
    pids = {pid for _, pid in results.values()}
    assert os.getpid() not in pids
    assert len(pids) <= 2


@pytest.mark.parametrize("in_order", [True, False])
def test_a_killed_worker_is_told_with_the_setting(in_order: bool) -> None:
    with pytest.raises(
        UserError, match=r"a worker process was killed.*set data\.prepare_workers below 2 and run again"
    ):
        list(mapped(killed, [0, 1, 2, 3], 2, "work", "item", in_order=in_order, setting="data.prepare_workers"))


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_is_passed_on(workers: int) -> None:
    with pytest.raises(ValueError, match="item 1 is bad"):
        list(mapped(fails, [0, 1, 2], workers, "work", "item"))


def test_the_bar_counts_what_was_done_before(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    list(mapped(square, [1, 2], 1, "squares", "number", n_done=3))
    assert "squares: 100%" in (shown := capsys.readouterr().err)
    assert "5/5" in shown
