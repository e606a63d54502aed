"""The same heads through thicker slices: what is predicted, what is kept, what is refused."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch
from scipy import special
from torch import nn

from data_modules.cohort.leakage import seen_patients, split_salt
from data_modules.cohort.table import read_cohort
from data_modules.errors import UserError
from data_modules.prepare.preparation import prepare_cohort
from data_modules.scan.geometry import Volume
from data_modules.scan.nifti import read_mask
from data_modules.scan.reading import read_scan
from data_modules.scan.reimaging import finest_mm
from iac_lightning.config.reading import load_experiment
from iac_lightning.evaluation.calibration.record import Calibration
from iac_lightning.evaluation.clinical.stress import COLUMNS as STRESS_COLUMNS
from iac_lightning.evaluation.tables.series_table import COLUMNS
from iac_lightning.report.stress import describe_stress
from iac_lightning.runs.directory import Run
from iac_lightning.runs.looks import looks, record_look
from iac_lightning.workflows import evaluate as evaluation
from iac_lightning.workflows import stress as workflow
from iac_lightning.workflows import stress_series as series_workflow
from iac_lightning.workflows.one_series import evaluate_series
from iac_lightning.workflows.stress import reason, stress, thinnest
from iac_lightning.workflows.trained import ALONE, TrainedModel, on_host
from tests.integration.settings import experiment, overrides

WANTED = (1.0, 3.0, 8.0)
CALIBRATION: dict[str, Any] = {
    "checkpoint_sha256": "0" * 16,
    "temperature": 2.0,
    "bias": 0.25,
    "operating_point": {
        "aim": "dice",
        "rule": "protocol",
        "least_lesion_mm3": 0.0,
        "threshold": 0.4,
        "thickness": {"used": False, "strata": []},
    },
    "plain_threshold": 0.5,
    "plain_thickness": {
        "used": True,
        "strata": [
            {"above_mm": 0.0, "up_to_mm": 6.0, "threshold": 0.5},
            {"above_mm": 6.0, "up_to_mm": None, "threshold": 0.3},
        ],
    },
}


class Bright(nn.Module):
    """Stands for a network: the brighter, the likelier; 300 HU are as likely as not."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return 8 * (image - IMAGE_AT_300_HU)


IMAGE_AT_300_HU = 0.0
"""Set from the window of the experiment by `model_of`."""


def model_of(cohort: Path, folder: Path, name: str = "run", **facts: Any) -> TrainedModel:
    global IMAGE_AT_300_HU
    settings = overrides(cohort, folder, "tracking.enabled=false", f"name={name}", "inference.overlap=0")
    config = load_experiment(experiment("cnn"), [*settings, f"data.prepared_dir={cohort.parent / 'prepared_stress'}"])
    low, high = config.data.window_hu
    IMAGE_AT_300_HU = 2 * (300 - low) / (high - low) - 1
    run = Run(folder / name, config)
    run.directory.mkdir(parents=True, exist_ok=True)
    (run.directory / "calibration.json").write_text(json.dumps(CALIBRATION))
    return replace(TrainedModel(run, Bright(), torch.device("cpu"), "0" * 16, []), **facts)


def run_stress(models: list[TrainedModel], monkeypatch: pytest.MonkeyPatch, *args: Any, **more: Any) -> list[dict]:
    by_name = {model.run.config.name: model for model in models}
    monkeypatch.setattr(workflow, "load_trained", lambda run: by_name[run.config.name])
    return stress([model.run for model in models], "test", *args, **more)


@pytest.fixture(scope="module")
def done(phantom_cohort: Path, tmp_path_factory: pytest.TempPathFactory):
    model = model_of(phantom_cohort, tmp_path_factory.mktemp("runs"))
    with pytest.MonkeyPatch.context() as patch:
        (summary,) = run_stress([model], patch, WANTED)
    return model, summary


def rows_of(model: TrainedModel) -> pd.DataFrame:
    return pd.read_csv(model.run.directory / "stress/test.csv", float_precision="round_trip")


def test_native_rows_are_those_of_a_plain_evaluation(done) -> None:
    model, _ = done
    table = rows_of(model).set_index("series_id")
    own = table[table["is_native"]]
    assert [c for c in own.columns if not c.startswith("plain_")] == [*list(COLUMNS)[1:], *STRESS_COLUMNS]
    assert [look["what"] for look in looks(model.run.directory)] == ["stress"]
    look = record_look(model.run.directory, "evaluate", "test", "", None)
    store = prepare_cohort(model.run.config.data, ("test",), look=look)
    assert sorted(own.index) == sorted(item.series.series_id for item in store.series)
    for item in store.series:
        work = evaluation.evaluation_work(model, item, "test", Calibration.from_dict(CALIBRATION), look)
        ((row, _),) = on_host(model, [work], evaluate_series, ALONE)
        for column in own.columns.intersection(list(row)):
            found, expected = own.loc[item.series.series_id, column], row[column]
            assert found == expected or (np.isnan(found) and np.isnan(expected)), column
        assert {"dice", "plain_dice", "agatston", "volume_mm3", "hd95_mm"} <= set(own.columns) & set(row)
    assert (own["volume_mm3"] > 0).all()
    assert own["slice_thickness_mm"].tolist() == own["native_thickness_mm"].tolist()


def test_only_thicker_slices_are_made(done, phantom_cohort: Path) -> None:
    model, summary = done
    table = rows_of(model)
    for series in read_cohort(phantom_cohort).split("test"):
        finest = finest_mm(read_scan(series.image, slice_thickness_mm=series.slice_thickness_mm))
        made = [mm for mm in WANTED if mm >= finest - 0.01 and mm > series.slice_thickness_mm + 0.01]
        rows = table[table["series_id"] == series.series_id]
        assert rows["slice_thickness_mm"].tolist() == [series.slice_thickness_mm, *made]
    assert summary["thickness"][2]["n_patients"] == 3
    assert summary["thickness"][0]["n_patients"] + summary["thickness"][0]["n_thicker"] == 3
    assert table["series_id"].value_counts().max() > 1


def test_a_thick_version_follows_from_the_files_by_plain_arithmetic(done, phantom_cohort: Path) -> None:
    """A scan whose slices touch and divide 8 mm: averaged, thresholded by HU and counted without the package."""
    model, _ = done
    table, checked = rows_of(model), 0
    for series in read_cohort(phantom_cohort).split("test"):
        image = nib.load(series.image)
        spacing = np.linalg.norm(image.affine[:3, :3], axis=0)
        hu = np.asarray(image.dataobj, dtype=np.float64)
        label = np.asarray(nib.load(series.label).dataobj) > 0
        row = table[(table["series_id"] == series.series_id) & (table["slice_thickness_mm"] == 8.0)].iloc[0]
        assert row["label_volume_mm3"] == pytest.approx(label.sum() * np.prod(spacing), rel=1e-4)
        assert row["volume_error_mm3"] == pytest.approx(row["volume_mm3"] - row["label_volume_mm3"])
        n, s = hu.shape[2], spacing[2]
        if not np.isclose(s, series.slice_thickness_mm):
            continue
        count = int(np.ceil(n * s / 8.0 - 1e-6))
        before = int((count * 8.0 - n * s) / 2 / s) * s
        edges = np.arange(count + 1) * 8.0 - before
        weights = np.clip(
            np.minimum(edges[1:, None], (np.arange(n) + 1) * s) - np.maximum(edges[:-1, None], np.arange(n) * s),
            0,
            None,
        )
        thick = np.rint(hu @ (weights / weights.sum(axis=1, keepdims=True)).T)
        touched = (label @ weights.T) > 1e-3
        bright = touched & (thick >= 130)
        padded = np.pad(bright, 1)
        neighbours = sum(
            padded[1 + i : padded.shape[0] - 1 + i, 1 + j : padded.shape[1] - 1 + j, 1 + k : padded.shape[2] - 1 + k]
            for i in (-1, 0, 1)
            for j in (-1, 0, 1)
            for k in (-1, 0, 1)
            if (i, j, k) != (0, 0, 0)
        )
        kept = bright & (np.asarray(neighbours) > 0)
        slice_of = np.clip(((np.arange(n) + 0.5) * s + before - 1e-6) // 8.0, 0, count - 1).astype(int)
        back = kept[:, :, slice_of]
        total = back.sum() + label.sum()
        assert row["ceiling_dice"] == pytest.approx(2 * (back & label).sum() / total if total else 1.0)
        assert row["ceiling_volume_mm3"] == pytest.approx(kept.sum() * spacing[0] * spacing[1] * 8.0, rel=1e-4)
        assert row["bound_dice"] >= row["ceiling_dice"] - 1e-9
        assert row["bound_dice"] >= row["dice"] - 1e-9
        checked += 1
    assert checked


def test_the_threshold_is_that_of_the_thickness(done, monkeypatch: pytest.MonkeyPatch, phantom_cohort: Path) -> None:
    """Probabilities of 0.4 after calibration are a prediction at 8 mm (0.3) and none at 3 mm (0.5)."""
    raw = special.expit((special.logit(0.4) - 0.25) * 2.0)

    def even(network: nn.Module, scan: Any, region: Any, *_: Any) -> Volume:
        return region.volume.with_data(np.where(region.hu > 900, np.float32(raw), np.float32(0)))

    monkeypatch.setattr(series_workflow, "predict_scan", even)
    model = model_of(phantom_cohort, done[0].run.directory.parent, "thresholds")
    run_stress([model], monkeypatch, (3.0, 8.0))
    table = rows_of(model)
    assert (table.loc[table["slice_thickness_mm"] == 8.0, "plain_volume_mm3"] > 0).all()
    assert (table.loc[table["slice_thickness_mm"] <= 6.0, "plain_volume_mm3"] == 0).all()


def test_a_killed_run_computes_only_what_is_missing(
    done, monkeypatch: pytest.MonkeyPatch, phantom_cohort: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(done[0].run.directory, folder)
    model = replace(done[0], run=Run(folder, done[0].run.config))
    before = (folder / "stress/test.csv").read_bytes()
    seen: list[float] = []

    def counted(network: nn.Module, scan: Any, *more: Any) -> Volume:
        seen.append(scan.slice_thickness_mm)
        return predict_scan(network, scan, *more)

    predict_scan = series_workflow.predict_scan
    monkeypatch.setattr(series_workflow, "predict_scan", counted)
    monkeypatch.setattr(workflow, "png", lambda figure: b"drawn")
    run_stress([model], monkeypatch, WANTED)
    assert seen == []
    assert (folder / "stress/test.csv").read_bytes() == before
    # a row that was not written yet
    kept = next(iter(sorted((folder / "stress/test").glob("*.csv"))))
    rows = kept.read_text().splitlines()
    kept.write_text("\n".join(rows[:-1]) + "\n")
    run_stress([model], monkeypatch, WANTED)
    assert len(seen) == 1
    assert (folder / "stress/test.csv").read_bytes() == before
    # a further thickness alone
    seen.clear()
    run_stress([model], monkeypatch, (*WANTED, 9.0))
    assert seen == [9.0] * 3
    # gaps between the slices: the native versions stay
    seen.clear()
    run_stress([model], monkeypatch, WANTED, None, 1.25)
    assert len(seen) == len(before.splitlines()) - 1 - 3
    # another threshold of the stratum above 6 mm
    seen.clear()
    calibration = json.loads(json.dumps(CALIBRATION))
    calibration["plain_thickness"]["strata"][1]["threshold"] = 0.6
    (folder / "calibration.json").write_text(json.dumps(calibration))
    run_stress([model], monkeypatch, WANTED)
    assert set(seen) == {8.0}
    # other weights
    seen.clear()
    (folder / "calibration.json").write_text(json.dumps(CALIBRATION | {"checkpoint_sha256": "1" * 16}))
    run_stress([replace(model, checkpoint_sha256="1" * 16)], monkeypatch, WANTED)
    assert len(seen) == len(before.splitlines()) - 1


def test_a_scan_that_fails_is_listed_and_the_others_go_on(
    done, monkeypatch: pytest.MonkeyPatch, phantom_cohort: Path, tmp_path: Path
) -> None:
    """One image cut short on disk, and one whose prediction fails."""
    cohort = tmp_path / "cohort/cohort.csv"
    shutil.copytree(phantom_cohort.parent, cohort.parent, ignore=shutil.ignore_patterns("prepared*", "pretrain*"))
    broken, failing, whole = sorted(read_cohort(cohort).split("test"), key=lambda s: s.series_id)
    broken.image.write_bytes(broken.image.read_bytes()[:2000])
    whole_size = read_mask(failing.label).data.shape

    def some(network: nn.Module, scan: Any, *more: Any) -> Volume:
        if scan.hu.shape[:2] == whole_size[:2]:
            raise MemoryError(f"{cohort.parent}/images/a.nii.gz is\ntoo large")
        return predict_scan(network, scan, *more)

    predict_scan = series_workflow.predict_scan
    monkeypatch.setattr(series_workflow, "predict_scan", some)
    model = model_of(cohort, tmp_path / "runs")
    (summary,) = run_stress([model], monkeypatch, (8.0,))
    assert set(rows_of(model)["series_id"]) == {whole.series_id}
    assert set(summary["failed"]) == {broken.series_id, failing.series_id}
    assert summary["failed"][failing.series_id] == "MemoryError: images/a.nii.gz is too large"
    assert summary["failed"][broken.series_id].startswith(f"images/{broken.image.name}: not a whole file")
    assert str(tmp_path) not in json.dumps(summary["failed"])
    assert json.loads((model.run.directory / "stress/test.json").read_text()) == summary
    assert f"failed: {broken.series_id}" in describe_stress(summary)
    monkeypatch.setattr(series_workflow, "measure_version", lambda *_: 1 / 0)
    with pytest.raises(UserError, match=r"none of the 2 scans of 'test' could be measured. The first, "):
        run_stress([model_of(cohort, tmp_path / "other")], monkeypatch, (8.0,))


def test_runs_are_compared_on_one_page(done, monkeypatch: pytest.MonkeyPatch, phantom_cohort: Path) -> None:
    model, summary = done
    other = model_of(phantom_cohort, model.run.directory.parent, "other")
    out = model.run.directory.parent / "page"
    summaries = run_stress([other, model], monkeypatch, WANTED, out)
    assert summaries[1] == summary
    found = json.loads((out / "comparison.json").read_text())
    (pair,) = found["comparisons"]
    assert pair["second"].endswith("(run)")  # given last
    assert pair["slope_difference_per_mm"]["dice"]["value"] == pytest.approx(0)
    assert pair["n_rows"] == len(rows_of(model))
    assert (out / "index.html").stat().st_size > 50_000
    assert "slope per mm" in (out / "comparison.csv").read_text()
    assert (model.run.directory / "stress/test.png").stat().st_size > 20_000


def test_patients_of_the_training_are_refused(done, monkeypatch: pytest.MonkeyPatch, phantom_cohort: Path) -> None:
    record = seen_patients(read_cohort(phantom_cohort).patients("test")[:1], split_salt(phantom_cohort))
    model = model_of(phantom_cohort, done[0].run.directory.parent, "leaky", trained_on=[record])
    with pytest.raises(UserError, match="1 of 3 patients to evaluate on were seen in training"):
        run_stress([model], monkeypatch, WANTED)
    assert not (model.run.directory / "stress/test.csv").exists()


@pytest.mark.parametrize(
    ("thicknesses", "ratio", "complaint"),
    [((), 1.0, "above 0"), ((2.0, 0.0), 1.0, "above 0"), ((2.0,), 0.0, "ratio 0")],
)
def test_settings_without_sense_are_refused(done, monkeypatch, thicknesses, ratio: float, complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        run_stress([done[0]], monkeypatch, thicknesses, None, ratio)


def test_a_run_without_calibration_or_given_twice_is_known_before_the_first_scan(
    done, monkeypatch: pytest.MonkeyPatch, phantom_cohort: Path
) -> None:
    monkeypatch.setattr(workflow, "stress_run", lambda *_: pytest.fail("began"))
    other = model_of(phantom_cohort, done[0].run.directory.parent, "uncalibrated", checkpoint_sha256="2" * 16)
    with pytest.raises(UserError, match="iac calibrate"):
        run_stress([done[0], other], monkeypatch, WANTED)
    with pytest.raises(UserError, match="more than one run is called run"):
        stress([done[0].run, done[0].run], "test", WANTED)


def test_the_thinnest_labelled_series_of_each_patient_is_taken() -> None:
    def item(patient: str, series: str, mm: float, label: bool = True, split: str = "test") -> Any:
        row = SimpleNamespace(
            patient_id=patient,
            series_id=series,
            slice_thickness_mm=9.0,
            label=Path("l") if label else None,
            split=split,
        )
        return SimpleNamespace(series=row, slice_thickness_mm=mm)  # the table's says nothing

    items = [
        item("B", "B2", 1.0),
        item("B", "B1", 1.0),
        item("A", "A1", 5.0),
        item("A", "A2", 0.6, label=False),
        item("A", "A3", 2.0),
        item("C", "C1", 1.0, split="dev"),
    ]
    store: Any = SimpleNamespace(split=lambda name: tuple(i for i in items if i.series.split == name))
    assert [i.series.series_id for i in thinnest(store, "test")] == ["A3", "B1"]
    with pytest.raises(UserError, match="Evaluation needs labels"):
        thinnest(SimpleNamespace(split=lambda name: (items[3],)), "test")


def test_a_reason_is_one_line_without_folders(tmp_path: Path) -> None:
    cohort = str(tmp_path / "cohort.csv")
    assert reason(UserError(f"{tmp_path}/images/a.nii.gz:\n  damaged"), cohort) == "images/a.nii.gz: damaged"
    assert reason(ZeroDivisionError("x"), cohort) == "ZeroDivisionError: x"
