"""The MLflow run that belongs to a run directory, found again after whatever happened to either."""

from __future__ import annotations

import logging

from mlflow import MlflowClient

from iac_lightning.runs.directory import open_run
from iac_lightning.tracking import logger as tracking
from iac_lightning.tracking import mlflow_run
from iac_lightning.tracking.logger import start_logger
from iac_lightning.tracking.store import tracking_uri
from tests.unit.iac_lightning.tracking.tracked import config_of, stored


def test_a_run_that_vanished_from_the_store_starts_anew(runs_dir, caplog):
    with open_run(config_of(runs_dir, "vanished")) as run:
        run.mlflow_run_id = "0" * 32
        with caplog.at_level(logging.WARNING):
            assert start_logger(run) is not None
        assert run.mlflow_run_id != "0" * 32
        assert stored(run).data.params["seed"] == "0"
        (message,) = [r.getMessage() for r in caplog.records if r.name == mlflow_run.__name__]
        assert message == (
            f"tracking: the MLflow run {'0' * 32} of vanished is not in the store any more; a new one continues"
        )
        MlflowClient(tracking_uri(run.config)).delete_run(run.mlflow_run_id)
        deleted = run.mlflow_run_id
        assert start_logger(run) is not None
        assert run.mlflow_run_id != deleted


def test_parameters_are_logged_by_the_next_start_where_a_crash_came_between(runs_dir, monkeypatch):
    with open_run(config_of(runs_dir, "between")) as run:
        monkeypatch.setattr(tracking, "log_parameters", lambda *a: (_ for _ in ()).throw(OSError("crash")))
        start_logger(run)
        assert stored(run).data.params == {}
        monkeypatch.undo()
        before = run.mlflow_run_id
        start_logger(run)
        assert run.mlflow_run_id == before
        assert stored(run).data.params["seed"] == "0"


def test_a_process_killed_before_it_notes_its_mlflow_run_finds_it_again(runs_dir):
    with open_run(config_of(runs_dir, "orphan")) as run:
        start_logger(run)
        first = run.mlflow_run_id
        (run.directory / "mlflow_run_id").unlink()
        start_logger(run)
        assert run.mlflow_run_id == first
        assert stored(run).data.params["seed"] == "0"
