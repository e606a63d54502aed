"""The order of a sweep's steps, with stand-ins for what takes long."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from data_modules.cohort.table import read_cohort
from data_modules.errors import UserError
from data_modules.prepare.store import open_store
from iac_lightning.cli import run_in_job
from iac_lightning.sweeps.cells import cells
from iac_lightning.sweeps.sharing import Room
from iac_lightning.sweeps.spec import read_sweep
from iac_lightning.sweeps.state import Sweep, open_sweep, states
from iac_lightning.workflows import sweep as workflow
from iac_lightning.workflows.reports import sweep as report_workflow
from tests.integration.settings import REPOSITORY

FILE = """
name: tiny
base: {cpu}/vit.yaml
axes:
  decoder:
    linear: {{model.decoder.name: linear}}
    unetr: {{model.decoder.name: unetr}}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "sweep.yaml"
    path.write_text(FILE.format(cpu=REPOSITORY / "experiments/sweeps/cpu"), encoding="utf-8")
    return path


@pytest.fixture
def steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was done, in order; every cell but those in `fails` ends well."""
    done: list[str] = []

    def run(sweep: Sweep, room: Room, deadline: float) -> bool:
        done.append(f"cells, {room.at_once} at once")
        if deadline < time.monotonic():
            return False
        for cell in sweep.cells:
            if not sweep.record(cell):
                fails = (tmp_path / "fails").exists() and "linear" in cell.name
                sweep.note(cell, "failed" if fails else "finished", reason="it had to", seconds=1.0)
        return True

    def report(folders: list[Path], out: Path) -> Path:
        done.append("report")
        return out / "index.html"

    def note(name: str) -> Callable[..., None]:
        return lambda *given, **named: done.append(f"{name} {given[2]}" if len(given) > 2 else name)

    monkeypatch.setattr(workflow, "run_here", run)
    monkeypatch.setattr(report_workflow, "sweep_report", report)
    monkeypatch.setattr(workflow, "prepare", note("data"))
    monkeypatch.setattr(workflow, "start_parent", note("parent"))
    monkeypatch.setattr(workflow, "finish_parent", note("parent"))
    return done


def options(tmp_path: Path) -> list[str]:
    return [f"runs_dir={tmp_path / 'runs'}", "launcher.at_once=3"]


def test_from_the_file_to_the_report(
    file: Path, steps: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert workflow.sweep(file, options(tmp_path), entry=run_in_job) == 0
    assert steps == ["data", "parent", "cells, 3 at once", "report", "parent FINISHED"]
    shown = capsys.readouterr().out
    assert "tiny: 2 cells (0 pre-trainings, 2 fine-tunings)" in shown
    assert "2 cells: 2 finished" in shown
    assert "2 cells: 2 finished" in workflow.status(file, options(tmp_path))
    assert "2 cells: 2 finished" in workflow.status(tmp_path / "runs" / "tiny", [])


def test_a_dry_run_touches_nothing(
    file: Path, steps: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert workflow.sweep(file, options(tmp_path), dry_run=True, entry=run_in_job) == 0
    assert steps == []
    assert not (tmp_path / "runs").exists()
    assert "TFLOP" in capsys.readouterr().out


def test_failed_cells_are_tried_again_on_request(file: Path, steps: list[str], tmp_path: Path) -> None:
    (tmp_path / "fails").touch()
    assert workflow.sweep(file, options(tmp_path), entry=run_in_job) == 1
    assert steps[-1] == "parent FAILED"
    (tmp_path / "fails").unlink()
    assert workflow.sweep(file, options(tmp_path), entry=run_in_job) == 1, "a failed cell ran again without being asked"
    assert workflow.sweep(file, options(tmp_path), retry=True, entry=run_in_job) == 0
    assert set(states(open_sweep(tmp_path / "runs" / "tiny")).values()) == {"finished"}


def test_an_interrupted_sweep_is_marked_and_goes_on(
    file: Path, steps: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*given: Any, **named: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(workflow, "run_here", stopped)
        with pytest.raises(KeyboardInterrupt):
            workflow.sweep(file, options(tmp_path), entry=run_in_job)
    assert steps[-1] == "parent KILLED"
    assert workflow.sweep(file, options(tmp_path), entry=run_in_job) == 0


def test_cells_of_other_settings_are_not_mixed(file: Path, steps: list[str], tmp_path: Path) -> None:
    assert workflow.sweep(file, options(tmp_path), entry=run_in_job) == 0
    with pytest.raises(UserError, match=r"2 cells were made with other settings.*another name"):
        workflow.sweep(file, [*options(tmp_path), "optimizer.lr=0.01"], entry=run_in_job)
    assert workflow.sweep(file, [*options(tmp_path), "optimizer.lr=0.01", "name=other"], entry=run_in_job) == 0


def test_on_slurm_it_submits_and_returns(
    file: Path, steps: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[Any] = []
    monkeypatch.setattr(workflow, "submit_sweep", lambda *given: sent.append(given) or ["2 cells: job 1"])
    assert workflow.sweep(file, [*options(tmp_path), "launcher=slurm"], entry=run_in_job) == 0
    assert steps == ["data", "parent"]
    assert sent[0][3:] == (["sweep", str(tmp_path / "runs" / "tiny"), "--finish"], run_in_job)
    for cell in sent[0][0].cells:
        sent[0][0].note(cell, "finished", seconds=1.0)
    assert workflow.finish(tmp_path / "runs" / "tiny") == 0
    assert steps[-2:] == ["report", "parent FINISHED"]


def test_one_process_works_on_a_sweep(
    file: Path, steps: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workflow, "LOCK_WAIT_S", 0.1)
    (tmp_path / "runs" / "tiny").mkdir(parents=True)
    with FileLock(tmp_path / "runs" / "tiny" / "sweep.lock"), pytest.raises(UserError, match="in another process"):
        workflow.sweep(file, options(tmp_path), entry=run_in_job)
    assert steps == []


def test_when_the_time_is_up_it_says_so_and_goes_on(
    file: Path, steps: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert workflow.sweep(file, options(tmp_path), minutes=0.001, entry=run_in_job) == workflow.GOES_ON == 75
    assert steps == ["data", "parent", "cells, 3 at once", "parent KILLED"]
    assert "2 pending\nthe time was up; the same command goes on" in capsys.readouterr().out
    assert workflow.sweep(file, options(tmp_path), minutes=60, entry=run_in_job) == 0
    for minutes, more in ((-1, []), (5, ["launcher=slurm"])):
        with pytest.raises(UserError, match=f"--minutes {minutes}: expected a number above 0, of a sweep on this"):
            workflow.sweep(file, [*options(tmp_path), *more], minutes=minutes, entry=run_in_job)


def test_folds_of_a_phantom_are_dealt_out_before_the_cells(file: Path, tmp_path: Path) -> None:
    phantom = {"folder": str(tmp_path / "p"), "patients": 8, "fractions": {"finetune": 0.5, "dev": 0.25, "test": 0.25}}
    text = (
        file.read_text() + f"phantom: {json.dumps(phantom)}\nfolds: 2\nsettings: {{data.grid.spacing_mm: [4, 4, 8]}}\n"
    )
    file.write_text(text)
    spec = read_sweep(file, options(tmp_path))
    planned = cells(spec)
    workflow.prepare(spec, planned)
    table = read_cohort(tmp_path / "p" / "cohort.csv")
    assert sorted({s.fold for s in table.split("finetune", "dev")}) == [0, 1]
    dev = {c.fold: set(open_store(c.config.data).cohort.patients("dev")) for c in planned}
    assert dev[0] | dev[1] == set(table.patients("finetune", "dev"))
    assert not dev[0] & dev[1]
