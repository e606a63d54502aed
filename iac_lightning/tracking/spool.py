"""What MLflow has not got yet: kept in the run directory until it has.

Lines of `logs/tracking_spool.jsonl`, written only while the store cannot be reached:

- ``{"metrics": {name: value}, "step": 3, "time_ms": 1700000000000}``
- ``{"file": "figures/overlay.png", "folder": "figures"}``, relative to the run directory; a folder ends with ``/``
- ``{"status": "FINISHED"}``

Nothing here imports MLflow before something is sent.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

LIMIT = 200_000
"""Most metric values that wait; later ones are counted and left to `logs/history.jsonl`."""
METRICS_AT_ONCE = 500
"""A server refuses more than 1,000 in one request."""


class Waiting(NamedTuple):
    """One value of one metric, with the step and time it belongs to."""

    name: str
    value: float
    step: int
    time_ms: int


class Spool:
    """Metrics, files and the status of one run that wait to be stored.

    Attributes:
        directory: of the run.
        metrics: oldest first.
        files: path relative to `directory` → folder in MLflow (None: the root); the newest version is sent.
        status: to be set when everything else is stored.
        dropped: values beyond `LIMIT`.
        stored: (name, step) of what the store had when this process first reached it; never sent again.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.path = spool_file(directory)
        self.metrics: list[Waiting] = []
        self.files: dict[str, str | None] = {}
        self.status: str | None = None
        self.dropped = 0
        self.stored: set[tuple[str, int]] = set()
        self._unsaved: list[str] = []
        for line in self.path.read_text(encoding="utf-8").splitlines() if self.path.exists() else []:
            try:
                waiting = json.loads(line)
                if "file" in waiting:
                    self._check_own(str(waiting["file"]))
                self._take(waiting)
            except (ValueError, KeyError, TypeError, AttributeError):  # cut off by a crash or a full disk, or foreign
                continue
        self._inherited = {(m.name, m.step) for m in self.metrics}

    def __len__(self) -> int:
        return len(self.metrics) + len(self.files) + (self.status is not None)

    def add_metrics(self, metrics: Mapping[str, float], step: int, time_ms: int | None = None) -> None:
        """Values of one step; those that an earlier process of the run has logged are not taken again."""
        fresh = {
            name: value
            for name, value in metrics.items()
            if (name, step) not in self.stored and (name, step) not in self._inherited
        }
        if fresh:
            time_ms = int(time.time() * 1000) if time_ms is None else time_ms
            self._add({"metrics": fresh, "step": step, "time_ms": time_ms})

    def add_file(self, path: Path, folder: str | None) -> None:
        """A file or folder of the run; a folder is removed when it is stored."""
        name = path.relative_to(self.directory).as_posix()
        self._add({"file": f"{name}/" if path.is_dir() else name, "folder": folder})

    def set_status(self, status: str | None) -> None:
        """What to end with; None takes an earlier one back."""
        self._add({"status": status})

    def keep(self) -> None:
        """Write what is not in the file yet, so that it outlives this process; a full disk is no reason to stop."""
        if not self._unsaved:
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                file.write("\n" + "\n".join(self._unsaved) + "\n")  # a line that was cut off ends here
        except OSError:
            return
        self._unsaved = []

    def send(self, client: Any, run_id: str, seconds: float = float("inf")) -> int:
        """Store what waits; what failed goes on waiting.

        Args:
            client: an `MlflowClient`.
            run_id: of the MLflow run.
            seconds: stop after about so long; the rest waits for the next call.

        Returns:
            How many values and files were stored.

        Raises:
            Exception: whatever the store raises.
        """
        from mlflow.entities import Metric

        deadline, before = time.monotonic() + seconds, len(self)
        self.metrics = [m for m in self.metrics if (m.name, m.step) not in self.stored]
        while self.metrics and time.monotonic() < deadline:
            batch = self.metrics[:METRICS_AT_ONCE]
            client.log_batch(run_id, metrics=[Metric(m.name, m.value, m.time_ms, m.step) for m in batch])
            del self.metrics[: len(batch)]
        for name, folder in list(self.files.items()):
            if time.monotonic() >= deadline:
                break
            self._send_file(client, run_id, name, folder)
            del self.files[name]
        if self.status is not None and not self.metrics and not self.files:
            client.set_terminated(run_id, self.status)
            self.status = None
        if not len(self):
            self.path.unlink(missing_ok=True)
            self._unsaved = []
        return before - len(self)

    def add_history(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Epochs of `logs/history.jsonl` that the store lacks: a process can be killed before it logs what it wrote.

        Lightning logs the means of an epoch at its last step, one below the number of steps, and calls the mean of a
        metric that it also logs by step `<name>_epoch`.

        Args:
            rows: `epoch`, `step`, `seconds` and metrics.
        """
        ends = ("_step", "_epoch")  # a run of few steps has none of the first
        forked = {name.removesuffix(end) for name, _ in self.stored for end in ends if name.endswith(end)}
        known = self.stored | {(m.name, m.step) for m in self.metrics}
        for row in rows:
            step = int(row["step"])
            lacking = {}
            for key, value in row.items():
                name = f"{key}_epoch" if key in forked else key
                here = {(name, step - 1), (name, step)}
                if key not in ("epoch", "step", "seconds") and not here & known:
                    lacking[name] = float(value)
            self.add_metrics(lacking, step - 1)

    def _add(self, line: dict[str, Any]) -> None:
        if self._take(line):
            self._unsaved.append(json.dumps(line))

    def _take(self, line: dict[str, Any]) -> bool:
        if "metrics" in line:
            if len(self.metrics) >= LIMIT:
                self.dropped += len(line["metrics"])
                return False
            step, time_ms = int(line["step"]), int(line["time_ms"])
            self.metrics += [Waiting(name, float(value), step, time_ms) for name, value in line["metrics"].items()]
        elif "file" in line:
            self.files[str(line["file"])] = line["folder"]
        else:
            self.status = line["status"]
        return True

    def _check_own(self, name: str) -> None:
        """Refuse what lies elsewhere: a run that comes from elsewhere must not have files sent, or folders removed.

        Raises:
            ValueError: when a path, or a link in it, leads out of the run.
        """
        directory = self.directory.resolve()
        if not (directory / name).resolve().is_relative_to(directory) or Path(name) == Path():
            raise ValueError(f"{name} lies outside the run")

    def _send_file(self, client: Any, run_id: str, name: str, folder: str | None) -> None:
        path = self.directory / name
        if path.is_dir():
            client.log_artifacts(run_id, str(path), folder)
            shutil.rmtree(path, ignore_errors=True)
        elif path.exists():
            client.log_artifact(run_id, str(path), folder)


def spool_file(directory: Path) -> Path:
    """Where a run keeps what waits."""
    return directory / "logs" / "tracking_spool.jsonl"


def stored_steps(client: Any, run_id: str, names: Sequence[str]) -> set[tuple[str, int]]:
    """(name, step) of every metric value that the store has of a run."""
    return {(name, metric.step) for name in names for metric in client.get_metric_history(run_id, name)}
