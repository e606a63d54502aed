"""The whole path, small: pre-train, fine-tune, evaluate, predict, report."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch
from torch.nn import Module

from data_modules.cohort.leakage import check_unseen, split_salt
from data_modules.cohort.table import Cohort, read_cohort
from data_modules.errors import UserError
from data_modules.prepare.store import PreparedSeries
from iac_lightning.cli import main
from iac_lightning.evaluation.clinical.conformal import fit_conformal
from iac_lightning.evaluation.tables.controls import COLUMNS
from iac_lightning.inference import predict_prepared
from iac_lightning.modules.mae_module import MAEModule
from iac_lightning.report.words import estimate
from iac_lightning.runs.directory import load_run
from iac_lightning.runs.looks import looks
from iac_lightning.runs.signatures import sign
from iac_lightning.workflows.bundle_files import FILES, WEIGHTS
from iac_lightning.workflows.predict import OUTPUTS
from tests.integration.settings import experiment, overrides
from tests.recomputation import differences


@pytest.fixture(scope="module")
def runs(phantom_cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pre-training, a fine-tuning from it and a CNN, all evaluated on the test split."""
    folder = tmp_path_factory.mktemp("runs")
    settings = overrides(phantom_cohort, folder, "tracking.enabled=false")
    assert main(["pretrain", str(experiment("mae")), *settings]) == 0
    vit = ["finetune", str(experiment("vit_mae")), *settings, f"init_from={folder / 'demo/mae'}"]
    assert main(vit) == 0
    assert main(["finetune", str(experiment("cnn")), *settings]) == 0
    for name in ("vit_mae", "cnn"):
        assert main(["evaluate", str(folder / "demo" / name)]) == 0
    return folder / "demo"


def test_the_encoder_came_from_pretraining(runs: Path) -> None:
    first = (runs / "vit_mae/logs/transfer.txt").read_text().splitlines()[0]
    assert ", 0 resized," in first
    assert not first.startswith("0 loaded")
    seen = torch.load(runs / "vit_mae/checkpoints/best.ckpt", weights_only=True)["iac"]["trained_on"]
    assert len(seen) == 2  # the pre-training's patients, and the fine-tuning's
    assert set(seen[1]["hashes"]) < set(seen[0]["hashes"])


def test_figures_and_history_are_kept(runs: Path) -> None:
    assert (runs / "mae/figures/reconstruction.png").stat().st_size > 10_000
    assert (runs / "cnn/figures/overlay.png").stat().st_size > 10_000
    history = [json.loads(line) for line in (runs / "cnn/logs/history.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in history] == [0, 1, 2]
    assert {"train/loss", "dev/dice", "seconds"} <= set(history[-1])
    assert all(0 < row["train/data_wait_share"] < 1 and row["train/samples_per_s"] > 0 for row in history)
    assert all(0 < row["train/device_busy_share"] <= 1 for row in history)
    finished = json.loads((runs / "cnn/finished.json").read_text())
    assert finished["global_batch"] == load_run(runs / "cnn").config.data.batch_size
    assert finished["learning_rate"] == 3e-3


def test_every_figure_follows_from_the_saved_files(runs: Path, phantom_cohort: Path) -> None:
    table = pd.read_csv(runs / "cnn/evaluation/test.csv")
    summary = json.loads((runs / "cnn/evaluation/test.json").read_text())
    series = {s.series_id: s for s in read_cohort(phantom_cohort).split("test")}
    assert sorted(table["series_id"]) == sorted(series)
    for row in table.to_dict("records"):
        stem = runs / "cnn/predictions/test" / row["series_id"]
        probability = nib.load(f"{stem}_probability.nii.gz")
        mask, plain = (np.asarray(nib.load(f"{stem}_{name}.nii.gz").dataobj) > 0 for name in ("mask", "mask_plain"))
        image = nib.load(series[row["series_id"]].image)
        label = np.asarray(nib.load(series[row["series_id"]].label).dataobj) > 0
        assert probability.shape == image.shape
        np.testing.assert_allclose(probability.affine, image.affine, atol=1e-5)
        np.testing.assert_array_equal(np.asarray(probability.dataobj) >= np.float32(summary["plain_threshold"]), plain)
        total = mask.sum() + label.sum()
        assert row["dice"] == pytest.approx(2 * (mask & label).sum() / total if total else 1)
        voxel = abs(np.linalg.det(image.affine[:3, :3]))
        assert row["plain_volume_mm3"] == pytest.approx(
            plain.sum() * abs(np.linalg.det(image.affine[:3, :3])), rel=1e-4
        )
        assert row["volume_mm3"] == pytest.approx(mask.sum() * voxel, rel=1e-4)
        assert row["label_volume_mm3"] == pytest.approx(label.sum() * voxel, rel=1e-4)
    lesions = table[table["has_lesion"]]
    assert summary["dice"]["mean"] == pytest.approx(lesions["dice"].mean())


def test_the_whole_table_follows_from_the_files_by_plain_numpy(
    runs: Path, phantom_cohort: Path, tmp_path: Path
) -> None:
    for name in ("cnn", "vit_mae"):
        compared, wrong = differences(runs / name, phantom_cohort)
        assert wrong == []
        assert compared > 150
    shutil.copytree(runs / "cnn", tmp_path / "cnn", ignore=shutil.ignore_patterns("checkpoints"))
    table = pd.read_csv(tmp_path / "cnn/evaluation/test.csv")
    table.loc[0, "volume_mm3"] += 0.5
    table.to_csv(tmp_path / "cnn/evaluation/test.csv", index=False)
    told = differences(tmp_path / "cnn", phantom_cohort)[1]
    assert f"{table.loc[0, 'series_id']}: volume_mm3" in told[0]


def test_the_calibration_made_at_the_end_of_training_is_applied(runs: Path, phantom_cohort: Path) -> None:
    calibration = json.loads((runs / "cnn/calibration.json").read_text())
    summary = json.loads((runs / "cnn/evaluation/test.json").read_text())
    applied = summary["calibration"]
    point = applied.pop("operating_point")
    assert applied.items() <= {"file": "calibration.json", **calibration}.items()
    assert point.items() <= calibration["operating_point"].items()
    assert (summary["threshold"], summary["plain_threshold"]) == (point["threshold"], calibration["plain_threshold"])
    assert summary["checkpoint_sha256"] == calibration["checkpoint_sha256"]
    assert main(["evaluate", str(runs / "cnn"), "--split", "dev"]) == 0
    table = pd.read_csv(runs / "cnn/evaluation/dev.csv")
    scores = table["plain_dice"].where(table["has_lesion"], (table["plain_volume_mm3"] == 0).astype(float))
    assert calibration["plain_score"] == pytest.approx(scores.groupby(table["patient_id"]).mean().mean())
    squares = []
    for series in read_cohort(phantom_cohort).split("dev"):
        stem = runs / "cnn/predictions/dev" / series.series_id
        raw, calibrated = (
            np.asarray(nib.load(f"{stem}_{kind}.nii.gz").dataobj, dtype=np.float64)
            for kind in ("uncalibrated", "probability")
        )
        inside = raw > 0
        np.testing.assert_array_equal(inside, calibrated > 0)
        logit = np.log(raw[inside] / (1 - raw[inside])) / calibration["temperature"] + calibration["bias"]
        np.testing.assert_allclose(calibrated[inside], 1 / (1 + np.exp(-logit)), rtol=1e-5)
        label = np.asarray(nib.load(series.label).dataobj) > 0
        row = table.set_index("series_id").loc[series.series_id]
        half = raw >= 0.5
        total = half.sum() + label.sum()
        assert row["uncalibrated_dice"] == pytest.approx(2 * (half & label).sum() / total if total else 1)
        squares.append((calibrated[inside] - label[inside]) ** 2)
    found = json.loads((runs / "cnn/evaluation/dev.json").read_text())["reliability"]["voxels"]
    assert found["after"]["brier"] == pytest.approx(np.concatenate(squares).mean(), rel=1e-5)
    for name in ("ece", "brier", "nll"):
        assert found["before"][name] == pytest.approx(calibration[f"{name}_before"], rel=1e-2)
    assert calibration["nll_after"] <= calibration["nll_before"]


def test_a_vit_is_evaluated_under_its_controls_within_one_look(runs: Path) -> None:
    table = pd.read_csv(runs / "vit_mae/evaluation/test.csv")
    controlled = pd.read_csv(runs / "vit_mae/evaluation/test_controls.csv")
    summary = json.loads((runs / "vit_mae/evaluation/test.json").read_text())
    assert list(controlled.columns) == list(COLUMNS)
    for column in ("series_id", "dice", "plain_dice"):
        assert controlled[column].tolist() == table[column].tolist()
    lesions = controlled[controlled["has_lesion"]]
    assert list(summary["controls"]) == ["mean_tokens", "silenced_attention"]
    for control, found in summary["controls"].items():
        for values, column in ((found, "dice"), (found["plain"], "plain_dice")):
            under = lesions[f"{control}_{column}"].mean()
            assert values["dice"]["mean"] == pytest.approx(under)
            assert values["difference"]["mean"] == pytest.approx(lesions[column].mean() - under)
    evaluated = [entry["what"] for entry in looks(runs / "vit_mae")].count("evaluate")
    assert evaluated == 1
    assert "controls" not in json.loads((runs / "cnn/evaluation/test.json").read_text())
    assert not (runs / "cnn/evaluation/test_controls.csv").exists()


def test_controls_that_were_cut_off_go_on_and_can_be_left_out(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(runs / "vit_mae", tmp_path / "vit_mae")
    folder = tmp_path / "vit_mae/evaluation"
    whole = (folder / "test_controls.csv").read_bytes()
    kept = sorted((tmp_path / "vit_mae/predictions/test").glob("*_mean_tokens.json"))
    name = kept[0].name.removesuffix("_mean_tokens.json")
    kept[0].unlink()
    asked: list[str] = []

    def predicts(network: Module, series: list[PreparedSeries], *rest: Any) -> Iterator[Any]:
        asked.extend(item.series.series_id for item in series)
        return predict_prepared(network, series, *rest)

    monkeypatch.setattr("iac_lightning.workflows.trained.predict_prepared", predicts)
    assert main(["evaluate", str(tmp_path / "vit_mae")]) == 0
    assert asked == [name]
    assert (folder / "test_controls.csv").read_bytes() == whole
    assert main(["evaluate", str(tmp_path / "vit_mae"), "evaluation.controls=false"]) == 0
    assert not (folder / "test_controls.csv").exists()
    assert "controls" not in json.loads((folder / "test.json").read_text())


def test_another_calibration_makes_predictions_anew(runs: Path, phantom_cohort: Path, tmp_path: Path) -> None:
    shutil.copytree(runs / "cnn", tmp_path / "cnn")
    path = tmp_path / "cnn/calibration.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"bias": 0.25}))
    sign(path.parent, [path], phantom_cohort)
    assert main(["evaluate", str(tmp_path / "cnn")]) == 0
    assert json.loads((tmp_path / "cnn/evaluation/test.json").read_text())["calibration"]["bias"] == 0.25
    name = next((runs / "cnn/predictions/test").glob("*_probability.nii.gz")).name
    before, after = (np.asarray(nib.load(f / "predictions/test" / name).dataobj) for f in (runs / "cnn", path.parent))
    assert (before > 0).any()
    assert (before[before > 0] != after[before > 0]).any()


def test_evaluating_again_reads_the_saved_predictions(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = (runs / "cnn/evaluation/test.csv").read_bytes()

    def predicts_nothing(network: object, series: list[object], *_: object) -> Iterator[object]:
        assert not series, "predicted again"
        return iter(())

    monkeypatch.setattr("iac_lightning.workflows.trained.predict_prepared", predicts_nothing)
    assert main(["evaluate", str(runs / "cnn")]) == 0
    assert (runs / "cnn/evaluation/test.csv").read_bytes() == before


def test_a_look_is_on_record_before_the_test_split_is_read(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from iac_lightning.workflows import evaluate as workflow

    before, seen = len(looks(runs / "cnn")), []
    prepare, measure = workflow.prepare_cohort, workflow.evaluate_series

    def preparing(config, splits, look=None):
        if "test" in splits:
            seen.append(len(looks(runs / "cnn")))
        return prepare(config, splits, look=look)

    def measuring(*arguments):
        seen.append(len(looks(runs / "cnn")))
        return measure(*arguments)

    monkeypatch.setattr(workflow, "prepare_cohort", preparing)
    monkeypatch.setattr(workflow, "evaluate_series", measuring)
    assert main(["evaluate", str(runs / "cnn")]) == 0
    assert len(seen) > 1
    assert set(seen) == {before + 1}

    def stopped(*arguments):
        raise KeyboardInterrupt

    tried = ((stopped, 130, 2), (stopped, 130, 2), (measure, 0, 2), (stopped, 130, 3), (measure, 0, 3))
    for other, status, more in tried:
        monkeypatch.setattr(workflow, "evaluate_series", other)
        assert main(["evaluate", str(runs / "cnn")]) == status
        assert len(looks(runs / "cnn")) == before + more, "one evaluation is one look, however often it was stopped"
    assert main(["evaluate", str(runs / "cnn"), "--split", "dev"]) == 0
    assert len(looks(runs / "cnn")) == before + 3


def test_the_dev_split_is_no_training_split(runs: Path, phantom_cohort: Path, tmp_path: Path) -> None:
    """A checkpoint that has seen a patient refuses to be judged on that patient."""
    shutil.copytree(runs / "cnn", tmp_path / "cnn")
    path = tmp_path / "cnn/checkpoints/best.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    from data_modules.cohort.leakage import seen_patients, split_salt

    cohort = read_cohort(phantom_cohort)
    checkpoint["iac"]["trained_on"].append(seen_patients(cohort.patients("test")[:1], split_salt(phantom_cohort)))
    torch.save(checkpoint, path)
    assert main(["evaluate", str(tmp_path / "cnn")]) == 2


def test_one_scan_is_predicted_on_its_own_grid(runs: Path, phantom_cohort: Path, tmp_path: Path) -> None:
    source = read_cohort(phantom_cohort).split("test")[0]
    out = tmp_path / "out"
    assert main(["predict", str(source.image), str(out), "--run", str(runs / "vit_mae")]) == 0
    image, mask = nib.load(source.image), nib.load(out / "mask.nii.gz")
    assert mask.shape == image.shape
    np.testing.assert_array_equal(mask.affine, image.affine)
    result = json.loads((out / "result.json").read_text())
    voxels = np.asarray(mask.dataobj)
    assert result["volume_mm3"] == pytest.approx(voxels.sum() * abs(np.linalg.det(image.affine[:3, :3])), rel=1e-4)
    assert result["slice_thickness_mm"] == source.slice_thickness_mm
    assert result["volume_mm3"] == pytest.approx(sum(lesion["volume_mm3"] for lesion in result["lesions"]))
    assert len(result["roi_center_lps_mm"]) == 3
    check_what_it_learnt_from(result, runs / "vit_mae", read_cohort(phantom_cohort))
    assert (out / "overlay.png").stat().st_size > 10_000
    # the same weights on the same scan through the cohort's path give the same voxels
    saved = np.asarray(nib.load(runs / f"vit_mae/predictions/test/{source.series_id}_mask.nii.gz").dataobj)
    np.testing.assert_array_equal(voxels, saved)


def check_what_it_learnt_from(result: dict[str, Any], run: Path, cohort: Cohort) -> None:
    """The result of a phantom names the training, and holds the interval of the volumes that the evaluation wrote."""
    learnt = cohort.split("pretrain", "finetune")
    domain = result["training_domain"]
    assert (domain["learnt_from"], domain["n_series"], domain["n_phantoms"]) == ("phantoms", len(learnt), len(learnt))
    assert domain["n_labelled_phantoms"] == len(cohort.split("finetune"))
    assert (result["is_phantom"], domain["n_patients_unknown"]) == (True, 0)
    kept = json.loads((run / "training_domain.json").read_text())["development"]
    assert not any(s.patient_id in json.dumps(kept) for s in cohort.series)
    assert main(["evaluate", str(run), "--split", "dev"]) == 0
    measured = pd.read_csv(run / "evaluation/dev.csv")
    for name in ("volume_mm3", "label_volume_mm3"):
        assert sorted(kept[name]) == pytest.approx(sorted(measured[name]), rel=1e-5)
    table = pd.DataFrame({name: kept[name] for name in ("slice_thickness_mm", "volume_mm3", "label_volume_mm3")})
    fit = fit_conformal(table.assign(patient_id=[str(k) for k in kept["patient"]]), kept["coverage"])
    assert result["volume_interval"]["remarks"] == list(fit.remarks)


def test_an_exported_model_predicts_the_same_bytes(runs: Path, phantom_cohort: Path, tmp_path: Path) -> None:
    source = str(read_cohort(phantom_cohort).split("test")[0].image)
    for name in ("vit_mae", "cnn"):
        run, bundle = str(runs / name), str(tmp_path / name)
        assert main(["export", run, bundle]) == 0
        assert main(["predict", source, str(tmp_path / "a"), "--run", run]) == 0
        assert main(["predict", source, str(tmp_path / "b"), "--bundle", bundle]) == 0
        for file in OUTPUTS:
            assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes(), file
        text = "".join((tmp_path / name / file).read_text() for file in FILES if file != WEIGHTS)
        assert str(tmp_path.parent) not in text
        assert not any(s.patient_id in text or s.series_id in text for s in read_cohort(phantom_cohort).series)
    card = (tmp_path / "vit_mae" / "MODEL_CARD.md").read_text()
    summary = json.loads((runs / "vit_mae/evaluation/test.json").read_text())
    assert f"| Dice, scans with lesions | {estimate(summary['dice'])} |" in card
    cohort = read_cohort(phantom_cohort)
    learnt = cohort.split("pretrain", "finetune")
    thickness = [s.slice_thickness_mm for s in learnt]
    assert f"Their {len(learnt)} series: slices of {min(thickness):g} to {max(thickness):g} mm" in card
    assert f"{len({s.patient_id for s in learnt})} patients in pre-training" in card
    seen = json.loads((tmp_path / "vit_mae" / "trained_on.json").read_text())
    with pytest.raises(UserError, match="were seen in training"):
        check_unseen(cohort.patients("finetune"), seen[-1], split_salt(phantom_cohort))


def test_a_pretraining_cannot_predict(runs: Path, phantom_cohort: Path, tmp_path: Path, capsys) -> None:
    source = read_cohort(phantom_cohort).split("test")[0]
    assert main(["predict", str(source.image), str(tmp_path / "out"), "--run", str(runs / "mae")]) == 2
    assert "pre-training" in capsys.readouterr().err
    assert not (tmp_path / "out" / "mask.nii.gz").exists()


def test_the_report_shows_both(runs: Path, tmp_path: Path) -> None:
    for name in ("vit_mae", "cnn"):
        remarks = json.loads((runs / name / "evaluation/test_warnings.json").read_text())
        table = pd.read_csv(runs / name / "evaluation/test.csv")
        assert remarks["n_series"] == len(table)
    page = tmp_path / "report"
    before = [len(looks(runs / name)) for name in ("vit_mae", "cnn")]
    models = [str(runs / "vit_mae"), str(runs / "cnn")]
    assert main(["report", *models, "evaluation.thickness_edges_mm=[3]", "--out", str(page)]) == 0
    html = (page / "index.html").read_text()
    summary = json.loads((runs / "cnn/evaluation/test.json").read_text())
    assert f"{summary['dice']['mean']:.3f}" in html
    assert ">Calibration</h2>" in html
    assert "≤ 3 mm" in html
    assert [len(looks(runs / name)) for name in ("vit_mae", "cnn")] == [n + 1 for n in before]
    assert summary["test_looks"]["n_weights"] == 1
    weights = {look["checkpoint_sha256"] for look in looks(runs / "cnn")}
    assert weights == {summary["checkpoint_sha256"]}
    assert main(["compare", *models]) == 0
    assert "http" not in html.replace("http://www.w3.org", "")


def test_a_finished_run_is_left_alone(runs: Path, phantom_cohort: Path, capsys) -> None:
    before = (runs / "cnn/checkpoints/last.ckpt").stat().st_mtime_ns
    settings = overrides(phantom_cohort, runs.parent, "tracking.enabled=false")
    assert main(["finetune", str(experiment("cnn")), *settings]) == 0
    assert "finished" in capsys.readouterr().out
    assert (runs / "cnn/checkpoints/last.ckpt").stat().st_mtime_ns == before
    assert load_run(runs / "cnn").is_finished


def test_an_error_in_training_is_told_as_it_is(
    phantom_cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*arguments: object) -> None:
        raise RuntimeError("the step is broken")

    monkeypatch.setattr(MAEModule, "training_step", broken)
    settings = overrides(phantom_cohort, tmp_path, "tracking.enabled=false")
    with pytest.raises(RuntimeError, match="the step is broken"):
        main(["pretrain", str(experiment("mae")), *settings])
    assert not load_run(tmp_path / "demo/mae").is_finished
