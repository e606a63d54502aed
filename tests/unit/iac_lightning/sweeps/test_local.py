"""Cells that stand in for trainings: small programs that keep the rules of `iac cell`, so that a run takes a second."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock

from iac_lightning.cluster import slurm
from iac_lightning.sweeps import local
from iac_lightning.sweeps.cells import Cell
from iac_lightning.sweeps.sharing import Room
from iac_lightning.sweeps.state import Sweep, states, status_table
from tests.integration.settings import REPOSITORY
from tests.unit.iac_lightning.sweeps.conftest import planned

PROGRAM = """
import os, signal, sys, time
from pathlib import Path
from iac_lightning.sweeps.state import open_sweep
from iac_lightning.sweeps.local import end_with_parent

end_with_parent()
sweep = open_sweep(Path(sys.argv[1]))
cell = sweep.cell(sys.argv[2])
with sweep.lock(cell).acquire(timeout=5):
    with (sweep.directory / "events.txt").open("a") as file:
        file.write(f"begin {cell.name}\\n")
    what = cell.overrides[0]
    signal.signal(signal.SIGUSR1, lambda *_: sys.exit(75))
    with (sweep.directory / "events.txt").open("a") as file:
        file.write(f"{cell.name} on {os.environ.get('CUDA_VISIBLE_DEVICES')}\\n" if what == "gpu" else "")
    what = "0.5" if what == "gpu" else what
    try:
        if what == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if what == "fails":
            sweep.note(cell, "failed", reason="it had to", seconds=2.0)
            sys.exit(2)
        time.sleep(float(what))
    except KeyboardInterrupt:
        with (sweep.directory / "events.txt").open("a") as file:
            file.write(f"stopped {cell.name}\\n")
        sys.exit(130)
    sweep.note(cell, "finished", seconds=1.0)
    with (sweep.directory / "events.txt").open("a") as file:
        file.write(f"end {cell.name}\\n")
"""


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_sweep: Callable[..., Sweep]) -> Callable[..., Sweep]:
    program = tmp_path / "cell.py"
    program.write_text(PROGRAM)
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    monkeypatch.setattr(Cell, "config", None)  # its file is not there
    monkeypatch.setattr(Room, "settings_of", lambda room, config: ())
    monkeypatch.setattr(
        local,
        "command",
        lambda sweep, cell, extra: [sys.executable, str(program), str(sweep.directory), cell.name],
    )
    return make_sweep


def events(sweep: Sweep) -> list[str]:
    path = sweep.directory / "events.txt"
    return path.read_text().splitlines() if path.exists() else []


def test_order_limits_and_skips(make: Callable[..., Sweep]) -> None:
    sweep = make(planned("pretrain_a"), planned("b", needs=("pretrain_a",)), planned("c"), planned("d"))
    local.run_here(sweep, Room(2))
    assert set(states(sweep).values()) == {"finished"}
    log = events(sweep)
    assert log.index("end pretrain_a") < log.index("begin b")
    open_now = 0
    for line in log:
        open_now += 1 if line.startswith("begin") else -1
        assert open_now <= 2
    local.run_here(sweep, Room(2))
    assert events(sweep) == log, "finished cells ran again"


def test_a_failure_stops_only_what_needs_it(make: Callable[..., Sweep]) -> None:
    sweep = make(
        planned("pretrain_a", "fails"), planned("b", needs=("pretrain_a",)), planned("c", "killed"), planned("d")
    )
    local.run_here(sweep, Room(1))
    assert states(sweep) == {"pretrain_a": "failed", "b": "blocked", "c": "failed", "d": "finished"}
    table = status_table(sweep)
    assert "it had to" in table
    assert "killed by signal 9 (out of memory?); see logs/c.log" in table
    assert "4 cells: 1 finished, 2 failed, 1 blocked" in table
    for cell in sweep.cells:  # as --retry does
        if sweep.record(cell).get("state") == "failed":
            sweep.forget(cell)
    assert states(sweep)["pretrain_a"] == "pending"
    assert states(sweep)["b"] == "waiting"


def driver(sweep: Sweep, tmp_path: Path) -> subprocess.Popen[bytes]:
    """`run_here` in a process of its own, to be stopped."""
    program = str(tmp_path / "cell.py")
    text = f"""
import sys
from pathlib import Path
from iac_lightning.sweeps import local
from iac_lightning.sweeps.state import open_sweep
local.command = lambda sweep, cell, extra: [sys.executable, {program!r}, str(sweep.directory), cell.name]
local.Cell.config, local.Room.settings_of = None, lambda room, config: ()  # there is no file of settings
local.run_here(open_sweep(Path({str(sweep.directory)!r})), local.Room(2))
"""
    return subprocess.Popen([sys.executable, "-c", text], env={**os.environ, "PYTHONPATH": str(REPOSITORY)})


def wait_for(condition: Callable[[], bool], seconds: float = 40) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_stopped_and_killed_sweeps_leave_no_cell_behind(
    number: signal.Signals, make: Callable[..., Sweep], tmp_path: Path
) -> None:
    sweep = make(planned("quick"), planned("slow", "30"), planned("late", "30"))
    process = driver(sweep, tmp_path)
    wait_for(lambda: {"begin slow", "begin late"} <= set(events(sweep)))
    process.send_signal(number)
    process.wait(timeout=60)
    wait_for(lambda: "running" not in states(sweep).values())
    assert states(sweep) == {"quick": "finished", "slow": "pending", "late": "pending"}
    assert {"stopped slow", "stopped late"} <= set(events(sweep))


def test_what_another_process_runs_is_waited_for(make: Callable[..., Sweep]) -> None:
    sweep = make(planned("a"), planned("b"))
    lock = FileLock(sweep.lock(sweep.cells[0]).lock_file, thread_local=False)
    lock.acquire()
    assert states(sweep)["a"] == "running"
    threading.Timer(2.0, lock.release).start()
    local.run_here(sweep, Room(2))
    assert set(states(sweep).values()) == {"finished"}
    assert events(sweep)[0] == "begin b", "the locked cell was started beside the process that holds it"


def test_cells_are_spread_over_gpus(make: Callable[..., Sweep], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3")
    sweep = make(*(planned(name, "gpu") for name in "abcd"))
    local.run_here(sweep, Room(4, ("1", "3"), 2))
    assert sorted(line for line in events(sweep) if " on " in line)[::2] == ["a on 1", "c on 1"]
    assert sorted(line for line in events(sweep) if " on " in line)[1::2] == ["b on 3", "d on 3"]
    assert set(states(sweep).values()) == {"finished"}


def test_cells_share_a_job(make: Callable[..., Sweep], monkeypatch: pytest.MonkeyPatch) -> None:
    """All at once, whatever the queue says of them; what is finished or failed does not run again."""
    sweep = make(planned("a", "0.5"), planned("b", "fails"), planned("c", "0.5"), planned("other"))
    for cell in sweep.cells:
        sweep.note(cell, "queued", job="7")
    monkeypatch.setattr(slurm, "queued", lambda ids: dict.fromkeys(ids, "RUNNING"))
    assert local.run_together(sweep, ["a", "b", "c"]) == 1
    assert [line for line in events(sweep) if line.startswith("end")] in (["end a", "end c"], ["end c", "end a"])
    assert states(sweep) == {"a": "finished", "b": "failed", "c": "finished", "other": "queued"}
    before = events(sweep)
    assert local.run_together(sweep, ["a", "c"]) == 0
    assert local.run_together(sweep, ["a", "b"]) == 1
    assert events(sweep) == before


def test_a_shared_job_goes_back_into_the_queue_once_all_have_saved(
    make: Callable[..., Sweep], monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = make(planned("a", "30"), planned("b", "30"), planned("c", "0.1"))
    for cell in sweep.cells:
        sweep.note(cell, "queued", job="7")
    monkeypatch.setattr(slurm, "queued", lambda ids: dict.fromkeys(ids, "PENDING"))
    monkeypatch.setattr(slurm, "asked", lambda: {"begin a", "begin b", "end c"} <= set(events(sweep)))
    requeued: list[dict[str, str]] = []

    def requeue() -> None:
        requeued.append(states(sweep))
        raise slurm.RequeuedError

    monkeypatch.setattr(slurm, "requeue", requeue)
    with pytest.raises(slurm.RequeuedError):
        local.run_together(sweep, ["a", "b", "c"])
    assert requeued == [{"a": "queued", "b": "queued", "c": "finished"}], "a cell still ran, or was taken for failed"


def test_a_deadline_stops_what_runs_and_begins_nothing_more(
    make: Callable[..., Sweep], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "START_S", 1.0)
    sweep = make(planned("a", "60"), planned("b", "60"), planned("c"))
    waits_until(monkeypatch, lambda: len(events(sweep)) >= 2)
    assert not local.run_here(sweep, Room(2), deadline=time.monotonic() + 2)
    assert sorted(events(sweep)) == ["begin a", "begin b", "stopped a", "stopped b"]
    assert set(states(sweep).values()) == {"pending"}
    assert not local.run_here(sweep, Room(2), deadline=time.monotonic() + 0.9), "there is no time to begin one"
    assert len(events(sweep)) == 4


def waits_until(monkeypatch: pytest.MonkeyPatch, condition: Callable[[], bool]) -> None:
    """Time of the loop goes on only once a condition holds: a slow machine may take seconds to start a cell."""
    real, begun, seen = time.monotonic, time.monotonic(), []

    def clock() -> float:
        if not seen and condition():
            seen.append(time.sleep(0.5))  # the cells are past their first line
        return real() if seen else begun

    monkeypatch.setattr(local.time, "monotonic", clock)
