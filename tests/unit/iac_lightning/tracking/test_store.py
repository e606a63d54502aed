"""Where the store is, and how it is made."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from iac_lightning.config.reading import load_experiment
from iac_lightning.tracking import store as tracking_store
from iac_lightning.tracking.store import tracking_uri

ROOT = Path(__file__).parents[4]


def test_the_store_lies_in_the_runs_directory_unless_it_is_named(tmp_path: Path) -> None:
    settings = ["name=a", f"runs_dir={tmp_path}/runs"]
    assert tracking_uri(load_experiment(None, settings)) == f"sqlite:///{tmp_path}/runs/mlflow.db"
    named = load_experiment(None, [*settings, "tracking.uri=http://127.0.0.1:9"])
    assert tracking_uri(named) == "http://127.0.0.1:9"


def test_an_experiment_that_another_process_creates_first(monkeypatch):
    from mlflow import MlflowException

    class Client:
        asked = 0

        def get_experiment_by_name(self, name: str) -> Any:
            self.asked += 1
            return type("Found", (), {"experiment_id": 7}) if self.asked == 2 else None

        def create_experiment(self, name: str, artifact_location: str | None) -> str:
            raise MlflowException("exists")

    client = Client()
    monkeypatch.setattr(tracking_store, "client_of", lambda uri: client)
    assert tracking_store._experiment_id("http://x", "iac", None) == "7"
    client.asked = 5
    with pytest.raises(MlflowException):
        tracking_store._experiment_id("http://x", "iac", None)


def test_a_database_is_whole_or_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed in the midst of its tables, it would keep every later start from tracking."""
    config = load_experiment(None, ["name=a", f"runs_dir={tmp_path}/runs"])

    def killed(uri: str) -> Any:
        tracking_store.database_of(uri).write_bytes(b"half of the tables")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(tracking_store, "client_of", killed)
        with pytest.raises(KeyboardInterrupt):
            tracking_store.create_store(config)
    assert [p.name for p in (tmp_path / "runs").iterdir()] == ["mlflow.db.lock"]
    for name in (".mlflow.db.1.ab.tmp", ".mlflow.db.1.ab.tmp-journal"):
        (tmp_path / "runs" / name).write_bytes(b"of a kill")
    experiment = tracking_store.create_store(config)
    assert tracking_store.create_store(config) == experiment
    assert sorted(p.name for p in (tmp_path / "runs").iterdir()) == ["mlflow.db", "mlflow.db.lock"]
    run = tracking_store.client_of(tracking_uri(config)).create_run(experiment).info
    assert run.artifact_uri.startswith((tmp_path / "runs" / "mlartifacts").as_uri())


COLD_START = """
import os, sys
import mlflow.store.tracking.sqlalchemy_store
from iac_lightning.config.reading import load_experiment
from iac_lightning.runs.directory import open_run
from iac_lightning.tracking.logger import finish, start_logger
gate, opened = os.pipe()
children = []
for i in range(8):
    if (pid := os.fork()) == 0:
        os.close(opened)
        os.read(gate, 1)  # returns for all of them at once, when the other end is closed
        try:
            with open_run(load_experiment(None, [f"name=run{i}", f"runs_dir={sys.argv[1]}"])) as run:
                logger = start_logger(run)
                for step in range(20):
                    logger.log_metrics({"x": step / 8 + i, "y": -1.0}, step)
                finish(logger, "FINISHED")
            os._exit(0)
        finally:
            os._exit(1)
    children.append(pid)
os.close(opened)
sys.exit(sum(os.waitpid(pid, 0)[1] for pid in children) != 0)
"""


@pytest.mark.slow
def test_eight_cold_starts_on_one_database(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", COLD_START, str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert (done.returncode, done.stderr) == (0, "")
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    experiment = client.get_experiment_by_name("iac")
    found = {r.info.run_name: r for r in client.search_runs([experiment.experiment_id])}
    assert sorted(found) == [f"run{i}" for i in range(8)]
    for i in range(8):
        run = found[f"run{i}"]
        assert (run.info.status, len(run.data.params) > 50) == ("FINISHED", True)
        history = client.get_metric_history(run.info.run_id, "x")
        assert [(m.step, m.value) for m in history] == [(step, step / 8 + i) for step in range(20)]
        assert [a.path for a in client.list_artifacts(run.info.run_id)] == ["config.yaml"]
    assert not list(tmp_path.glob("run*/logs/tracking_spool.jsonl"))
