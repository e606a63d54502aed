"""What is measured how: rates, ratios of pairs, and the memory of a process of its own."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks import bench as workflow
from benchmarks.bench import rate, table, training_step
from benchmarks.process import WATCH, alternate, measured
from data_modules.errors import UserError
from data_modules.scan.geometry import Grid, Volume
from data_modules.scan.scan import write_nifti
from iac_lightning.runs.directory import load_run
from iac_lightning.workflows.calibrate import load_calibrated
from iac_lightning.workflows.predict import predict


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


def test_rate_counts_patches_not_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]

    def batches() -> Iterator[int]:
        for size in itertools.cycle([4, 2]):
            clock[0] += 0.5  # a batch takes half a second
            yield size

    monkeypatch.setattr(workflow.time, "perf_counter", lambda: clock[0])
    assert rate(batches(), 2.0) == pytest.approx(6.0)  # 4 + 2 + 4 + 2 in 2 s
    assert rate(batches(), 2.2) == pytest.approx(16 / 2.5)  # a batch that was begun counts, and so does its time


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


def test_a_step_learns() -> None:
    network = nn.Linear(2, 1)
    before = network.weight.detach().clone()
    step = training_step(network, lambda: network(torch.ones(1, 2)).sum())
    assert step() > 0
    # AdamW's first step has the size of the rate (1e-4), against the gradient's sign, beside a little decay
    torch.testing.assert_close(network.weight.detach(), before * (1 - 1e-6) - 1e-4, rtol=0, atol=1e-6)


def results() -> dict[str, Any]:
    rates = {"patches_per_s": 2000.4, "tio_queue_patches_per_s": 100.2, "ratio": 19.96}
    return {
        "patches": {"bare": rates, "augmented": {**rates, "ratio": 12.0}},
        "mae_step": {"tokens": 2048, "seconds": 0.84, "monai_seconds": 2.1, "ratio": 2.5},
        "evaluation": {
            "models": 2,
            "series": 40,
            "evaluate": {"seconds": 9.0, "cpu_seconds": 12.0, "peak_memory_gib": 0.5},
            "report": {"seconds": 8.0, "cpu_seconds": 7.5, "peak_memory_gib": 0.25},
            "metrics": {"milliseconds": 13.2, "monai_milliseconds": 66.0, "ratio": 5.04},
        },
    }


def test_the_table_names_peers_and_ratios() -> None:
    lines = table(results()).splitlines()
    assert lines[0].split() == ["what", "ours", "peer", "ratio"]
    assert lines[1].split("  ")[0] == "patches/s, bare"
    assert "tio.Queue 100.2" in lines[1]
    assert lines[1].endswith("20.0 × faster")
    assert lines[3].startswith("MAE step, 2048 tokens")
    assert "MONAI 2.10 s" in lines[3]
    assert lines[4].split("  ")[0] == "metrics of a series of 64³ voxels"
    assert "MONAI 66 ms" in lines[4]
    assert lines[4].endswith("5.0 × faster")
    assert lines[5].startswith("evaluate 2 models × 40 series")
    assert "12.0 s of CPU, 0.50 GiB peak" in lines[5]
    assert [" ".join(lines[6].split()[k : k + 5]) for k in (0, 5)] == ["report 2 models × 40", "series 8.0 s 7.5 s"]
    assert len(lines) == 7
    scan = {"prepare": {"seconds": 14.21, "peak_memory_gib": 1.234}, "predict": {"seconds": 18.0, "peak_memory_gib": 2}}
    rows = table({**results(), "scan": scan}).splitlines()
    assert "14.2 s" in rows[7]
    assert "1.23 GiB" in rows[7]
    assert len({row.index("ours") if k == 0 else row[rows[0].index("ours") - 1] for k, row in enumerate(rows)}) == 2


def test_bench_writes_what_it_measured(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    known = results()
    scans: list[Any] = []
    monkeypatch.setattr(workflow, "bench_patches", lambda folder: known["patches"])
    monkeypatch.setattr(workflow, "bench_mae_step", lambda: known["mae_step"])
    sizes: list[Any] = []

    def evaluation(folder: Path, models: int, series: int) -> dict[str, Any]:
        sizes.append((models, series))
        return known["evaluation"]

    monkeypatch.setattr(workflow, "bench_evaluation", evaluation)
    part = {"seconds": 1.0, "peak_memory_gib": 1.0}

    def bench_scan(folder: Path, *rest: Any) -> dict[str, Any]:
        scans.append(rest)
        return {"prepare": part, "predict": part}

    monkeypatch.setattr(workflow, "bench_scan", bench_scan)
    workflow.bench(tmp_path / "bench.json", None, None, None)
    assert "scan" not in json.loads((tmp_path / "bench.json").read_text())
    workflow.bench(tmp_path / "bench.json", Path("ct"), Path("t"), None, 10, 500)
    assert sizes == [(2, 40), (10, 500)]
    assert scans == [(Path("ct"), Path("t"), None)]
    saved = json.loads((tmp_path / "bench.json").read_text())
    assert saved["patches"] == known["patches"]
    assert saved["machine"]["torch"] == torch.__version__
    assert "predict one scan" in capsys.readouterr().out


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
    assert predict[3:] == ["--run", "runs/a", "--template", "t.nii.gz"]
    text = (tmp_path / "scan.csv").read_text()
    assert str(Path("scan.nii.gz").absolute()) in text
