"""Bundles and data sets."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from iac_lightning.cli import main
from tests.unit.iac_lightning.commands.recorder import Recorder


@pytest.mark.usefixtures("a_run")
def test_export_is_of_a_run_or_of_a_cohort(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    export, logged = Recorder(Path("b")), Recorder()
    nnunet = Recorder(SimpleNamespace(directory=Path("raw"), n_train=1, n_val=2, n_test=3))
    monkeypatch.setattr("iac_lightning.workflows.bundle.export_bundle", export)
    monkeypatch.setattr("iac_lightning.workflows.mlflow_model.log_bundle", logged)
    monkeypatch.setattr("iac_lightning.workflows.external.nnunet.export_nnunet", nnunet)
    for words in (["runs/a", "b"], ["bundle", "runs/a", "b"]):
        assert main(["export", *words]) == 0
        assert export.calls.pop() == (("run", Path("runs/a")), Path("b"))
        assert logged.calls.pop() == (("run", Path("runs/a")),)
        assert "iac predict SCAN OUT --bundle b" in capsys.readouterr().out
    assert main(["export", "nnunet", "cohort.csv", "raw"]) == 0
    assert nnunet.calls == [(Path("cohort.csv"), Path("raw"), 501, "IAC", False)]
    with pytest.raises(SystemExit):
        main(["export", "--help"])
    assert "iac export RUN OUT" in capsys.readouterr().out
