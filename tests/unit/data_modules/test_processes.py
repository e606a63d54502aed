"""The one pool: order, bar, and a worker that is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from data_modules.errors import UserError
from data_modules.processes import Helpers, cores, mapped


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
    """The first item waits for what is done once the second has come back."""
    items = [(tmp_path / "shown", tmp_path / "a"), (None, tmp_path / "b")]
    results = mapped(wait_for, items, 2, "waiting", "file", in_order=False)
    assert next(results) == (items[1], "b")
    (tmp_path / "shown").touch()
    assert list(results) == [(items[0], "a")]


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


@pytest.mark.parametrize("count", [0, 1])
def test_without_helpers_everything_is_done_here(count: int) -> None:
    with Helpers(count, "evaluation.workers") as helpers:
        assert helpers.submit(square, 3).result() == (9, os.getpid())
        given: list[int] = []
        results = helpers.results(square, (given.append(n) or n for n in (1, 2)))
        assert next(results) == (1, os.getpid())
        assert given == [1]
        assert list(results) == [(4, os.getpid())]
        with pytest.raises(ValueError, match="item 1 is bad"):
            helpers.submit(fails, 1)


def test_helpers_stay_and_take_few_items_at_a_time() -> None:
    with Helpers(2, "evaluation.workers") as helpers:
        first = list(helpers.results(square, range(3)))
        given: list[int] = []
        results = helpers.results(square, (given.append(n) or n for n in range(40)))
        assert next(results)[0] == 0
        assert len(given) == 5
        rest = list(results)
        assert [value for value, _ in rest] == [n**2 for n in range(1, 40)]
        pids = {pid for _, pid in (*first, *rest)}
        assert os.getpid() not in pids
        assert len(pids) <= 2
        with pytest.raises(ValueError, match="item 1 is bad"):
            list(helpers.results(fails, [0, 1, 2]))
        for number in pids:  # Ctrl-C in a terminal and SLURM's signal reach every process of the group
            os.kill(number, signal.SIGINT)
            os.kill(number, signal.SIGUSR1)
        assert [value for value, _ in helpers.results(square, [7, 8])] == [49, 64]
        with pytest.raises(UserError, match=r"killed.*set evaluation\.workers below 2 and run again"):
            list(helpers.results(killed, [0, 1, 2]))
    assert not any(is_running(number) for number in pids)


def test_cores_are_those_that_slurm_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(6)), raising=False)
    monkeypatch.delenv("SLURM_CPUS_PER_TASK", raising=False)
    assert cores() == 6
    for given, expected in (("4", 4), ("64", 6), ("", 6)):
        monkeypatch.setenv("SLURM_CPUS_PER_TASK", given)
        assert cores() == expected


ORPHANS = """
import os, signal, sys, time
from pathlib import Path
from data_modules.processes import mapped
from tests.unit.data_modules.test_processes import noted

if __name__ == "__main__":
    for _ in mapped(noted, [Path(sys.argv[1]) / name for name in "ab"], 2, "", ""):
        pass
"""


def noted(path: Path) -> None:
    """Leave the number of this process, and work for long."""
    path.write_text(str(os.getpid()))
    time.sleep(120)


def test_workers_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(ORPHANS)
    (tmp_path / "out").mkdir()
    root = Path(__file__).parent.parent.parent.parent
    parent = subprocess.Popen(
        [sys.executable, tmp_path / "program.py", tmp_path / "out"], env={**os.environ, "PYTHONPATH": str(root)}
    )
    end = time.monotonic() + 60
    while len([p for p in (tmp_path / "out").iterdir() if p.read_text()]) < 2:
        assert time.monotonic() < end
        time.sleep(0.05)
    parent.kill()
    parent.wait()
    numbers = [int(path.read_text()) for path in (tmp_path / "out").iterdir()]
    while any(is_running(number) for number in numbers):
        assert time.monotonic() < end, "a worker outlives its parent"
        time.sleep(0.05)


def is_running(number: int) -> bool:
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
