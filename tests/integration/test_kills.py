"""A few of `make kills`, and that the comparison notices what a kill could leave."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.settings import REPOSITORY
from tests.kills import comparison


@pytest.mark.slow
def test_commands_that_are_killed_and_started_again_end_as_if_nothing_had_been() -> None:
    words = [sys.executable, "-m", "tests.kills.run", "--kills", "3", "--only", "prepare", "predict", "evaluate"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(words, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    assert done.stdout.count(": well") == 3


@pytest.fixture
def ended(tmp_path: Path) -> Path:
    """What a command left: a table, a record, a database."""
    folder = tmp_path / "a"
    folder.mkdir()
    (folder / "table.csv").write_text("series,dice,seconds\nA,0.5,3\n")
    (folder / "finished.json").write_text(json.dumps({"loss": 0.25, "seconds": 3, "checkpoint_sha256": "x"}))
    (folder / "history.jsonl").write_text('{"epoch": 0, "loss": 1}\n{"epoch": 1, "loss": 0.5}\n')
    (folder / "mask.nii.gz").write_bytes(b"voxels")
    (folder / "run.log").write_text("started at noon")
    with sqlite3.connect(folder / "mlflow.db") as database:
        database.execute("create table runs (run_uuid, name)")
        database.execute("create table metrics (run_uuid, key, value, step, is_nan, timestamp)")
        database.execute("insert into runs values ('1', 'tiny')")
        database.execute("insert into metrics values ('1', 'loss', 0.5, 1, 0, 100)")
    return folder


def differences(a: Path, b: Path, trains: bool = False) -> list[str]:
    return comparison.differences(comparison.results(a, trains), comparison.results(b, trains))


def test_what_differs_is_named_and_times_are_not(ended: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(ended, tmp_path / "b"))
    (other / "table.csv").write_text("series,dice,seconds\nA,0.5,4\n")
    (other / "run.log").write_text("started at night")
    (other / "history.jsonl").write_text('{"epoch": 0, "loss": 1}\n{"epo\n{"epoch": 1, "loss": 0.5}\n')
    with sqlite3.connect(other / "mlflow.db") as database:  # sent again after a kill
        database.execute("insert into metrics values ('1', 'loss', 0.5, 1, 0, 200)")
    assert differences(ended, other) == []

    (other / "table.csv").write_text("series,dice,seconds\nA,0.6,3\n")
    (other / "finished.json").write_text(json.dumps({"loss": 0.2, "seconds": 3, "checkpoint_sha256": "x"}))
    (other / "history.jsonl").write_text('{"epoch": 0, "loss": 1}\n')
    (other / "mask.nii.gz").unlink()
    (other / "more.txt").write_text("x")
    with sqlite3.connect(other / "mlflow.db") as database:
        database.execute("insert into metrics values ('1', 'loss', 0.4, 1, 0, 300)")
        database.execute("insert into runs values ('2', 'tiny')")
    assert differences(ended, other) == [
        "MLflow: tiny: loss: differs",
        "finished.json: differs",
        "history.jsonl: differs",
        "mask.nii.gz: missing",
        "more.txt: more than there should be",
        "table.csv: differs",
    ]
    assert (comparison.mlflow_runs(ended), comparison.mlflow_runs(other)) == (1, 2)


def test_the_hash_of_weights_counts_where_they_were_there_before(ended: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(ended, tmp_path / "b"))
    (other / "finished.json").write_text(json.dumps({"loss": 0.25, "seconds": 3, "checkpoint_sha256": "y"}))
    assert differences(ended, other, trains=True) == []
    assert differences(ended, other, trains=False) == ["finished.json: differs"]


def test_leftovers_are_found(ended: Path) -> None:
    assert comparison.leftovers(ended) == []
    (ended / "sub").mkdir()
    (ended / "sub" / ".mask.nii.gz.17.abcd.tmp").write_text("")
    (ended / ".scan.part").mkdir()
    assert comparison.leftovers(ended) == [".scan.part", "sub/.mask.nii.gz.17.abcd.tmp"]


def test_a_process_without_a_parent_is_found_and_ended() -> None:
    script = """
import subprocess, sys
from tests.kills.processes import adopt_orphans, orphans
adopt_orphans()
subprocess.run([sys.executable, "-c", "import subprocess; subprocess.Popen(['sleep', '77'])"])
print(orphans(0.5), orphans(0.5))
"""
    words = [sys.executable, "-c", script]
    done = subprocess.run(words, cwd=REPOSITORY, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "['sleep 77 '] []"
