"""Two folds from the table to an ensemble of both: who is predicted by whom, and what is refused."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from data_modules.cohort.leakage import seen_patients, split_salt
from data_modules.cohort.table import read_cohort
from data_modules.errors import UserError
from data_modules.prepare.preparation import prepare_cohort
from iac_lightning.cli import main
from iac_lightning.config.reading import load_experiment
from iac_lightning.inference import predict_prepared
from iac_lightning.modules.segmentation_module import SegmentationModule
from iac_lightning.runs.directory import load_run, open_run
from iac_lightning.workflows.calibrate import calibrate_run
from iac_lightning.workflows.ensemble import make_ensemble
from iac_lightning.workflows.train import refuse_known_development
from iac_lightning.workflows.trained import load_trained, predicted, refuse_known_patients
from tests.integration.settings import experiment, overrides

NAMES = ("fold0", "fold1")


@pytest.fixture(scope="module")
def cohort(phantom_cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The phantom with two folds, beside nothing that other tests read."""
    folder = tmp_path_factory.mktemp("folded")
    for name in ("images", "labels"):
        (folder / name).symlink_to(phantom_cohort.parent / name)
    shutil.copy(phantom_cohort, folder / "cohort.csv")
    assert main(["split", str(folder / "cohort.csv"), "--folds", "2"]) == 0
    return folder / "cohort.csv"


@pytest.fixture(scope="module")
def runs(cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CNN of each fold as a training would leave it, with random weights, and the ensemble of both."""
    folder = tmp_path_factory.mktemp("runs")
    for fold, name in enumerate(NAMES):
        more = [f"name={name}", f"data.fold={fold}", f"seed={fold}", "tracking.enabled=false"]
        config = load_experiment(experiment("cnn"), overrides(cohort, folder, *more))
        with open_run(config) as run:
            torch.manual_seed(fold)
            module = SegmentationModule(config)
            trained = prepare_cohort(config.data, ("finetune",)).cohort.patients("finetune")
            module.trained_on = [seen_patients(trained, split_salt(cohort))]
            checkpoint: dict[str, Any] = {"state_dict": module.state_dict()}
            module.on_save_checkpoint(checkpoint)
            torch.save(checkpoint, run.checkpoints_dir / "best.ckpt")
            run.mark_finished({"parameters": 1})
            calibrate_run(run)
    assert main(["ensemble", *(str(folder / name) for name in NAMES), "--name", "both"]) == 0
    return folder


def maps(run: Path, folder: str) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted((run / "predictions" / folder).glob("*_uncalibrated.nii.gz"))}


def test_each_patient_is_held_out_once(cohort: Path, runs: Path) -> None:
    table = read_cohort(cohort)
    concerned = set(table.patients("finetune", "dev"))
    dev = [set(prepare_cohort(load_run(runs / name).config.data).cohort.patients("dev")) for name in NAMES]
    assert dev[0] | dev[1] == concerned
    assert not dev[0] & dev[1]
    counts = [len(load_trained(load_run(runs / name)).trained_on[0]["hashes"]) for name in NAMES]
    assert counts == [len(dev[1]), len(dev[0])]


def test_a_development_patient_is_predicted_by_those_that_have_not_seen_it(runs: Path) -> None:
    together = maps(runs / "both", "dev")
    alone = [maps(runs / name, "dev") for name in NAMES]
    assert together == alone[0] | alone[1]
    assert len(together) == len(alone[0]) + len(alone[1])
    calibration = json.loads((runs / "both" / "calibration.json").read_text())
    assert calibration["n_series"] == len(together)


def test_a_test_patient_is_predicted_by_all_and_the_mean_is_calibrated_once(runs: Path) -> None:
    run = load_run(runs / "both")
    model = load_trained(run)
    store = prepare_cohort(run.config.data, ("pretrain",))
    item = store.split("pretrain")[0]  # like test: nobody's development patient
    (both,) = predicted(model, [item])
    said = [next(predict_prepared(m.network, [item], m.run.config, torch.device("cpu"))) for m in model.members]
    mean = (said[0].data.astype(float) + said[1].data) / 2
    np.testing.assert_allclose(both.data, mean, rtol=1e-6)
    assert np.abs(said[0].data - said[1].data).max() > 1e-3
    assert main(["evaluate", str(runs / "both")]) == 0
    summary = json.loads((runs / "both" / "evaluation" / "test.json").read_text())
    assert summary["checkpoint_sha256"] == model.checkpoint_sha256
    assert main(["report", str(runs / "both"), "--out", str(runs / "report")]) == 0


@pytest.mark.ddp
@pytest.mark.slow  # minutes: a dozen processes
def test_several_processes_say_the_same(runs: Path, tmp_path: Path) -> None:
    tables = []
    for devices in ("1", "2"):
        both = Path(shutil.copytree(runs, tmp_path / devices)) / "both"
        shutil.rmtree(both / "predictions")
        (both / "calibration.json").unlink()
        command = [sys.executable, "-m", "iac_lightning.cli", "evaluate", str(both), "--split", "dev"]
        subprocess.run([*command, "--devices", devices], check=True, timeout=900)
        tables.append((both / "evaluation" / "dev.csv").read_bytes())
    assert tables[0] == tables[1]


def test_a_bundle_holds_all_members(runs: Path, cohort: Path, tmp_path: Path) -> None:
    scan = read_cohort(cohort).split("dev")[0].image
    assert main(["export", str(runs / "both"), str(tmp_path / "bundle")]) == 0
    card = (tmp_path / "bundle" / "MODEL_CARD.md").read_text()
    assert "Ensemble of 2 networks (2 × CNN" in card
    assert all(
        f"- {name}: 3 patients in fine-tuning; seed {k}, fold {k} held out" in card for k, name in enumerate(NAMES)
    )
    for name, source in (("run", runs / "both"), ("bundle", tmp_path / "bundle")):
        assert main(["predict", str(scan), str(tmp_path / f"by_{name}"), f"--{name}", str(source)]) == 0
    first, second = ((tmp_path / f"by_{name}" / "probability.nii.gz").read_bytes() for name in ("run", "bundle"))
    assert first == second


def test_whoever_has_seen_a_patient_is_refused(runs: Path) -> None:
    model = load_trained(load_run(runs / "both"))
    config = load_run(runs / "fold0").config
    seen = load_trained(load_run(runs / "fold1")).trained_on
    with pytest.raises(
        UserError, match=r"init_from: there has seen the development set of this run: pre-train with data.f"
    ):
        refuse_known_development(config, seen, Path("there"))
    dev = prepare_cohort(load_run(runs / "both").config.data, ("dev",)).split("dev")
    refuse_known_patients(dev, model)
    everywhere = [{"salt_id": seen[0]["salt_id"], "hashes": model.trained_on[0]["hashes"]}]
    for member in model.members:
        member.trained_on[:] = everywhere
    with pytest.raises(UserError, match=r"6 of 6 development patients were seen in training by every member"):
        refuse_known_patients(dev, model)


def test_runs_that_do_not_fit_are_no_ensemble(runs: Path, cohort: Path, tmp_path: Path) -> None:
    one, two = (load_run(runs / name) for name in NAMES)
    with pytest.raises(UserError, match="two runs at least, each once"):
        make_ensemble([one, one], "twice")
    two.config.data.window_hu, two.config.data.fold = (-100.0, 900.0), None
    two.config.data.grid.spacing_mm = (1.0, 1.0, 1.0)
    with pytest.raises(UserError) as refused:
        make_ensemble([one, two], "other")
    told = str(refused.value)
    assert r"data.window_hu: [-200.0, 1000.0] in fold0; [-100.0, 900.0] in fold1; expected the same" in told
    assert "data.grid.spacing_mm: " in told
    assert "data.fold: null in fold1, a fold in the others" in told
    one, two = (load_run(runs / name) for name in NAMES)
    with pytest.raises(UserError, match="is an ensemble of other runs"):
        make_ensemble([two, one], "both")
    with pytest.raises(UserError, match="is a run of its own"):
        make_ensemble([one, two], "fold0")
    with pytest.raises(UserError, match="is an ensemble itself; give its members"):
        make_ensemble([one, load_run(runs / "both")], "of ensembles")
    (runs / "fold1" / "finished.json").rename(tmp_path / "finished.json")
    with pytest.raises(UserError, match="fold1: its training is not finished"):
        make_ensemble([one, two], "early")
    (tmp_path / "finished.json").rename(runs / "fold1" / "finished.json")
    shutil.copytree(runs, tmp_path / "moved")  # all of it together
    assert (
        load_trained(load_run(tmp_path / "moved" / "both")).members[0].run.directory.resolve().is_relative_to(tmp_path)
    )
    shutil.copy(tmp_path / "moved/fold0/checkpoints/best.ckpt", tmp_path / "moved/fold1/checkpoints/best.ckpt")
    with pytest.raises(UserError, match="its member fold1 has other weights by now"):
        load_trained(load_run(tmp_path / "moved" / "both"))
    shutil.rmtree(tmp_path / "moved" / "fold1")
    with pytest.raises(UserError, match=r"its member fold1 is not at .* any more"):
        load_trained(load_run(tmp_path / "moved" / "both"))
