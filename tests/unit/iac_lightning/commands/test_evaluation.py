"""Runs measured and scans segmented: what is called, what is printed."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from iac_lightning.cli import main
from tests.unit.iac_lightning.commands.recorder import Recorder


def test_evaluate(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    figure = {"mean": 0.5, "ci95": [0.4, 0.6]}
    names = ("dice", "sensitivity", "ppv", "lesion_f1", "volume_icc")
    summary = {"run": "cnn", "split": "dev", "n_series": 3, "n_patients": 2, **dict.fromkeys(names, figure)}
    evaluate = Recorder(summary)
    monkeypatch.setattr("iac_lightning.workflows.evaluate.evaluate", evaluate)
    config = SimpleNamespace(trainer=SimpleNamespace(accelerator="cpu"))
    loaded: list[tuple[object, ...]] = []

    def load(path: Path, overrides: list[str]) -> SimpleNamespace:
        loaded.append((path, *overrides))
        return SimpleNamespace(config=config, path=path)

    monkeypatch.setattr("iac_lightning.runs.directory.load_run", load)
    launch = Recorder(None)
    monkeypatch.setattr("iac_lightning.cluster.sharding.launch", launch)
    assert main(["evaluate", "runs/cnn", "--split", "dev"]) == 0
    ((run, split),) = evaluate.calls
    assert (run.path, split) == (Path("runs/cnn"), "dev")
    text = capsys.readouterr().out
    assert "cnn, dev: 3 scans of 2 patients" in text
    assert "dice 0.500 [0.400; 0.600]" in text
    assert "runs/cnn/evaluation/dev.csv" in text
    assert main(["evaluate", "runs/cnn", "inference.mirror=true", "--devices", "3"]) == 0
    assert launch.calls == [("cpu", None), ("cpu", 3)]
    assert loaded == [(Path("runs/cnn"),), (Path("runs/cnn"), "inference.mirror=true")]
    assert evaluate.calls[1][1] == "test"
    assert main(["evaluate", "--predictions", "p", "--cohort", "c.csv", "inference.mirror=true"]) == 2


@pytest.mark.usefixtures("a_run")
def test_predict(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    interval = {"low_mm3": 4.4, "high_mm3": 60.0, "coverage": 0.9}
    risk = {"group": "low", "set": ["low", "medium"]}
    found = {"volume_mm3": 12.34, "n_lesions": 2, "volume_interval": interval, "risk": risk, "interval_holds": False}
    predict = Recorder({"warnings": ["two slices missing"], **found})
    monkeypatch.setattr("iac_lightning.workflows.calibrate.load_calibrated", lambda run: run)
    monkeypatch.setattr("iac_lightning.workflows.bundle.load_bundle", lambda path: ("bundle", path))
    monkeypatch.setattr("iac_lightning.workflows.predict.predict", predict)
    words = ["--run", "runs/a", "--template", "t.nii.gz", "--series", "3", "--slice-thickness-mm", "5"]
    assert main(["predict", "scan", "out", *words]) == 0
    assert predict.calls == [(Path("scan"), Path("out"), ("run", Path("runs/a")), Path("t.nii.gz"), "3", 5.0, False)]
    assert capsys.readouterr().out.splitlines() == [
        "warning: two slices missing",
        "12.3 mm³ in 2 lesions; see out/overlay.png",
        "  90 % interval 4 to 60 mm³; risk group low (the interval touches low, medium), promised for other scans than "
        "this one",
    ]
    assert main(["predict", "scan", "out", "--bundle", "b", "--allow-phantom-model"]) == 0
    assert predict.calls[1] == (Path("scan"), Path("out"), ("bundle", Path("b")), None, None, None, True)
    with pytest.raises(SystemExit):
        main(["predict", "scan", "out", "--bundle", "b", "--run", "runs/a"])


@pytest.mark.usefixtures("a_run")
def test_stress_takes_runs_thicknesses_and_a_page(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stress = Recorder([{"run": "a"}])
    monkeypatch.setattr("iac_lightning.workflows.stress.stress", stress)
    monkeypatch.setattr("iac_lightning.report.stress.describe_stress", lambda summary: f"{summary['run']}: 3 heads")
    assert main(["stress", "runs/a", "runs/b", "--thickness", "2", "5.5", "--split", "dev", "--out", "page"]) == 0
    assert main(["stress", "runs/a"]) == 0
    runs = [("run", Path("runs/a")), ("run", Path("runs/b"))]
    assert stress.calls == [
        (runs, "dev", [2.0, 5.5], Path("page"), 1.0),
        (runs[:1], "test", [1.0, 2.0, 3.0, 5.0, 8.0], None, 1.0),
    ]
    text = capsys.readouterr().out
    for word in ("a: 3 heads", "runs/b/stress/dev.csv", "page/index.html", "runs/a/stress/test.csv"):
        assert word in text


def test_a_run_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["evaluate", str(tmp_path / "a")], ["predict", "x.nii.gz", "out", "--run", str(tmp_path / "a")]):
        assert main(words) == 2
        assert "there is no such directory" in capsys.readouterr().err
