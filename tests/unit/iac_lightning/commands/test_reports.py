"""Pages of runs, two runs in the terminal, the browser."""

from __future__ import annotations

from pathlib import Path

import pytest

from iac_lightning.cli import main, parse
from iac_lightning.commands.reports import paths_apart
from tests.unit.iac_lightning.commands.recorder import Recorder


@pytest.mark.usefixtures("a_run")
def test_report(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    report = Recorder(Path("page/index.html"))
    monkeypatch.setattr("iac_lightning.workflows.reports.models.report", report)
    assert main(["report", "runs/a", "runs/b", "--out", "page"]) == 0
    assert report.calls == [([("run", Path("runs/a")), ("run", Path("runs/b"))], Path("page"), "test")]
    assert "page/index.html" in capsys.readouterr().out


def test_settings_stand_among_runs_and_after_options_and_are_forgotten_by_the_next_call() -> None:
    first = parse(["report", "runs/a", "evaluation.coverage=0.8", "--out", "page", "evaluation.coverage=0.9"])
    assert paths_apart(first) == ([Path("runs/a")], ["evaluation.coverage=0.8", "evaluation.coverage=0.9"])
    assert paths_apart(parse(["report", "runs/a", "--out", "page"])) == ([Path("runs/a")], [])


def test_compare_takes_two(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "runs/a"]) == 2
    assert "takes two models, the baseline last; 1 were given" in capsys.readouterr().err


def test_ui(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ui", "--runs-dir", str(tmp_path)]) == 2
    assert "Train first" in capsys.readouterr().err
    served = Recorder(143)
    monkeypatch.setattr("iac_lightning.tracking.server.serve", served)
    assert main(["ui", "--runs-dir", str(tmp_path), "--port", "0"]) == 143
    assert main(["ui"]) == 143
    assert served.calls == [(tmp_path, 0), (Path("runs"), None)]
