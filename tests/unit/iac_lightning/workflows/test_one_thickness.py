"""A folder of DICOM whose header, region and table name three thicknesses: one of them counts, whoever asks.

The whole scan's median is 7 mm, the region's 4 mm, and the table says 9 mm.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from benchmarks.bench import throwaway_run
from data_modules.config import DataConfig
from data_modules.prepare.preparation import prepare_cohort
from data_modules.prepare.store import PreparedSeries
from data_modules.scan.geometry import Volume
from data_modules.scan.nifti import read_mask, read_probability, write_nifti
from data_modules.scan.reading import read_scan
from iac_lightning.evaluation.calibration.record import Calibration
from iac_lightning.evaluation.calibration.scaling import Scaling
from iac_lightning.evaluation.tables.model_result import ModelResult
from iac_lightning.runs.directory import load_run
from iac_lightning.workflows import calibrate
from iac_lightning.workflows.evaluate import evaluation_work
from iac_lightning.workflows.external import calibrate as external_calibration
from iac_lightning.workflows.external.evaluate import ExternalModel
from iac_lightning.workflows.external.predictions import Prediction, measure_prediction, read_masks
from iac_lightning.workflows.one_series import development_counts, evaluate_series
from iac_lightning.workflows.predict import predict
from iac_lightning.workflows.reports import model_results
from iac_lightning.workflows.stress_series import stress_series
from iac_lightning.workflows.trained import ALONE, CalibratedModel, TrainedModel, load_trained, on_host
from tests.dicom_series import START, stepping, write_series

SLICES = [7.0] * 8 + [4.0] * 14 + [7.0] * 8


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> TrainedModel:
    return load_trained(load_run(throwaway_run(tmp_path_factory.mktemp("runs"))))


@pytest.fixture(scope="module")
def item(model: TrainedModel, tmp_path_factory: pytest.TempPathFactory) -> PreparedSeries:
    folder = tmp_path_factory.mktemp("cohort")
    write_series(folder / "dicom", stepping(START, np.arange(len(SLICES)) * 4.0), SliceThickness=SLICES)
    scan = read_scan(folder / "dicom")
    assert scan.slice_thickness_mm == 7.0
    write_nifti(Volume(scan.hu >= 150, scan.grid), folder / "label.nii.gz")
    row = {"patient_id": "a", "series_id": "a1", "image": "dicom", "label": "label.nii.gz", "split": "dev"}
    row |= {"slice_thickness_mm": 9.0, "spacing_x_mm": 0.7, "spacing_y_mm": 0.9, "spacing_z_mm": 4.0}
    pd.DataFrame([row | {"kernel": "", "manufacturer": ""}]).to_csv(folder / "cohort.csv", index=False)
    config = DataConfig(cohort=str(folder / "cohort.csv"), prepare_workers=1, grid=model.run.config.data.grid)
    (prepared,) = prepare_cohort(config).series
    return prepared


@pytest.fixture(scope="module")
def calibration(model: TrainedModel, item: PreparedSeries, tmp_path_factory: pytest.TempPathFactory) -> Calibration:
    """Thresholds up to 5 mm, up to 8 mm and above, each of which gives this scan another mask."""
    plain: dict[str, Any] = calibrate.read_calibration(model.run)
    out = tmp_path_factory.mktemp("raw")
    predict(item.series.image, out, calibrated_model(model, Calibration.from_dict(plain)))
    p = read_probability(out / "probability.nii.gz").data
    quarter, half, most = (float(q) for q in np.quantile(p[p > 0], [0.25, 0.5, 0.75]))
    strata = [
        {"above_mm": 0.0, "up_to_mm": 5.0, "threshold": quarter},
        {"above_mm": 5.0, "up_to_mm": 8.0, "threshold": half},
        {"above_mm": 8.0, "up_to_mm": None, "threshold": most},
    ]
    by_thickness = {"used": True, "strata": strata}
    return by_strata(plain, by_thickness)


def by_strata(record: Mapping[str, Any], by_thickness: dict[str, Any]) -> Calibration:
    """A calibration that cuts both masks by slice thickness."""
    point = {**record["operating_point"], "thickness": by_thickness}
    return Calibration.from_dict({**record, "operating_point": point, "plain_thickness": by_thickness})


def calibrated_model(model: TrainedModel, calibration: Calibration) -> CalibratedModel:
    facts = {"checkpoint_sha256": model.checkpoint_sha256, "trained_on": model.trained_on}
    return CalibratedModel(model.run.config, model.network, model.device, calibration=calibration, **facts)


def evaluated(model: TrainedModel, item: PreparedSeries, calibration: Calibration) -> list[dict[str, Any]]:
    works = [evaluation_work(model, item, "dev", calibration)]
    return [found.row for found in on_host(model, works, evaluate_series, ALONE)]


def test_prepare_says_that_the_table_differs(item: PreparedSeries) -> None:
    assert item.slice_thickness_mm == 4.0
    (remark,) = (w for w in item.warnings if "cohort table" in w)
    assert "9 mm, the file 4 mm" in remark


def test_evaluate_predict_and_stress_cut_at_one_threshold(
    model: TrainedModel, item: PreparedSeries, calibration: Calibration, tmp_path: Path
) -> None:
    (row,) = evaluated(model, item, calibration)
    result = predict(item.series.image, tmp_path, calibrated_model(model, calibration), slice_thickness_mm=9.0)
    assert result["threshold"] == calibration.plain.by_thickness["strata"][0]["threshold"]
    assert row["slice_thickness_mm"] == result["slice_thickness_mm"] == 4.0
    masks = [
        read_mask(path).data
        for path in (model.run.directory / "predictions/dev/a1_mask.nii.gz", tmp_path / "mask.nii.gz")
    ]
    np.testing.assert_array_equal(*masks)
    assert row["volume_mm3"] == pytest.approx(result["volume_mm3"])
    assert any(
        "the option slice_thickness_mm is not that of the file: 9 mm, the file 4 mm" in w for w in result["warnings"]
    )

    (own,) = stress_series(model, item, calibration, [], 1.0, tmp_path).to_dict("records")
    assert own["slice_thickness_mm"] == own["native_thickness_mm"] == 4.0
    assert own["volume_mm3"] == pytest.approx(row["volume_mm3"], rel=1e-3)
    assert own["plain_dice"] == pytest.approx(row["plain_dice"], rel=1e-3)


def test_evaluate_predict_and_stress_drop_what_is_smaller_than_the_least_lesion(
    model: TrainedModel, item: PreparedSeries, calibration: Calibration, tmp_path: Path
) -> None:
    (lesion,) = predict(item.series.image, tmp_path, calibrated_model(model, calibration))["lesions"]
    for least_mm3, expected in ((lesion["volume_mm3"] * 0.99, lesion["volume_mm3"]), (lesion["volume_mm3"] * 1.01, 0)):
        cut = replace(calibration, point=replace(calibration.point, least_lesion_mm3=least_mm3))
        (row,) = evaluated(model, item, cut)
        result = predict(item.series.image, tmp_path, calibrated_model(model, cut))
        (own,) = stress_series(model, item, cut, [], 1.0, tmp_path).to_dict("records")
        assert [found["volume_mm3"] for found in (row, result, own)] == pytest.approx([expected] * 3, rel=1e-3)
        assert row["plain_volume_mm3"] > 0


def test_calibration_goes_by_it_and_knows_earlier_ones(model: TrainedModel, item: PreparedSeries) -> None:
    score = partial(development_counts, scaling=Scaling(temperature=1.0, bias=0.0))
    (scores,) = calibrate.development(model, [item], score, ALONE)
    assert scores.slice_thickness_mm == 4.0
    agrees = replace(item, series=replace(item.series, slice_thickness_mm=4.0))
    keys = [calibrate.calibration_key(model, [one])["depends_on"] for one in (item, agrees)]
    assert keys[0] != keys[1]  # what was fitted to the table's 9 mm is fitted again
    assert keys[1] == calibrate.digest([calibrate.prediction_key(model, agrees)])  # and otherwise stands


def test_predictions_from_elsewhere_go_by_the_whole_scan(
    item: PreparedSeries, calibration: Calibration, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scan = read_scan(item.series.image)
    rng = np.random.default_rng([3])
    p = np.where(scan.hu >= 100, rng.random(scan.hu.shape), 0).astype(np.float32)
    write_nifti(Volume(p, scan.grid), tmp_path / "a1_probability.nii.gz")
    strata = [
        dict(s, threshold=t) for s, t in zip(calibration.plain.by_thickness["strata"], (0.2, 0.5, 0.8), strict=True)
    ]
    own = by_strata(calibration.record, {"used": True, "strata": strata})
    prediction = Prediction(item.series, tmp_path / "a1_probability.nii.gz", 0.5, calibration=own)
    measured = measure_prediction(prediction)
    assert not isinstance(measured, str), measured
    row, warnings, _ = measured
    assert any("9 mm, the file 7 mm" in w for w in warnings)
    assert row["slice_thickness_mm"] == 7.0
    mask = read_masks(prediction, scan)[1].data
    assert row["plain_volume_mm3"] == pytest.approx(mask.sum() * scan.grid.voxel_volume_mm3)
    assert abs(mask.sum() / (p > 0).sum() - 0.5) < 0.05
    (scores,) = external_calibration.count_predictions([prediction], Scaling(temperature=1.0, bias=0.0), workers=1)
    assert scores.slice_thickness_mm == 7.0


def test_the_report_names_the_evaluated_thickness(
    model: TrainedModel, item: PreparedSeries, calibration: Calibration, monkeypatch: pytest.MonkeyPatch
) -> None:
    titles = []
    monkeypatch.setattr(model_results, "overlay_figure", lambda *_, title, **__: titles.append(title))
    monkeypatch.setattr(model_results, "png", lambda _: b"")
    monkeypatch.setattr(model_results, "predicted_mask", lambda *a: Volume(a[-1].hu > 100, a[-1].grid))
    table = pd.DataFrame(evaluated(model, item, calibration))
    entry = ExternalModel(Path(), "m", {}, item.directory.parents[2] / "cohort.csv", None)
    result = ModelResult(name="m", label="m", table=table, summary={}, threshold=None)
    series = {item.series.series_id: item.series}
    model_results.overlays(entry, result, series, dict.fromkeys(series, "scan 3fa9c1"), "dev", None)
    assert titles
    assert all("4 mm slices" in title and "scan 3fa9c1" in title for title in titles)
