"""The sweep's MLflow run, with a client that notes what it was asked."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from iac_lightning.config.reading import load_experiment
from iac_lightning.config.schema import ExperimentConfig
from iac_lightning.sweeps import parent_run
from iac_lightning.sweeps.parent_run import finish_parent, parent_run_id, start_parent
from iac_lightning.sweeps.state import Sweep
from tests.integration.settings import REPOSITORY
from tests.unit.iac_lightning.sweeps.conftest import planned


class Client:
    """What `parent_run` uses of `MlflowClient`."""

    def __init__(self) -> None:
        self.asked: list[tuple[Any, ...]] = []
        self.stage = "active"

    def create_run(self, experiment: str, run_name: str, tags: dict[str, str]) -> Any:
        self.asked.append(("create", experiment, run_name, tags["task"]))
        return SimpleNamespace(info=SimpleNamespace(run_id=f"run{len(self.asked)}"))

    def get_run(self, run_id: str) -> Any:
        return SimpleNamespace(info=SimpleNamespace(lifecycle_stage=self.stage))

    def update_run(self, run_id: str, status: str) -> None:
        self.asked.append(("update", run_id, status))

    def log_artifact(self, run_id: str, path: str) -> None:
        self.asked.append(("file", run_id, Path(path).name))

    def log_artifacts(self, run_id: str, path: str, folder: str) -> None:
        self.asked.append(("files", run_id, folder))

    def set_terminated(self, run_id: str, status: str) -> None:
        self.asked.append(("end", run_id, status))


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> Client:
    made = Client()
    monkeypatch.setattr(parent_run, "_client", lambda config: made)
    monkeypatch.setattr(parent_run, "create_store", lambda config: "experiment")
    return made


def settings(*overrides: str) -> ExperimentConfig:
    return load_experiment(REPOSITORY / "experiments/sweeps/cpu/vit.yaml", overrides)


def test_a_sweep_begins_goes_on_and_ends(make_sweep: Callable[..., Sweep], client: Client, tmp_path: Path) -> None:
    sweep = make_sweep(planned("a"))
    assert parent_run_id(sweep.directory) is None
    finish_parent(sweep, settings(), "FINISHED")
    assert client.asked == [], "a run that never began was ended"
    start_parent(sweep, settings())
    assert parent_run_id(sweep.directory) == "run1"
    start_parent(sweep, settings())
    finish_parent(sweep, settings(), "FINISHED", tmp_path)
    assert client.asked == [
        ("create", "experiment", "s", "sweep"),
        ("file", "run1", "sweep.json"),
        ("update", "run1", "RUNNING"),
        ("file", "run1", "sweep.json"),
        ("files", "run1", "report"),
        ("end", "run1", "FINISHED"),
    ]


def test_a_deleted_run_is_made_anew(make_sweep: Callable[..., Sweep], client: Client) -> None:
    sweep = make_sweep(planned("a"))
    start_parent(sweep, settings())
    client.stage = "deleted"
    start_parent(sweep, settings())
    assert parent_run_id(sweep.directory) == "run3"


def test_without_tracking_nothing_is_asked(make_sweep: Callable[..., Sweep], client: Client) -> None:
    sweep = make_sweep(planned("a"))
    start_parent(sweep, settings("tracking.enabled=false"))
    assert client.asked == []
    assert parent_run_id(sweep.directory) is None


def test_a_store_that_fails_stops_no_sweep(
    make_sweep: Callable[..., Sweep],
    client: Client,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    sweep = make_sweep(planned("a"))
    start_parent(sweep, settings())

    def broken(*given: object) -> None:
        raise OSError("no server")

    monkeypatch.setattr(client, "get_run", broken)
    monkeypatch.setattr(client, "set_terminated", broken)
    start_parent(sweep, settings())
    finish_parent(sweep, settings(), "FINISHED")
    assert "could not be made (no server)" in caplog.text
    assert "was not stored in MLflow (no server)" in caplog.text
