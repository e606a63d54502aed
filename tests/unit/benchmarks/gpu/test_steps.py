"""Plain steps come first; an arm that fails ends no other; figures add up."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.gpu import steps as module
from benchmarks.trainer_step import TrainerStep


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_every_network_is_measured_bare_and_in_the_trainer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seconds = iter([0.5, 0.5, 0.5, 0.25, 0.5])
    monkeypatch.setattr(module, "seconds_a_step", lambda *_: (next(seconds), 7))
    monkeypatch.setattr(module, "bare_step", lambda *_: lambda: None)
    monkeypatch.setattr(module, "step_flops", lambda config: (10**9, 10**6))
    monkeypatch.setattr(module, "busy_s", lambda *_: 0.1)
    monkeypatch.setattr("benchmarks.trainer_step.trainer_step", lambda *_: TrainerStep(0.6, 3, 0.01, 0.3, 1.5))
    out = tmp_path / "out.jsonl"
    assert module.main(["--device", "cpu", "--out", str(out), "--peak-tflops", "0.001"]) == 0
    rows = lines(out)
    assert [(r["network"], r["patch"], r["arm"]) for r in rows] == [
        (network, patch, arm)
        for network, patch in (("mae", 8), ("mae", 4), ("mae", 16), ("vit", 8), ("cnn", None))
        for arm in ("bare", "trainer")
    ]
    bare, trainer = rows[6:8]
    assert (bare["ms"], bare["samples_per_s"], bare["busy_share"], bare["to_bare"]) == (250, 8, 0.4, None)
    assert trainer["to_bare"] == pytest.approx(2.4)
    assert trainer["busy_share"] == pytest.approx(0.5)
    assert bare["share_of_peak"] == pytest.approx(8)  # eight samples a second of 1 GFLOP, on a peak of 1 GFLOP/s
    assert trainer["share_of_peak"] == pytest.approx(8 / 2.4)
    assert (trainer["data_wait_share"], trainer["memory_gib"]) == (0.01, 1.5)
    assert "÷ bare" in capsys.readouterr().out


def test_an_arm_that_fails_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> Any:
        raise RuntimeError("CUDA out of memory. Tried to …")

    monkeypatch.setattr(module, "bare_step", broken)
    monkeypatch.setattr(module, "made_series", lambda *_: ((), "pandas is not installed"))
    out = tmp_path / "out.jsonl"
    assert module.main(["--device", "cpu", "--out", str(out), "--networks", "mae", "--patches", "16"]) == 1
    assert [row["problem"] for row in lines(out)] == [
        "RuntimeError: CUDA out of memory. Tried to …",
        "pandas is not installed",
    ]


def test_no_figure_is_begun_when_the_time_is_up(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    assert module.main(["--device", "cpu", "--out", str(out), "--seconds", "-1"]) == 0
    assert not out.exists()
