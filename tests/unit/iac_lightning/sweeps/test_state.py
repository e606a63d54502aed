from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from data_modules.errors import UserError
from iac_lightning.cluster import slurm
from iac_lightning.sweeps.cells import cells
from iac_lightning.sweeps.keys import CUTOFFS
from iac_lightning.sweeps.spec import read_sweep
from iac_lightning.sweeps.state import PLAN, Sweep, open_sweep, reading_plan, states, status_table, write_plan
from tests.unit.iac_lightning.sweeps.conftest import TWO_AXES, planned, write


def test_a_plan_is_written_and_opened_again(tmp_path: Path) -> None:
    spec = read_sweep(write(tmp_path, TWO_AXES), [f"runs_dir={tmp_path}", f"{CUTOFFS}=[0,40,120]"])
    sweep = write_plan(spec, cells(spec))
    plan = json.loads((tmp_path / "tiny" / PLAN).read_text(encoding="utf-8"))
    assert (plan["name"], plan["split"], plan["seeds"]) == ("tiny", "test", [3, 4])
    assert plan["axes"] == {"patch": ["8³", "16³"], "start": ["scratch", "half hidden"]}
    assert plan["risk_cutoffs_mm3"] == [0, 40, 120]
    assert open_sweep(tmp_path / "tiny").cells == sweep.cells


def test_cells_of_other_settings_are_refused(tmp_path: Path) -> None:
    spec = read_sweep(write(tmp_path, TWO_AXES), [f"runs_dir={tmp_path}"])
    sweep = write_plan(spec, cells(spec))
    sweep.note(sweep.cells[-1], "finished", seconds=1.0)
    assert write_plan(spec, cells(spec)).record(sweep.cells[-1])["state"] == "finished"
    other = read_sweep(write(tmp_path, TWO_AXES), [f"runs_dir={tmp_path}", "optimizer.lr=0.01"])
    with pytest.raises(UserError, match=r"1 cells were made with other settings \(16_half-hidden_seed4\)"):
        write_plan(other, cells(other))
    (tmp_path / "tiny" / "config.yaml").touch()
    with pytest.raises(UserError, match="is a run, not a sweep"):
        write_plan(spec, cells(spec))


@pytest.mark.parametrize("key", ["name", "run"])
@pytest.mark.parametrize("name", ["../../elsewhere", "/elsewhere", "", "a/b", ".."])
def test_a_cell_of_a_foreign_plan_stays_in_its_folder(key: str, name: str, tmp_path: Path) -> None:
    spec = read_sweep(write(tmp_path, TWO_AXES), [f"runs_dir={tmp_path}"])
    path = write_plan(spec, cells(spec)).directory / PLAN
    plan = json.loads(path.read_text(encoding="utf-8"))
    plan["cells"][0][key] = name
    path.write_text(json.dumps(plan))
    with pytest.raises(UserError, match="is no name of a cell"):
        open_sweep(path.parent)


def test_states_by_word_lock_and_queue(make_sweep: Callable[..., Sweep], monkeypatch: pytest.MonkeyPatch) -> None:
    sweep = make_sweep(
        planned("pretrain_a"),
        planned("pretrain_b"),
        planned("a", needs=("pretrain_a",)),
        planned("b", needs=("pretrain_b",)),
        planned("sent"),
        planned("lost"),
        planned("held"),
    )
    monkeypatch.setattr(slurm, "queued", lambda jobs: {"7_0": "PENDING"} if "7_0" in jobs else {})
    sweep.note(sweep.cell("pretrain_b"), "failed", reason="no memory", seconds=2.0)
    sweep.note(sweep.cell("sent"), "queued", job="7_0")
    sweep.note(sweep.cell("lost"), "queued", job="6_0")
    with sweep.lock(sweep.cell("held")):
        assert states(sweep) == {
            "pretrain_a": "pending",
            "pretrain_b": "failed",
            "a": "waiting",
            "b": "blocked",
            "sent": "queued",
            "lost": "pending",
            "held": "running",
        }
        lines = status_table(sweep).splitlines()
    assert lines[1] == "pretrain_b  failed    no memory"
    assert lines[4] == "sent        queued    job 7_0"
    assert lines[-1] == "7 cells: 1 running, 1 queued, 1 waiting, 2 pending, 1 failed, 1 blocked"
    sweep.note(sweep.cell("pretrain_a"), "finished", seconds=61.4)
    assert states(sweep)["a"] == "pending"
    assert status_table(sweep).splitlines()[0] == "pretrain_a  finished  61 s"


def test_a_note_is_of_one_making_of_a_cell(make_sweep: Callable[..., Sweep]) -> None:
    sweep = make_sweep(planned("a"))
    sweep.note(sweep.cells[0], "finished", seconds=1.0)
    other = Sweep(sweep.directory, sweep.plan, (dataclasses.replace(sweep.cells[0], config_hash="other"),))
    assert states(other) == {"a": "pending"}
    with pytest.raises(UserError, match="no cell is called x"):
        other.cell("x")
    sweep.forget(sweep.cells[0])
    assert states(sweep) == {"a": "pending"}


def test_what_is_no_plan(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no sweep here \(it has no sweep.json\)"):
        open_sweep(tmp_path)
    (tmp_path / PLAN).write_text('{"cells": [{"name": "a"}]}')
    with pytest.raises(UserError, match=r"sweep.json: not what `iac sweep` writes \(KeyError\('kind'\)\)"):
        open_sweep(tmp_path)
    with pytest.raises(UserError, match=r"sweep.json: limits are wrong$"), reading_plan(tmp_path):
        raise UserError("limits are wrong")
