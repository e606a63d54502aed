"""A bundle stands alone, predicts what its run predicts, and is refused unless it is what was exported."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from data_modules.errors import UserError
from iac_lightning.cli import main
from iac_lightning.runs.directory import Run
from iac_lightning.workflows import bundle as workflow
from iac_lightning.workflows.bundle import CARD, FILES, MANIFEST, SETTINGS, WEIGHTS, export_bundle, load_bundle
from iac_lightning.workflows.calibrate import load_calibrated
from iac_lightning.workflows.predict import OUTPUTS


@pytest.fixture
def bundle(exported: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(exported, tmp_path / "bundle"))


def test_it_predicts_what_the_run_predicts_without_the_run(
    trained_run: Run, exported: Path, small_scan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["--slice-thickness-mm", "4"]
    assert main(["predict", str(small_scan), str(tmp_path / "run"), "--run", str(trained_run.directory), *words]) == 0
    with monkeypatch.context() as without:
        without.setattr("iac_lightning.runs.directory.load_run", lambda *_: pytest.fail("the run"))
        without.setattr(torch, "load", lambda *_, **__: pytest.fail("unpickled"))
        assert main(["predict", str(small_scan), str(tmp_path / "bundle"), "--bundle", str(exported), *words]) == 0
    for name in OUTPUTS:
        assert (tmp_path / "bundle" / name).read_bytes() == (tmp_path / "run" / name).read_bytes(), name
    result = json.loads((tmp_path / "bundle" / "result.json").read_text())
    assert result["n_lesions"] > 0
    assert result["checkpoint_sha256"] == load_calibrated(trained_run).checkpoint_sha256


def test_the_same_run_gives_the_same_bytes_and_replaces_its_bundle(
    trained_run: Run, bundle: Path, tmp_path: Path
) -> None:
    before = {name: (bundle / name).read_bytes() for name in (*FILES, MANIFEST)}
    (bundle / WEIGHTS).write_bytes(b"broken")
    export_bundle(trained_run, bundle)
    assert {path.name: path.read_bytes() for path in bundle.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]
    state = load_calibrated(trained_run).network.state_dict()
    saved = load_file(bundle / WEIGHTS)
    assert saved.keys() == state.keys()
    assert all(torch.equal(saved[name], tensor) for name, tensor in state.items())


def test_a_failure_while_exporting_leaves_the_earlier_bundle(
    trained_run: Run, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(workflow, "model_card", full)
    with pytest.raises(UserError, match=r"bundle: the disk has no room for it .* run the same command again"):
        export_bundle(trained_run, bundle)
    load_bundle(bundle)
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


@pytest.mark.parametrize("kind", ["file", "folder", "run"])
def test_what_is_not_a_bundle_is_not_overwritten(kind: str, trained_run: Run, tmp_path: Path) -> None:
    out = trained_run.directory if kind == "run" else tmp_path / "out"
    if kind == "file":
        out.write_text("mine")
    if kind == "folder":
        out.mkdir()
        (out / "manifest.json").write_text('{"format": "other"}')
    with pytest.raises(UserError, match="exists and is not a bundle"):
        export_bundle(trained_run, out)
    assert out.read_text() == "mine" if kind == "file" else list(out.iterdir())


def test_an_empty_folder_may_be_given(trained_run: Run, tmp_path: Path) -> None:
    assert load_bundle(export_bundle(trained_run, tmp_path)).config.name == trained_run.config.name


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
    how: str, complaint: str, bundle: Path, small_scan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damage(bundle, how)
    assert main(["predict", str(small_scan), str(tmp_path / "out"), "--bundle", str(bundle)]) == 2
    error = capsys.readouterr().err
    assert complaint in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_settings_are_those_of_prediction_alone(trained_run: Run, exported: Path) -> None:
    text = (exported / SETTINGS).read_text()
    settings = json.loads(text)["settings"]
    assert set(settings) == {"task", "model", "data", "loss", "inference"}
    for word in (
        "cohort",
        "template",
        "optimizer",
        "trainer",
        "tracking",
        "init_from",
        "runs_dir",
        str(trained_run.directory),
    ):
        assert word not in text
    config = load_bundle(exported).config
    assert config.data.grid == trained_run.config.data.grid
    assert config.data.sampling.crop == trained_run.config.data.sampling.crop
    assert config.model.decoder == trained_run.config.model.decoder
    assert config.inference == trained_run.config.inference
