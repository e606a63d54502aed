"""What is measured how: ratios of pairs, the memory of a process of its own, and each part kept as it comes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks import bench as workflow
from benchmarks.process import WATCH, alternate, measured
from data_modules.errors import UserError
from data_modules.scan.geometry import Grid, Volume
from data_modules.scan.nifti import write_nifti
from iac_lightning.runs.directory import load_run
from iac_lightning.workflows.calibrate import load_calibrated
from iac_lightning.workflows.predict import predict
from tests.unit.benchmarks.test_bench_table import results


def test_two_measurements_take_turns_and_ratios_are_of_pairs() -> None:
    order: list[str] = []
    values = {"a": iter([8.0, 10.0, 90.0]), "b": iter([4.0, 2.0, 10.0])}

    def measure(name: str) -> float:
        order.append(name)
        return next(values[name])

    a, b, ratio = alternate(lambda: measure("a"), lambda: measure("b"), 3)
    assert "".join(order) == "ababab"
    assert (a, b) == ([8.0, 10.0, 90.0], [4.0, 2.0, 10.0])
    assert ratio == 5.0  # of 2, 5 and 9; the ratio of the medians would be 2.5


def test_memory_is_that_of_the_command_alone() -> None:
    """A child's peak starts at its parent's where nothing is done about it."""
    ballast = np.ones(700 * 2**17)  # 700 MiB
    found = measured(["config", "experiments/demo/mae.yaml"])
    assert ballast.sum() > 0
    assert 0.01 < found["peak_memory_gib"] < 0.5
    assert 0.05 < found["seconds"] < 60
    assert 0.05 < found["cpu_seconds"] < 60


def test_memory_of_workers_is_added_up() -> None:
    ballast = "import time; held = bytearray(2**28); time.sleep(1.5)"
    parent = (
        "import subprocess, sys\nchildren = [subprocess.Popen([sys.executable, '-c', sys.argv[1]]) for _ in '12']\n"
    )
    parent += "[child.wait() for child in children]"
    done = subprocess.run(
        [sys.executable, "-c", WATCH, sys.executable, "-c", parent, ballast],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    status, seconds, _, peak_gib = json.loads(done.stdout)
    assert status == 0
    assert seconds > 1.5
    assert 0.5 < peak_gib < 0.65  # two of a quarter GiB each, and three interpreters


def test_a_failed_command_is_named(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match=r"iac config nowhere\.yaml ended with status 2"):
        measured(["config", "nowhere.yaml"])
    assert "cannot read settings file nowhere.yaml" in capfd.readouterr().err


def test_bench_writes_each_part_as_it_comes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "bench.json"
    known, seen, sizes = results(), [], []

    def measure(part: str) -> Any:
        seen.append(sorted(json.loads(out.read_text())) if out.exists() else [])
        return known[part]

    def evaluation(folder: Path, models: int, series: int) -> Any:
        sizes.append((models, series))
        return measure("evaluation")

    monkeypatch.setattr(workflow, "bench_patches", lambda folder: measure("patches"))
    monkeypatch.setattr(workflow, "bench_mae_step", lambda: measure("mae_step"))
    monkeypatch.setattr(workflow, "bench_settings", lambda: measure("settings"))
    monkeypatch.setattr(workflow, "bench_evaluation", evaluation)
    monkeypatch.setattr(workflow, "bench_import", lambda folder: measure("import"))
    monkeypatch.setattr(workflow, "bench_scan", lambda folder, *rest: measure("scan") if rest == scan else None)
    scan = (Path("ct"), Path("t"), None)
    workflow.bench(out, *scan, 10, 500)
    assert [len(names) for names in seen] == [0, 3, 4, 5, 6, 7]  # the machine and the date stand beside them
    assert sizes == [(10, 500)]
    saved = json.loads(out.read_text())
    assert {part: saved[part] for part in saved if part in known} == {**known, "machine": saved["machine"]}
    assert saved["machine"]["torch"] == torch.__version__
    assert "predict one scan" in capsys.readouterr().out
    workflow.bench(out, None, None, None, parts=["settings"])
    assert set(json.loads(out.read_text())) == {"machine", "date", "settings"}


def test_a_run_of_random_weights_can_predict(tmp_path: Path) -> None:
    hu = np.random.default_rng(0).integers(-1000, 200, (40, 32, 12)).astype(np.int16)
    write_nifti(Volume(hu, Grid((40, 32, 12), np.diag([2.0, 2.0, 4.0, 1.0]))), tmp_path / "scan.nii.gz")
    result = predict(
        tmp_path / "scan.nii.gz", tmp_path / "out", load_calibrated(load_run(workflow.throwaway_run(tmp_path)))
    )
    assert result["threshold"] == 0.5
    assert (tmp_path / "out" / "mask.nii.gz").exists()


def test_the_scan_is_prepared_and_predicted_by_whole_commands(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    commands: list[list[str]] = []

    def note(command: list[str]) -> dict[str, float]:
        commands.append(command)
        return {"seconds": 1.0}

    monkeypatch.setattr(workflow, "measured", note)
    workflow.bench_scan(tmp_path, Path("scan.nii.gz"), Path("t.nii.gz"), Path("runs/a"))
    prepare, predict = commands
    assert prepare[:2] == ["prepare", "experiments/demo/mae.yaml"]
    assert "data.grid.template=t.nii.gz" in prepare
    assert predict[:3] == ["predict", "scan.nii.gz", str(tmp_path / "prediction")]
    assert predict[3:] == ["--run", "runs/a", "--allow-phantom-model", "--template", "t.nii.gz"]
    text = (tmp_path / "scan.csv").read_text()
    assert str(Path("scan.nii.gz").absolute()) in text
