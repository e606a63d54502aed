"""A figure is on disk before the next one is begun."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks import figures as module
from benchmarks.device import open_device
from benchmarks.figures import Figures, reason, table


def test_each_figure_is_a_line_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "new" / "figures.jsonl"
    for part in ("a", "b"):
        figures = Figures(path, part, open_device("cpu", "32-true"), 60)
        figures.add(ms=1.23456, memory_gib=None)
        last = json.loads(path.read_text().splitlines()[-1])
        assert (last["part"], last["ms"], last["memory_gib"], last["device"]) == (part, 1.23456, None, "CPU")
    assert len(path.read_text().splitlines()) == 2  # those of an earlier run stay
    assert "a ms 1.235  memory_gib –" in capsys.readouterr().out


def test_time_runs_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: clock[0])
    figures = Figures(tmp_path / "f", "a", open_device("cpu", "32-true"), 60)
    clock[0] += 61
    assert figures.seconds_left == -1


def test_what_is_left_out_says_why() -> None:
    assert reason(ModuleNotFoundError("No module named 'monai'", name="monai.networks")) == "MONAI is not installed"
    assert reason(ModuleNotFoundError("…", name="nnssl")) == "nnssl is not installed"
    assert reason(RuntimeError("CUDA out of memory.\nTried …")) == "RuntimeError: CUDA out of memory."
    assert reason(ValueError()) == "ValueError: "
    assert reason(torch.OutOfMemoryError("CUDA out of memory.")) == "does not fit into the device's memory"


def test_only_what_was_not_expected_is_a_failure(tmp_path: Path) -> None:
    figures = Figures(tmp_path / "f", "a", open_device("cpu", "32-true"), 60)
    figures.add(ms=1.0)
    for error in (ModuleNotFoundError("…", name="nnssl"), torch.OutOfMemoryError("…")):
        figures.add(problem=reason(error))
    assert figures.status == 0
    figures.add(problem=reason(ValueError("no")))
    assert figures.status == 1


def test_columns_are_aligned_and_lacks_are_dashes() -> None:
    text = table({"a": "first", "b": "second"}, [{"a": 1.0, "c": 3}, {"a": "longer", "b": 0.123456}])
    assert text.splitlines() == ["first   second", "1       –", "longer  0.1235"]
