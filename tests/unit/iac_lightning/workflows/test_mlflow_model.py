"""The bundle as MLflow keeps, loads and serves it."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from iac_lightning.cli import main
from iac_lightning.runs.directory import Run, load_run
from iac_lightning.tracking import logger as tracking
from iac_lightning.tracking.store import tracking_uri
from iac_lightning.workflows import mlflow_model

LOADED = """
import sys
import mlflow, pandas as pd
model = mlflow.pyfunc.load_model(sys.argv[1])
import iac_lightning
print(iac_lightning.__file__)
print(model.predict(pd.DataFrame({"path": [sys.argv[2]], "slice_thickness_mm": [4.0]})).to_json())
"""


def test_mlflow_loads_it_and_predicts_the_same(exported: Path, small_scan: Path, tmp_path: Path) -> None:
    import mlflow

    mlflow_model.save_mlflow_model(exported, tmp_path / "model")
    loaded = mlflow.pyfunc.load_model(str(tmp_path / "model"))
    assert loaded.metadata.signature.inputs.input_names() == ["path", "slice_thickness_mm", "series", "out"]
    assert "volume_mm3" in loaded.metadata.signature.outputs.input_names()
    table = pd.DataFrame({"path": [str(small_scan), "absent.nii.gz"], "out": [str(tmp_path / "a"), None]})
    rows = loaded.predict(table.assign(slice_thickness_mm=4.0), params={"template": ""})
    assert (
        main(["predict", str(small_scan), str(tmp_path / "b"), "--bundle", str(exported), "--slice-thickness-mm", "4"])
        == 0
    )
    expected = json.loads((tmp_path / "b" / "result.json").read_text())
    for name in mlflow_model.VALUES:
        assert rows.loc[0, name] == expected[name]
    assert (tmp_path / "a/probability.nii.gz").read_bytes() == (tmp_path / "b/probability.nii.gz").read_bytes()
    assert rows.loc[0, "error"] == ""
    assert "no such file" in rows.loc[1, "error"]
    assert np.isnan(rows.loc[1, "volume_mm3"])
    without = loaded.predict(
        pd.DataFrame({"path": [str(small_scan)], "slice_thickness_mm": [4.0]})
    )  # only what is needed
    assert without.loc[0, "volume_mm3"] == expected["volume_mm3"]
    requirements = (tmp_path / "model" / "requirements.txt").read_text().splitlines()
    assert f"torch=={torch.__version__.partition('+')[0]}" in requirements
    assert not [p for p in (tmp_path / "model").rglob("*") if p.suffix in (".pkl", ".pickle", ".pt", ".ckpt", ".pyc")]


@pytest.mark.slow
def test_mlflow_needs_no_checkout_to_load_it(exported: Path, small_scan: Path, tmp_path: Path) -> None:
    """The code travels with the model, whatever else is installed."""
    mlflow_model.save_mlflow_model(exported, tmp_path / "model")
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", LOADED, str(tmp_path / "model"), str(small_scan)]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    *_, package, row = done.stdout.splitlines()
    assert Path(package).is_relative_to(tmp_path / "model" / "code")
    assert (
        main(["predict", str(small_scan), str(tmp_path / "b"), "--bundle", str(exported), "--slice-thickness-mm", "4"])
        == 0
    )
    expected = json.loads((tmp_path / "b" / "result.json").read_text())
    assert json.loads(row)["volume_mm3"]["0"] == pytest.approx(expected["volume_mm3"], rel=1e-6)


@pytest.mark.slow
def test_a_tracked_run_keeps_its_model_in_mlflow(trained_run: Run, tmp_path: Path, small_scan: Path) -> None:
    import mlflow

    copy = load_run(Path(shutil.copytree(trained_run.directory, tmp_path / "runs" / "a")))
    mlflow_model.log_bundle(copy)  # was never tracked
    assert copy.mlflow_run_id is None
    copy.config.tracking.enabled = True
    copy.config.runs_dir = str(tmp_path / "runs")
    logger = tracking.start_logger(copy)
    mlflow_model.log_trained(copy, logger)
    tracking.finish(logger, "FINISHED")
    client = mlflow.MlflowClient(tracking_uri(copy.config))
    for _ in range(2):
        assert "model/MLmodel" in [a.path for a in client.list_artifacts(copy.mlflow_run_id, "model")]
        assert client.get_run(copy.mlflow_run_id).info.status == "FINISHED"
        folder = client.download_artifacts(copy.mlflow_run_id, "model", str(tmp_path))
        assert len(mlflow.pyfunc.load_model(folder).predict(pd.DataFrame({"path": [str(small_scan)]}))) == 1
        mlflow_model.log_bundle(copy)  # `iac export`
    assert not (copy.directory / "mlflow_model").exists()
    assert not list(copy.directory.glob(".*.tmp"))


def test_a_model_that_mlflow_cannot_get_is_a_warning(
    trained_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    copy = load_run(Path(shutil.copytree(trained_run.directory, tmp_path / "a")))

    def broken(*_: Any) -> None:
        raise ImportError("no mlflow")

    monkeypatch.setattr(mlflow_model, "save_mlflow_model", broken)
    with caplog.at_level(logging.WARNING):
        mlflow_model.log_trained(copy, tracking.RunLogger(copy))
        mlflow_model.log_trained(copy, None)
    assert caplog.text.count("was not stored (no mlflow)") == 1
