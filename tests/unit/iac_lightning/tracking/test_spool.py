"""What waits for MLflow: kept in a file, sent in portions, never twice."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

import pytest

from iac_lightning.tracking.spool import Spool, spool_file


class Client:
    """A store that keeps what it is sent."""

    def __init__(self) -> None:
        self.values: list[tuple[str, float, int]] = []
        self.status: str | None = None

    def log_batch(self, run_id: str, metrics: list[Any]) -> None:
        self.values += [(m.key, m.value, m.step) for m in metrics]

    def set_terminated(self, run_id: str, status: str) -> None:
        self.status = status


def test_what_one_process_keeps_the_next_sends_once(tmp_path: Path) -> None:
    first = Spool(tmp_path)
    first.add_metrics({"x": 1.0}, 0)
    first.set_status("FINISHED")
    first.keep()
    with spool_file(tmp_path).open("a") as file:
        file.write('{"metrics": {"x": 0.')  # the kill
    second, client = Spool(tmp_path), Client()
    second.add_metrics({"x": 1.0, "y": 2.0}, 0)  # x is what the first has logged already
    assert len(second) == 3
    assert second.send(client, "id") == 3
    assert client.values == [("x", 1.0, 0), ("y", 2.0, 0)]
    assert client.status == "FINISHED"
    assert not spool_file(tmp_path).exists()


def test_what_the_store_has_is_not_sent_again(tmp_path: Path) -> None:
    spool, client = Spool(tmp_path), Client()
    spool.add_metrics({"x": 1.0}, 0)
    spool.stored = {("x", 0)}
    spool.add_metrics({"x": 2.0}, 1)
    spool.send(client, "id")
    assert client.values == [("x", 2.0, 1)]


def test_the_status_waits_for_everything_else(tmp_path: Path) -> None:
    spool, client = Spool(tmp_path), Client()
    spool.add_metrics({"x": 1.0}, 0)
    spool.set_status("FINISHED")
    spool.send(client, "id", seconds=-1)
    assert client.status is None
    spool.send(client, "id")
    assert client.status == "FINISHED"


def test_a_long_absence_is_made_up_for_in_portions(tmp_path):
    class Counter:
        sizes: ClassVar[list[int]] = []

        def log_batch(self, run_id: str, metrics: list[Any]) -> None:
            self.sizes.append(len(metrics))

    spool = Spool(tmp_path)
    for step in range(1200):
        spool.add_metrics({"x": 1.0}, step)
    assert spool.send(Counter(), "id", seconds=-1) == 0
    assert spool.send(Counter(), "id") == 1200
    assert Counter.sizes == [500, 500, 200]


@pytest.mark.parametrize("kind", ["absolute", "above", "link", "itself"])
def test_a_foreign_run_has_nothing_else_sent_or_removed(kind: str, tmp_path: Path) -> None:
    """A folder that was sent is removed: it must be the run's own."""
    run, mine = tmp_path / "run", tmp_path / "mine"
    (mine / "folder").mkdir(parents=True)
    (mine / "folder" / "thesis.txt").write_text("mine")
    (run / "model").mkdir(parents=True)
    (run / "link").symlink_to(mine)
    name = {"absolute": f"{mine}/folder/", "above": "../mine/folder/", "link": "link/folder/", "itself": "./"}[kind]
    spool_file(run).parent.mkdir()
    lines = [{"file": name, "folder": "x"}, {"file": "model/", "folder": "model"}]
    spool_file(run).write_text("\n".join(map(json.dumps, lines)))
    sent: list[str] = []

    class Store:
        def log_artifacts(self, run_id: str, path: str, folder: str) -> None:
            sent.append(path)

    Spool(run).send(Store(), "id")
    assert sent == [str(run / "model")]
    assert not (run / "model").exists()
    assert (mine / "folder" / "thesis.txt").read_text() == "mine"


@pytest.mark.parametrize("logged", [{("loss_step", 20), ("loss_epoch", 3)}, {("loss_epoch", 3)}])
def test_epochs_that_are_sent_later_go_by_the_name_they_have_in_the_store(
    logged: set[tuple[str, int]], tmp_path: Path
) -> None:
    """Also where the run is shorter than the steps between two values by step."""
    spool = Spool(tmp_path)
    spool.stored = logged
    spool.add_history([{"epoch": k, "step": 4 * (k + 1), "seconds": 1.0, "loss": 0.5} for k in range(2)])
    assert [(m.name, m.step) for m in spool.metrics] == [("loss_epoch", 7)]
