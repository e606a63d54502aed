"""A bundle stands alone, predicts what its run predicts, and is refused unless it is what was exported."""

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
from safetensors.torch import load_file

from benchmarks.bench import throwaway_run
from data_modules.errors import UserError
from data_modules.files import write_json_atomic
from data_modules.scan.geometry import Grid, Volume
from data_modules.scan.nifti import write_nifti
from iac_lightning.cli import main
from iac_lightning.runs.directory import Run, load_run
from iac_lightning.tracking import logger as tracking
from iac_lightning.tracking.store import tracking_uri
from iac_lightning.workflows import bundle as workflow
from iac_lightning.workflows import mlflow_model
from iac_lightning.workflows.bundle import CARD, FILES, MANIFEST, SETTINGS, WEIGHTS, export_bundle, load_bundle
from iac_lightning.workflows.calibrate import load_calibrated
from iac_lightning.workflows.predict import OUTPUTS


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    directory = throwaway_run(tmp_path_factory.mktemp("runs"))
    path = directory / "calibration.json"
    known = json.loads(path.read_text())
    write_json_atomic(path, known | {"temperature": 1.3, "bias": 0.2, "threshold": 0.2})  # so that lesions are found
    return load_run(directory)


@pytest.fixture(scope="module")
def exported(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_bundle(run, tmp_path_factory.mktemp("exported") / "bundle")


@pytest.fixture
def bundle(exported: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(exported, tmp_path / "bundle"))


@pytest.fixture(scope="module")
def scan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("scan") / "scan.nii.gz"
    hu = np.random.default_rng(0).integers(-200, 600, (40, 32, 12)).astype(np.int16)
    write_nifti(Volume(hu, Grid((40, 32, 12), np.diag([2.0, 2.0, 4.0, 1.0]))), path)
    return path


def test_it_predicts_what_the_run_predicts_without_the_run(
    run: Run, exported: Path, scan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["--slice-thickness-mm", "4"]
    assert main(["predict", str(scan), str(tmp_path / "run"), "--run", str(run.directory), *words]) == 0
    with monkeypatch.context() as without:
        without.setattr("iac_lightning.runs.directory.load_run", lambda *_: pytest.fail("the run"))
        without.setattr(torch, "load", lambda *_, **__: pytest.fail("unpickled"))
        assert main(["predict", str(scan), str(tmp_path / "bundle"), "--bundle", str(exported), *words]) == 0
    for name in OUTPUTS:
        assert (tmp_path / "bundle" / name).read_bytes() == (tmp_path / "run" / name).read_bytes(), name
    result = json.loads((tmp_path / "bundle" / "result.json").read_text())
    assert result["n_lesions"] > 0
    assert result["checkpoint_sha256"] == load_calibrated(run).checkpoint_sha256


def test_the_same_run_gives_the_same_bytes_and_replaces_its_bundle(run: Run, bundle: Path, tmp_path: Path) -> None:
    before = {name: (bundle / name).read_bytes() for name in (*FILES, MANIFEST)}
    (bundle / WEIGHTS).write_bytes(b"broken")
    export_bundle(run, bundle)
    assert {path.name: path.read_bytes() for path in bundle.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]
    state = load_calibrated(run).network.state_dict()
    saved = load_file(bundle / WEIGHTS)
    assert saved.keys() == state.keys()
    assert all(torch.equal(saved[name], tensor) for name, tensor in state.items())


def test_a_failure_while_exporting_leaves_the_earlier_bundle(
    run: Run, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(workflow, "model_card", full)
    with pytest.raises(UserError, match=r"bundle: the disk has no room for it .* run the same command again"):
        export_bundle(run, bundle)
    load_bundle(bundle)
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


@pytest.mark.parametrize("kind", ["file", "folder", "run"])
def test_what_is_not_a_bundle_is_not_overwritten(kind: str, run: Run, tmp_path: Path) -> None:
    out = run.directory if kind == "run" else tmp_path / "out"
    if kind == "file":
        out.write_text("mine")
    if kind == "folder":
        out.mkdir()
        (out / "manifest.json").write_text('{"format": "other"}')
    with pytest.raises(UserError, match="exists and is not a bundle"):
        export_bundle(run, out)
    assert out.read_text() == "mine" if kind == "file" else list(out.iterdir())


def test_an_empty_folder_may_be_given(run: Run, tmp_path: Path) -> None:
    assert load_bundle(export_bundle(run, tmp_path)).config.name == run.config.name


def damage(path: Path, how: str) -> None:
    manifest = json.loads((path / MANIFEST).read_text())
    if how == "cut off":
        (path / WEIGHTS).write_bytes((path / WEIGHTS).read_bytes()[:-1])
    elif how == "changed":
        calibration = path / "calibration.json"
        calibration.write_text(calibration.read_text().replace('"bias": 0.2', '"bias": 0.3'))
    elif how == "missing":
        (path / CARD).unlink()
    elif how == "newer":
        (path / MANIFEST).write_text(json.dumps(manifest | {"format_version": 2}))
    elif how == "manifest cut off":
        (path / MANIFEST).write_text((path / MANIFEST).read_text()[:40])
    elif how == "unlisted":
        del manifest["sha256"][WEIGHTS]
        (path / MANIFEST).write_text(json.dumps(manifest))
    elif how == "other network":  # whole by its manifest, and not a model of this version
        settings = json.loads((path / SETTINGS).read_text())
        settings["settings"]["model"]["decoder"]["channels"] *= 2
        (path / SETTINGS).write_text(json.dumps(settings))
        manifest["sha256"][SETTINGS] = workflow.sha256(path / SETTINGS)
        (path / MANIFEST).write_text(json.dumps(manifest))
    else:
        shutil.rmtree(path)


@pytest.mark.parametrize(
    ("how", "complaint"),
    [
        ("cut off", f"{WEIGHTS}: is not the file that was exported"),
        ("changed", "calibration.json: is not the file that was exported"),
        ("missing", f"{CARD}: is missing from the bundle"),
        ("newer", "a bundle of format 2; this version reads up to 1. Update iac-lightning"),
        ("manifest cut off", "not a bundle"),
        ("unlisted", "does not list the files of a bundle"),
        ("other network", "does not fit this version of iac-lightning"),
        ("absent", "there is no such folder"),
    ],
)
def test_anything_else_is_refused_in_one_line(
    how: str, complaint: str, bundle: Path, scan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damage(bundle, how)
    assert main(["predict", str(scan), str(tmp_path / "out"), "--bundle", str(bundle)]) == 2
    error = capsys.readouterr().err
    assert complaint in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_settings_are_those_of_prediction_alone(run: Run, exported: Path) -> None:
    text = (exported / SETTINGS).read_text()
    settings = json.loads(text)["settings"]
    assert set(settings) == {"task", "model", "data", "loss", "inference"}
    for word in ("cohort", "template", "optimizer", "trainer", "tracking", "init_from", "runs_dir", str(run.directory)):
        assert word not in text
    config = load_bundle(exported).config
    assert config.data.grid == run.config.data.grid
    assert config.data.sampling.crop == run.config.data.sampling.crop
    assert config.model.decoder == run.config.model.decoder
    assert config.inference == run.config.inference


def test_the_card_tells_figures_of_these_weights_only(run: Run, tmp_path: Path) -> None:
    copy = load_run(Path(shutil.copytree(run.directory, tmp_path / "run")))
    model = load_calibrated(copy)
    assert "The test split was not evaluated with these weights." in workflow.model_card(copy, model)
    figure = {"mean": 0.651, "ci95": [0.62, 0.684]}
    summary = {"checkpoint_sha256": "0" * 16, "n_series": 5, "n_patients": 4, "n_with_lesion": 3, "dice": figure}
    write_json_atomic(copy.directory / "evaluation" / "test.json", summary)
    assert "0.651" not in workflow.model_card(copy, model)
    summary["checkpoint_sha256"] = model.checkpoint_sha256
    write_json_atomic(copy.directory / "evaluation" / "test.json", summary)
    card = workflow.model_card(copy, model)
    assert "| Dice, scans with lesions | 0.651 [0.620; 0.684] | – |" in card
    assert "test: 5 scans of 4 patients, 3 with lesions" in card
    assert "looked at" not in card
    (copy.directory / "test_looks.jsonl").write_text("{}\n{}\n")
    assert "had been looked at 2 times" in workflow.model_card(copy, model)
    assert "The cohort table was not at hand" in card


# --- MLflow -----------------------------------------------------------------------------------------------------

LOADED = """
import sys
import mlflow, pandas as pd
model = mlflow.pyfunc.load_model(sys.argv[1])
import iac_lightning
print(iac_lightning.__file__)
print(model.predict(pd.DataFrame({"path": [sys.argv[2]], "slice_thickness_mm": [4.0]})).to_json())
"""


def test_mlflow_loads_it_and_predicts_the_same(exported: Path, scan: Path, tmp_path: Path) -> None:
    import mlflow

    mlflow_model.save_mlflow_model(exported, tmp_path / "model")
    loaded = mlflow.pyfunc.load_model(str(tmp_path / "model"))
    assert loaded.metadata.signature.inputs.input_names() == ["path", "slice_thickness_mm", "series", "out"]
    assert "volume_mm3" in loaded.metadata.signature.outputs.input_names()
    table = pd.DataFrame({"path": [str(scan), "absent.nii.gz"], "out": [str(tmp_path / "a"), None]})
    rows = loaded.predict(table.assign(slice_thickness_mm=4.0), params={"template": ""})
    assert (
        main(["predict", str(scan), str(tmp_path / "b"), "--bundle", str(exported), "--slice-thickness-mm", "4"]) == 0
    )
    expected = json.loads((tmp_path / "b" / "result.json").read_text())
    for name in mlflow_model.VALUES:
        assert rows.loc[0, name] == expected[name]
    assert (tmp_path / "a/probability.nii.gz").read_bytes() == (tmp_path / "b/probability.nii.gz").read_bytes()
    assert rows.loc[0, "error"] == ""
    assert "no such file" in rows.loc[1, "error"]
    assert np.isnan(rows.loc[1, "volume_mm3"])
    without = loaded.predict(pd.DataFrame({"path": [str(scan)], "slice_thickness_mm": [4.0]}))  # only what is needed
    assert without.loc[0, "volume_mm3"] == expected["volume_mm3"]
    requirements = (tmp_path / "model" / "requirements.txt").read_text().splitlines()
    assert f"torch=={torch.__version__.partition('+')[0]}" in requirements
    assert not [p for p in (tmp_path / "model").rglob("*") if p.suffix in (".pkl", ".pickle", ".pt", ".ckpt", ".pyc")]


@pytest.mark.slow
def test_mlflow_needs_no_checkout_to_load_it(exported: Path, scan: Path, tmp_path: Path) -> None:
    """The code travels with the model, whatever else is installed."""
    mlflow_model.save_mlflow_model(exported, tmp_path / "model")
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", LOADED, str(tmp_path / "model"), str(scan)]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    *_, package, row = done.stdout.splitlines()
    assert Path(package).is_relative_to(tmp_path / "model" / "code")
    assert (
        main(["predict", str(scan), str(tmp_path / "b"), "--bundle", str(exported), "--slice-thickness-mm", "4"]) == 0
    )
    expected = json.loads((tmp_path / "b" / "result.json").read_text())
    assert json.loads(row)["volume_mm3"]["0"] == pytest.approx(expected["volume_mm3"], rel=1e-6)


@pytest.mark.slow
def test_a_tracked_run_keeps_its_model_in_mlflow(run: Run, tmp_path: Path, scan: Path) -> None:
    import mlflow

    copy = load_run(Path(shutil.copytree(run.directory, tmp_path / "runs" / "a")))
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
        assert len(mlflow.pyfunc.load_model(folder).predict(pd.DataFrame({"path": [str(scan)]}))) == 1
        mlflow_model.log_bundle(copy)  # `iac export`
    assert not (copy.directory / "mlflow_model").exists()
    assert not list(copy.directory.glob(".*.tmp"))


def test_a_model_that_mlflow_cannot_get_is_a_warning(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    copy = load_run(Path(shutil.copytree(run.directory, tmp_path / "a")))

    def broken(*_: Any) -> None:
        raise ImportError("no mlflow")

    monkeypatch.setattr(mlflow_model, "save_mlflow_model", broken)
    with caplog.at_level(logging.WARNING):
        mlflow_model.log_trained(copy, tracking.RunLogger(copy))
        mlflow_model.log_trained(copy, None)
    assert caplog.text.count("was not stored (no mlflow)") == 1
