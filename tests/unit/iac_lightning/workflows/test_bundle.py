"""A bundle stands alone, predicts what its run predicts, and is refused unless it is what was exported."""

from __future__ import annotations

import json
import os
import pickle
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save

from data_modules.errors import UserError
from data_modules.files import sha256
from iac_lightning.cli import main
from iac_lightning.runs.directory import Run
from iac_lightning.workflows import bundle as workflow
from iac_lightning.workflows.bundle import export_bundle, load_bundle
from iac_lightning.workflows.bundle_files import CARD, FILES, MANIFEST, SETTINGS, WEIGHTS
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
        (path / MANIFEST).write_text(json.dumps(manifest | {"format_version": 3}))
    elif how == "manifest cut off":
        (path / MANIFEST).write_text((path / MANIFEST).read_text()[:40])
    elif how == "unlisted":
        del manifest["sha256"][WEIGHTS]
        (path / MANIFEST).write_text(json.dumps(manifest))
    elif how == "other network":  # whole by its manifest, and not a model of this version
        settings = json.loads((path / SETTINGS).read_text())
        settings["settings"]["model"]["decoder"]["channels"] *= 2
        (path / SETTINGS).write_text(json.dumps(settings))
        manifest["sha256"][SETTINGS] = sha256(path / SETTINGS)
        (path / MANIFEST).write_text(json.dumps(manifest))
    else:
        shutil.rmtree(path)


@pytest.mark.parametrize(
    ("how", "complaint"),
    [
        ("cut off", f"{WEIGHTS}: is not the file that was exported"),
        ("changed", "calibration.json: is not the file that was exported"),
        ("missing", f"{CARD}: is missing from the bundle"),
        ("newer", "a bundle of format 3; this version reads up to 2. Update iac-lightning"),
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


def test_a_gpu_multiplies_for_a_bundle_as_for_its_run(exported: Path, trained_run: Run) -> None:
    """Bundles of before, which do not say it, came from runs that did not either (`keys.BEFORE_STORED`)."""
    told: list[str] = []
    with pytest.MonkeyPatch.context() as patched:
        for module in ("bundle", "trained"):
            patched.setattr(
                f"iac_lightning.workflows.{module}.set_matmul_precision", lambda precision, _: told.append(precision)
            )
        load_bundle(exported)
        load_calibrated(trained_run)
    assert told == ["high", "high"]


def test_settings_are_those_of_prediction_alone(trained_run: Run, exported: Path) -> None:
    text = (exported / SETTINGS).read_text()
    settings = json.loads(text)["settings"]
    assert set(settings) == {"task", "model", "data", "loss", "trainer", "inference"}
    assert settings["trainer"] == {"matmul_precision": "high"}
    for word in (
        "cohort",
        "template",
        "optimizer",
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


def reseal(bundle: Path, name: str, content: bytes) -> None:
    """Give a file other content, and the manifest its sum: whoever makes a bundle can write both."""
    (bundle / name).write_bytes(content)
    manifest = json.loads((bundle / MANIFEST).read_text())
    manifest["sha256"][name] = sha256(bundle / name)
    (bundle / MANIFEST).write_text(json.dumps(manifest))


def with_value(content: Any, key: str, value: Any) -> Any:
    """A copy of nested values with another one at a dotted key."""
    first, _, rest = key.partition(".")
    return {**content, first: with_value(content.get(first, {}), rest, value) if rest else value}


@pytest.mark.parametrize(
    ("name", "key", "value", "complaint"),
    [
        (SETTINGS, "name", "leak-${oc.env:SECRET}", "taken as they are written"),
        (SETTINGS, "name", "${seed}", "taken as they are written"),
        (SETTINGS, "name", "../../up", "not a safe folder name"),
        (SETTINGS, "name", 7, "has no name and settings"),
        (SETTINGS, "settings", [], "has no name and settings"),
        (SETTINGS, "settings.extends", "/etc/hostname", "extends: unknown key"),
        (SETTINGS, "settings.${oc.env:SECRET}", 1, "unknown key"),
        (SETTINGS, "settings.data.grid.template", "/etc/hostname", "data.grid.template: no setting of prediction"),
        (SETTINGS, "settings.runs_dir", "/tmp", "runs_dir: no setting of prediction"),
        (SETTINGS, "settings.data.window_hu", [1000, -200], "data.window_hu = [1000.0, -200.0]: out of range"),
        (SETTINGS, "settings.data.grid.spacing_mm", [0, 1, 1], "data.grid.spacing_mm"),
        (SETTINGS, "settings.data.sampling.crop", [-48, 48, 32], "data.sampling.crop"),
        (SETTINGS, "settings.data.sampling.crop", [4096, 4096, 4096], "and at most"),
        (SETTINGS, "settings.inference.overlap", -0.5, "inference.overlap = -0.5: out of range"),
        (SETTINGS, "settings.inference.window_batch", 10**9, "voxels, and at most"),
        (SETTINGS, "settings.model.vit.dim", 10**6, "model.vit.dim = 1000000: out of range"),
        (SETTINGS, "settings.model.vit.dim", 48000, "its settings describe another network than its weights"),
        (SETTINGS, "settings.model.vit.depth", True, "model.vit.depth = true: expected a whole number"),
        (SETTINGS, "settings.loss.restrict_hu", 10**400, "loss.restrict_hu"),
        (SETTINGS, "settings.task", "pretrain", "a pre-training, which segments nothing"),
        (SETTINGS, "checkpoint_sha256", "0" * 16, "not of the same weights"),
        (SETTINGS, "checkpoint_sha256", ["x"], "not of the same weights"),
        ("calibration.json", "temperature", 0, "temperature 0"),
        ("calibration.json", "temperature", -1.0, "temperature -1.0"),
        ("calibration.json", "plain_threshold", 2, "threshold 2"),
        ("calibration.json", "checkpoint_sha256", "0" * 16, "not of the same weights"),
    ],
)
def test_values_that_no_model_has_are_refused_though_the_sums_are_right(
    name: str, key: str, value: Any, complaint: str, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET", "hunter2")
    reseal(bundle, name, json.dumps(with_value(json.loads((bundle / name).read_text()), key, value)).encode())
    with pytest.raises(UserError, match=re.escape(complaint)) as caught:
        load_bundle(bundle)
    assert "hunter2" not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        (SETTINGS, b"[]", "has no name and settings"),
        (SETTINGS, b"[" * 10**5, "not JSON as it was exported"),
        (SETTINGS, b'{"name": ' + b"9" * 5000 + b"}", "not JSON as it was exported"),
        (SETTINGS, b" " * 2**21, "holds 2,097,152 bytes, and at most 1,048,576 are read"),
        ("calibration.json", b'{"temperature": NaN}', "NaN is no number"),
        ("calibration.json", b'{"temperature": 1e400}', "1e400 is no number that can be reckoned with"),
        ("trained_on.json", b'{"salt_id": 1}', "does not say whom the model has learnt from"),
        ("trained_on.json", b'[{"salt_id": "a", "hashes": [1]}]', "does not say whom the model has learnt from"),
        ("trained_on.json", b"\xff", "not JSON as it was exported"),
        (WEIGHTS, b"", "is not a file of weights"),
        (WEIGHTS, b"\xff" * 64, "is not a file of weights"),
        (WEIGHTS, pickle.dumps({"a": 1}), "is not a file of weights"),
    ],
)
def test_files_that_hold_something_else_are_named(name: str, content: bytes, complaint: str, bundle: Path) -> None:
    reseal(bundle, name, content)
    with pytest.raises(UserError, match=re.escape(complaint)) as caught:
        load_bundle(bundle)
    assert f"{bundle / name}: " in str(caught.value)


@pytest.mark.parametrize("how", ["nan", "half", "renamed", "shape"])
def test_weights_that_are_not_those_of_the_network(how: str, bundle: Path) -> None:
    state = load_file(bundle / WEIGHTS)
    first = next(name for name in sorted(state) if state[name].numel() > 1)
    if how == "nan":
        state[first].view(-1)[0] = float("nan")
    elif how == "half":
        state[first] = state[first].half()
    elif how == "renamed":
        state["other"] = state.pop(first)
    else:
        state[first] = state[first].flatten()[:1].clone()
    reseal(bundle, WEIGHTS, save(state))
    complaint = "not finite, such as" if how == "nan" else "another network than its weights"
    with pytest.raises(UserError, match=f"{complaint}.*{first if how != 'renamed' else ''}"):
        load_bundle(bundle)


@pytest.mark.parametrize("name", [*FILES, MANIFEST])
@pytest.mark.parametrize("kind", ["symlink", "hard link", "folder", "fifo"])
def test_a_bundle_holds_plain_files_of_its_own(kind: str, name: str, bundle: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    (bundle / name).rename(elsewhere)
    if kind == "symlink":
        (bundle / name).symlink_to(elsewhere)
    elif kind == "hard link":
        os.link(elsewhere, bundle / name)
    elif kind == "folder":
        (bundle / name).mkdir()
    else:
        os.mkfifo(bundle / name)
    complaint = "not a bundle" if name == MANIFEST else f"{name}: is a link or no plain file"
    with pytest.raises(UserError, match=complaint):
        load_bundle(bundle)


def test_what_does_not_belong_to_a_bundle_is_named_and_kept(bundle: Path, trained_run: Run) -> None:
    (bundle / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"notes\.txt: is no file of a bundle"):
        load_bundle(bundle)
    with pytest.raises(UserError, match=r"holds notes\.txt beside a bundle, which would be lost"):
        export_bundle(trained_run, bundle)
    assert (bundle / "notes.txt").read_text() == "mine"
