"""What waits for MLflow: kept in a file, sent in portions, never twice."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

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
