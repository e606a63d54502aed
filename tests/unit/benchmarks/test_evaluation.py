"""The peer does the same work on the same files, and whole commands are what is timed."""

from __future__ import annotations

from math import isnan
from pathlib import Path
from typing import Any

import pytest

from benchmarks import evaluation as workflow
from benchmarks.evaluation import bench_evaluation, make_table, monai_figures
from data_modules.cohort.table import read_cohort
from iac_lightning.workflows.external.predictions import find_predictions, measure_prediction


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.filterwarnings("ignore:the (ground truth|prediction) of class")
def test_monai_finds_the_same_figures(tmp_path: Path) -> None:
    cohort = make_table(tmp_path, models=2, series=12)
    compared = 0
    for model in ("model0", "model1"):
        found, problems = find_predictions(tmp_path / model, read_cohort(cohort).split("dev"))
        assert not problems
        assert {p.threshold for p in found} == ({None} if model == "model0" else {0.5})
        for prediction in found:
            measured = measure_prediction(prediction)
            assert not isinstance(measured, str)
            row = measured.row
            for prefix, peer in zip(("", "plain_"), monai_figures(prediction), strict=True):
                for name, value in peer.items():
                    if not isnan(value):  # of empty masks, where conventions differ
                        assert row[prefix + name] == pytest.approx(value, rel=1e-4), (prediction.path, prefix, name)
                        compared += 1
    assert compared > 100


def test_every_model_is_evaluated_by_a_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands: list[list[str]] = []

    def note(command: list[str]) -> dict[str, float]:
        commands.append(command)
        return {"seconds": 1.0 + len(commands), "cpu_seconds": 2.0, "peak_memory_gib": float(len(commands))}

    monkeypatch.setattr(workflow, "measured", note)
    monkeypatch.setattr(workflow, "seconds_monai", lambda found: 0.4)
    monkeypatch.setattr(workflow, "seconds_ours", lambda found: 0.1)
    found: dict[str, Any] = bench_evaluation(tmp_path, models=3, series=4)
    assert [command[0] for command in commands] == ["evaluate", "evaluate", "evaluate", "report"]
    assert commands[1][1:3] == ["--predictions", str(tmp_path / "model1")]
    assert commands[3][1:4] == [str(tmp_path / f"model{m}") for m in range(3)]
    assert found["evaluate"] == {"seconds": 2.0 + 3.0 + 4.0, "cpu_seconds": 6.0, "peak_memory_gib": 3.0}
    assert found["report"]["seconds"] == 5.0
    assert found["metrics"] == pytest.approx({"milliseconds": 25.0, "monai_milliseconds": 100.0, "ratio": 4.0})
