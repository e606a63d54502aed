from __future__ import annotations

import json
from pathlib import Path

import pytest

from data_modules.errors import UserError
from iac_lightning.sweeps.state import Sweep, open_sweep, states
from iac_lightning.workflows import cell as workflow
from tests.unit.iac_lightning.sweeps.conftest import planned


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    cells = [planned("pretrain_a"), planned("b", needs=("pretrain_a",))]
    (tmp_path / "sweep.json").write_text(json.dumps({"name": "s", "split": "test", "cells": cells}))
    (tmp_path / "mlflow_run_id").write_text("parent\n")
    return open_sweep(tmp_path)


def test_a_cell_notes_its_end(sweep: Sweep, monkeypatch: pytest.MonkeyPatch) -> None:
    done = []
    monkeypatch.setattr(workflow, "train_and_evaluate", lambda *given: done.append(given))
    workflow.run_cell(sweep.directory, "pretrain_a", ("launcher=local",))
    assert [(cell.name, *rest) for cell, *rest in done] == [("pretrain_a", sweep.plan, "parent", ("launcher=local",))]
    assert states(sweep) == {"pretrain_a": "finished", "b": "pending"}
    workflow.run_cell(sweep.directory, "pretrain_a")
    assert len(done) == 1, "a finished cell ran again"


def test_an_error_is_noted_and_a_stop_is_not(sweep: Sweep, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*given: object) -> None:
        raise KeyboardInterrupt

    def fail(*given: object) -> None:
        raise ValueError(f"{Path.cwd()}/some/file is wrong\nand more")

    monkeypatch.setattr(workflow, "train_and_evaluate", stop)
    with pytest.raises(KeyboardInterrupt):
        workflow.run_cell(sweep.directory, "pretrain_a")
    assert states(sweep)["pretrain_a"] == "pending"
    monkeypatch.setattr(workflow, "train_and_evaluate", fail)
    with pytest.raises(ValueError, match="is wrong"):
        workflow.run_cell(sweep.directory, "pretrain_a")
    assert states(sweep) == {"pretrain_a": "failed", "b": "blocked"}
    assert sweep.record(sweep.cell("pretrain_a"))["reason"] == "ValueError: some/file is wrong"


def test_a_cell_waits_for_nobody(sweep: Sweep, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="cell b needs pretrain_a, which is not finished"):
        workflow.run_cell(sweep.directory, "b")
    monkeypatch.setattr(workflow, "LOCK_WAIT_S", 0.1)
    with sweep.lock(sweep.cell("b")), pytest.raises(UserError, match="another process works on cell b"):
        workflow.run_cell(sweep.directory, "b")


def test_other_ranks_neither_lock_nor_note(sweep: Sweep, monkeypatch: pytest.MonkeyPatch) -> None:
    done = []
    monkeypatch.setattr(workflow, "train_and_evaluate", lambda *given: done.append(given))
    monkeypatch.setenv("SLURM_PROCID", "1")
    with sweep.lock(sweep.cell("pretrain_a")):  # the first rank's
        workflow.run_cell(sweep.directory, "pretrain_a")
    assert len(done) == 1
    assert sweep.record(sweep.cell("pretrain_a")) == {}
