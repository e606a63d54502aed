"""What an ended command left behind, in a form that is the same for every run of it, killed or not."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import sqlite3
from collections import defaultdict
from collections.abc import Iterator, Set
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from iac_lightning.runs.looks import count_looks

TIMES = {
    "seconds": "how long it took",
    "train_seconds": "how long it took",
    "samples_per_s": "speed",
    "train/samples_per_s": "speed",
    "train/data_wait_share": "speed",
    "train/device_busy_share": "speed",
    "peak_memory_mb": "memory of a process, which a continued training is another of",
    "time": "when",
    "started": "when",
    "ended": "when",
    "updated": "when",
    "id": "a random name",
    "pid": "number of a process",
    "attempts": "how often a cell was started, which a kill adds to",
    "continued": "that and when a run was continued",
    "machine": "what else the machine did",
    "command": "the command line that began it",
}
"""Keys of JSON files, columns of tables and names of MLflow's metrics that may differ after a kill, and why."""

OF_NEW_WEIGHTS = {
    "checkpoint_sha256": "of a file whose archive holds the random name under which it was written",
    "depends_on": "made of that hash",
    "judged": "made of that hash",
}
"""The same, of commands that train; where weights were there before, these must not change."""

SKIPPED = {
    ".lock": "locks hold nothing",
    "mlflow.db": "compared by its runs and metrics",
    "mlflow.db-journal": "sqlite's",
    "mlflow_run_id": "a random name",
    "mlflow_key": "a random name",
    "provenance.json": "when, and on what machine",
    ".log": "what was printed",
    ".png": "drawn from values that are compared",
    ".html": "written from values that are compared, with times",
    ".tex": "the same",
    "jobs.json": "numbers of processes",
    "signatures.json": "sums of files that are compared",
    ".registry.jsonl": "events with times; looks are counted in the summaries",
}
"""Ends of the names of files that are not compared, and why."""

PARENT = b"parent_run_id:"
"""Begins the line of a cell's settings that names the sweep's MLflow run, at random."""

LEFTOVERS = ("*.tmp", ".*.tmp", "*.part", ".*.part", ".new-*", ".old-*")


def results(folder: Path, trains: bool) -> dict[str, str]:
    """Name to content (as a digest) of every file that counts; `trains`: by a command that makes weights."""
    ignored = TIMES.keys() | (OF_NEW_WEIGHTS if trains else {}).keys()
    found = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        name = str(path.relative_to(folder))
        if "mlartifacts" in path.parts or any(path.name.endswith(end) for end in SKIPPED):
            continue
        found[name] = hashlib.sha256(_content(path, ignored)).hexdigest()
    for database in folder.rglob("mlflow.db"):
        found |= _metrics(database)
    return found


def _content(path: Path, ignored: Set[str]) -> bytes:
    """Bytes without times; of a checkpoint, its weights."""
    if path.suffix == ".ckpt":
        state = torch.load(path, weights_only=True)["state_dict"]
        return b"".join(k.encode() + v.contiguous().numpy().tobytes() for k, v in sorted(state.items()))
    if path.suffix == ".json":
        return json.dumps(_without(json.loads(path.read_text(encoding="utf-8")), ignored), sort_keys=True).encode()
    if path.suffix == ".jsonl":
        rows = [_without(row, ignored) for row in _whole_lines(path)]
        return json.dumps([row for row in rows if row], sort_keys=True).encode()  # a line may be nothing but times
    if path.suffix == ".csv":
        rows = list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"))))
        return json.dumps(_without(rows, ignored)).encode()
    if path.name == "config.yaml":
        return b"".join(line for line in path.read_bytes().splitlines(True) if PARENT not in line)
    return path.read_bytes()


def _whole_lines(path: Path) -> Iterator[Any]:
    """What was written in full: a line that a kill cut off stays, and readers leave it out."""
    for line in path.read_text(encoding="utf-8").splitlines():
        with suppress(ValueError):
            yield json.loads(line)


def _without(value: Any, ignored: Set[str]) -> Any:
    if isinstance(value, dict):
        return {k: _without(v, ignored) for k, v in value.items() if k not in ignored}
    return [_without(v, ignored) for v in value] if isinstance(value, list) else value


def _metrics(database: Path) -> dict[str, str]:
    """Every tracked metric of every run, by its name, whatever its id; a point that was sent twice is one point."""
    with sqlite3.connect(database) as connection:
        rows = connection.execute(
            "select runs.name, metrics.key, metrics.step, metrics.value, metrics.is_nan "
            "from metrics join runs on runs.run_uuid = metrics.run_uuid"
        ).fetchall()
    points: defaultdict[str, set[tuple[Any, ...]]] = defaultdict(set)
    for run, key, *point in rows:
        if key not in TIMES and not key.startswith("system/"):
            points[f"MLflow: {run}: {key}"].add(tuple(point))
    return {name: repr(sorted(values)) for name, values in points.items()}


def mlflow_runs(folder: Path) -> int:
    """How many runs are tracked."""
    total = 0
    for database in folder.rglob("mlflow.db"):
        with sqlite3.connect(database) as connection:
            total += int(connection.execute("select count(*) from runs").fetchone()[0])
    return total


def looks(folder: Path) -> int:
    """How often the test split was looked at, by all runs together."""
    return sum(count_looks(path.parent)["n"] for path in folder.rglob("test_looks.jsonl"))


def leftovers(folder: Path) -> list[str]:
    """Temporary files and folders that nobody removed."""
    found = {str(p.relative_to(folder)) for pattern in LEFTOVERS for p in folder.rglob(pattern)}
    return sorted(found)


def differences(expected: dict[str, str], found: dict[str, str]) -> list[str]:
    """Names of files that are missing, more, or hold something else."""
    names = sorted(expected.keys() | found.keys())
    words = {True: "missing", False: "more than there should be"}
    return [
        f"{name}: differs" if name in expected and name in found else f"{name}: {words[name in expected]}"
        for name in names
        if expected.get(name) != found.get(name)
    ]
