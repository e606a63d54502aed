"""Ways to make a model look better than it is: each is refused, or said where the figures stand."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch

from data_modules.batches.ct_data_module import CTDataModule
from data_modules.cohort.registry import FOLDER, HOME
from data_modules.cohort.table import read_cohort
from data_modules.errors import UserError
from data_modules.prepare.preparation import prepare_cohort
from iac_lightning.config.reading import load_experiment
from iac_lightning.modules.callbacks import RunRecord
from iac_lightning.modules.rule_module import RuleModule, count_prior
from iac_lightning.report.models.guard import guard_section
from iac_lightning.runs.directory import load_run, open_run
from iac_lightning.runs.looks import record_look
from iac_lightning.runs.signatures import sign
from iac_lightning.workflows.calibrate import calibrate_run
from iac_lightning.workflows.evaluate import describe_evaluation, evaluate
from iac_lightning.workflows.external.evaluate import evaluate_predictions
from iac_lightning.workflows.guard import guard_sentences
from iac_lightning.workflows.trained import load_trained, refuse_known_patients
from tests.integration.settings import REPOSITORY

RUN, TABLE = Path("runs/rule"), Path("data/cohort.csv")
SETTINGS = (
    "name=rule",
    f"data.cohort={TABLE}",
    "runs_dir=runs",
    "data.prepare_workers=1",
    "data.grid.spacing_mm=[1.6,1.6,3.2]",
    "evaluation.workers=1",
    "tracking.enabled=false",
    "trainer.accelerator=cpu",
)


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory, phantom_cohort: Path) -> Iterator[Path]:
    """A cohort of real patients, as far as its table says, and a rule that has counted, evaluated on its test split."""
    base = tmp_path_factory.mktemp("honest")
    shutil.copytree(phantom_cohort.parent, base / "data", copy_function=os.link, ignore=lambda *_: ["prepared"])
    table = pd.read_csv(phantom_cohort, dtype=str, keep_default_na=False).drop(columns="true_volume_mm3")
    for row in table.itertuples():
        assert row.label or row.split == "pretrain"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(base)
        patch.setenv(HOME, str(base / "own"))
        for name in ("cohort.csv", "split_salt"):
            (base / "data" / name).unlink(missing_ok=True)
        table.to_csv(TABLE, index=False)
        config = load_experiment(REPOSITORY / "experiments/baselines/rule.yaml", SETTINGS)
        with open_run(config) as run:
            data = CTDataModule(config.data, "segment", config.seed, config.loss.restrict_hu)
            data.prepare_data()
            data.setup()
            module = RuleModule(config)
            module.model.logits.copy_(torch.from_numpy(count_prior(data.train_series, config)))
            RunRecord(run, None).setup(SimpleNamespace(datamodule=data, is_global_zero=True), module, "fit")  # type: ignore[arg-type]
            checkpoint: dict[str, Any] = {"state_dict": module.state_dict()}
            module.on_save_checkpoint(checkpoint)
            torch.save(checkpoint, run.checkpoints_dir / "best.ckpt")
        evaluate(load_run(RUN), "test")
        yield base


@pytest.fixture
def table(evaluated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> pd.DataFrame:
    """The cohort's table in a copy of everything, which is the working directory."""

    def copied(source: str, target: str) -> None:
        (os.link if source.endswith((".gz", ".npy", ".ckpt")) else shutil.copy2)(source, target)

    shutil.copytree(evaluated, tmp_path / "all", copy_function=copied)
    monkeypatch.chdir(tmp_path / "all")
    monkeypatch.setenv(HOME, str(tmp_path / "all" / "own"))
    return pd.read_csv(TABLE, dtype=str, keep_default_na=False)


def save(table: pd.DataFrame, path: Path = TABLE) -> None:
    path.unlink(missing_ok=True)
    table.to_csv(path, index=False)


def patient(table: pd.DataFrame, split: str) -> str:
    return str(table[table["split"] == split]["patient_id"].iloc[0])


def judge() -> list[str]:
    """What is said of the run after it was evaluated on the test split once more."""
    summary = evaluate(load_run(RUN), "test")
    found = summary["guard"]["findings"]
    assert all(sentence in describe_evaluation(summary) for sentence in found)
    return list(found)


def known() -> list[str]:
    """What the guard against leakage says of the test split, before anything of it is predicted."""
    run = load_run(RUN)
    look = record_look(Path("elsewhere"), "evaluate", "test", "", None)
    return refuse_known_patients(prepare_cohort(run.config.data, ("test",), look=look).split("test"), load_trained(run))


def page() -> str:
    """What a page would say of the run's last evaluation."""
    summary = json.loads((RUN / "evaluation/test.json").read_text())
    section = guard_section("", {"rule": guard_sentences(RUN, summary, "test", TABLE)})
    return "\n".join(row[1] for row in section.tables[0].rows) if section else ""  # type: ignore[misc]


def predictions(table: pd.DataFrame, source: Callable[[Any], Path]) -> Path:
    folder = Path("predictions")
    folder.mkdir()
    for row in table[table["split"] == "test"].itertuples():
        shutil.copyfile(source(row), folder / f"{row.series_id}.nii.gz")
    return folder


def masks(table: pd.DataFrame) -> Path:
    return predictions(table, lambda row: RUN / "predictions/test" / f"{row.series_id}_mask.nii.gz")


def test_honest_work_is_not_disturbed(table: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert judge() == []
    assert page() == ""
    shutil.move(tmp_path / "all", tmp_path / "moved")  # the whole project
    monkeypatch.chdir(tmp_path / "moved")
    assert judge() == []
    assert page() == ""


# Patients who are not whom they seem to be ---------------------------------------------------------------------------


def stored_otherwise(way: str, source: Path, target: Path) -> None:
    if way in ("copied", "linked"):
        (shutil.copyfile if way == "copied" else os.link)(source, target)
        return
    image = nib.load(source)
    voxels, affine = np.asanyarray(image.dataobj), image.affine.copy()
    if way == "another header":
        affine[:3, 3] += (30, -20, 5)
    elif way == "mirrored":
        voxels = voxels[::-1]
    elif way == "turned":
        voxels, affine = voxels.transpose(1, 0, 2), affine[:, [1, 0, 2, 3]]
    elif way == "a part of its slices":
        voxels = voxels[:, :, 1:-1]
        affine[:3, 3] += affine[:3, 2]
    elif way == "brighter":
        voxels = voxels + (voxels > -900) * 12 if "image" in source.parts[-2] else voxels
    nib.save(nib.Nifti1Image(np.ascontiguousarray(voxels).astype(np.int16), affine), target)


def under_a_new_id(table: pd.DataFrame, way: str) -> pd.DataFrame:
    """The table with the first fine-tuning scan once more, in the test split, under a new patient id."""
    row = table[table["split"] == "finetune"].iloc[0].copy()
    row["patient_id"], row["series_id"], row["split"] = "N1", "N1_S1", "test"
    for column in ("image", "label"):
        target = f"{Path(row[column]).parent}/N1_{column}.nii.gz"
        stored_otherwise(way, TABLE.parent / row[column], TABLE.parent / target)
        row[column] = target
    return pd.concat([table, row.to_frame().T])


@pytest.mark.parametrize("way", ["copied", "linked", "another header", "mirrored", "turned", "a part of its slices"])
def test_a_trained_scan_under_a_new_id(table: pd.DataFrame, way: str) -> None:
    save(under_a_new_id(table, way))
    with pytest.raises(
        UserError, match=r"scans of 1 of 4 patients .* were seen in training, such as of N1: the voxels"
    ):
        judge()


def test_a_scan_under_two_ids_is_refused_wherever_both_are_read(table: pd.DataFrame) -> None:
    save(under_a_new_id(table, "copied").replace({"split": {"test": "dev"}}))
    with pytest.raises(UserError, match=r"'N1', dev.* are one image, or parts of one, by their voxels"):
        prepare_cohort(load_run(RUN).config.data, ("finetune", "dev"))


def test_a_trained_scan_with_other_values(table: pd.DataFrame) -> None:
    save(under_a_new_id(table, "brighter"))
    assert "1 pairs of scans of two patients look like one image, the other one of finetune." in judge()


@pytest.mark.parametrize("renamed", [str.lower, lambda p: p.replace("P0", "P"), lambda p: f"{p[0]}_{p[1:]}"])
def test_a_trained_patient_under_an_id_that_is_alike(table: pd.DataFrame, renamed: Callable[[str], str]) -> None:
    rows = table["patient_id"] == patient(table, "finetune")
    other = table.loc[table["split"] == "test", "image"].iloc[0]
    table.loc[rows, ["patient_id", "split"]] = renamed(patient(table, "finetune")), "test"
    stored_otherwise("brighter", TABLE.parent / table.loc[rows, "image"].iloc[0], TABLE.parent / f"{other}.2.nii.gz")
    table.loc[rows, "image"] = f"{other}.2.nii.gz"  # so that it is not known by its voxels
    save(table)
    with pytest.raises(UserError, match="1 of 4 patients to evaluate on were seen in training"):
        judge()


def test_two_ids_in_one_table_that_are_alike(table: pd.DataFrame) -> None:
    table.loc[table["patient_id"] == patient(table, "finetune"), "patient_id"] = "AB9"
    table.loc[table["patient_id"] == patient(table, "test"), "patient_id"] = "A_B09"
    save(table)
    with pytest.raises(UserError, match=r"'AB9' .*'A_B09'|'A_B09' .*'AB9'.*are these one patient"):
        read_cohort(TABLE)


def test_a_development_patient_moved_to_test(table: pd.DataFrame) -> None:
    moved = table.copy()
    moved.loc[moved["patient_id"] == patient(table, "dev"), "split"] = "test"
    save(moved)
    with pytest.raises(UserError, match="1 of 4 patients to evaluate on were used to choose its checkpoint"):
        known()
    save(table)
    assert judge() == []


def test_a_trained_patient_moved_to_test_with_the_salt_gone(table: pd.DataFrame) -> None:
    moved = table.copy()
    moved.loc[moved["patient_id"] == patient(table, "finetune"), "split"] = "test"
    save(moved)
    Path("data/split_salt").unlink()
    with pytest.raises(UserError, match=r"scans of 1 of 4 patients .* were seen in training"):
        judge()
    save(table)
    found = "\n".join(judge())
    assert (
        "another split_salt: whether it has seen the evaluated patients can be verified by their scans alone" in found
    )
    assert "split_salt was made anew since a look on" in found


def test_a_checkpoint_that_has_forgotten_whom_it_saw(table: pd.DataFrame) -> None:
    path = RUN / "checkpoints/best.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    checkpoint["iac"]["trained_on"] = []
    path.unlink()
    torch.save(checkpoint, path)
    assert "the checkpoint of rule does not say whom it has seen: nothing is verified." in known()


# Choices made on the test split --------------------------------------------------------------------------------------


def test_a_threshold_tuned_where_test_and_dev_are_swapped(table: pd.DataFrame) -> None:
    swapped = Path("swapped/data")
    shutil.copytree("data", swapped, copy_function=os.link, ignore=lambda *_: [FOLDER])
    save(table.replace({"split": {"test": "dev", "dev": "test"}}), swapped / "cohort.csv")
    run = load_run(RUN)
    run.config.data.cohort = str(swapped / "cohort.csv")
    calibrate_run(run)
    said = "3 of 3 scans of the test set were used to choose checkpoints, calibration or thresholds (as split 'dev'"
    assert said in page()


def test_a_calibration_edited_by_hand(table: pd.DataFrame, capsys: pytest.CaptureFixture[str]) -> None:
    path = RUN / "calibration.json"
    whole = json.loads(path.read_text())
    path.write_text(json.dumps(whole | {"temperature": 9.0}))
    assert judge() == []
    assert "calibration.json was changed after it was written; it is made again" in capsys.readouterr().out
    assert json.loads(path.read_text())["temperature"] == whole["temperature"]


def test_a_threshold_given_by_hand(table: pd.DataFrame) -> None:
    folder = predictions(table, lambda row: RUN / "predictions/test" / f"{row.series_id}_probability.nii.gz")
    found = evaluate_predictions(folder, TABLE, "test", Path("out"), threshold=0.3, workers=1)["guard"]["findings"]
    assert "The threshold 0.3 was given by hand: nothing shows that it was not chosen on the test split." in found


def test_looks_spread_over_folders_and_names(table: pd.DataFrame) -> None:
    folder = masks(table)
    for k in range(2):
        summary = evaluate_predictions(folder, TABLE, "test", Path(f"out{k}"), label=f"model {k}", workers=1)
    assert (summary["guard"]["n_looks"], summary["guard"]["n_models"]) == (3, 2)  # the run's own is one
    found = "\n".join(summary["guard"]["findings"])
    assert "1 of 2 looks with this very model are not in its own record" in found
    assert "looked at under other names before" in found


def test_a_record_of_looks_that_was_deleted(table: pd.DataFrame) -> None:
    (RUN / "test_looks.jsonl").unlink()
    assert "1 of 2 looks with this very model are not in its own record" in "\n".join(judge())


def test_looks_from_another_checkout(table: pd.DataFrame) -> None:
    shutil.copytree(RUN, "elsewhere/rule")
    Path("elsewhere/rule/test_looks.jsonl").unlink()
    summary = evaluate(load_run(Path("elsewhere/rule")), "test")
    assert summary["guard"]["n_looks"] == 2
    assert "1 of 2 looks with this very model" in "\n".join(summary["guard"]["findings"])


def test_a_registry_that_was_deleted_or_changed(table: pd.DataFrame) -> None:
    shutil.rmtree(TABLE.parent / FOLDER)
    assert "1 looks at this test set are missing from the registry beside the cohort table" in page()
    (file,) = Path("own").glob("*.registry.jsonl")
    lines = file.read_text().splitlines()
    file.write_text("\n".join(lines[:1] + lines[2:]) + "\n")
    assert "The registry of the test set was changed by hand (own/" in page()
    shutil.rmtree("own")
    assert "The registry of the test set is missing" in page()


# A test set that is made easier ---------------------------------------------------------------------------------------


def test_hard_scans_taken_out_after_a_look(table: pd.DataFrame) -> None:
    save(table[table["patient_id"] != patient(table, "test")])
    assert "another one than was looked at on" in "\n".join(judge())
    assert "1 of its 3 scans were taken out, 0 put in." in page()


def test_labels_changed_after_a_look(table: pd.DataFrame) -> None:
    row = table[table["split"] == "test"].iloc[0]
    path = TABLE.parent / row["label"]
    path.unlink()
    shutil.copyfile(RUN / "predictions/test" / f"{row['series_id']}_mask.nii.gz", path)
    assert "The labels of 1 of 3 scans were changed since a look on" in "\n".join(judge())


# Figures that no model has made --------------------------------------------------------------------------------------


def test_labels_handed_in_as_predictions(table: pd.DataFrame) -> None:
    folder = predictions(table, lambda row: TABLE.parent / row.label)
    summary = evaluate_predictions(folder, TABLE, "test", Path("out"), workers=1)
    assert "predictions with lesions are their labels, voxel for voxel" in "\n".join(summary["guard"]["findings"])


def test_a_table_edited_by_hand(table: pd.DataFrame) -> None:
    path = RUN / "evaluation/test.csv"
    values = pd.read_csv(path)
    values["dice"] = 0.95
    values.to_csv(path, index=False)
    assert "evaluation/test.csv was changed after it was written." in page()
    sign(RUN, [path], TABLE)  # whoever has the salt can sign, and the registry still knows better
    assert page() == "evaluation/test.csv is not the table that the registry of the test set saw when it was evaluated."
    (RUN / "signatures.json").unlink()
    assert "is not signed: it was written by an earlier version, or its signature was taken away" in page()
