"""One series from its probability to its row: calibrated, cut at each threshold, kept on disk."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scipy import special

from data_modules.scan.geometry import Grid, Volume
from data_modules.scan.nifti import read_mask, write_nifti
from data_modules.scan.scan import Scan
from iac_lightning.config.schema import ExperimentConfig
from iac_lightning.evaluation.calibration.record import Calibration
from iac_lightning.evaluation.calibration.scaling import Scaling
from iac_lightning.runs.directory import Run
from iac_lightning.workflows import one_series, trained
from iac_lightning.workflows.evaluate import describe_evaluation, evaluation_work
from iac_lightning.workflows.one_series import EvaluationWork, calibrated_probability, evaluate_series
from iac_lightning.workflows.trained import ALONE, TrainedModel, on_host

GRID = Grid((9, 1, 1), np.diag([0.5, 0.5, 2.0, 1.0]))
HU = [900, 900, -900, 129, 129, -900, 900, -900, 130]
RAW = [0.6, 0.6, 0.0, 0.9, 0.9, 0.0, 0.9, 0.0, 0.5]
LABEL = [1, 1, 0, 0, 0, 0, 1, 0, 0]
NO_STRATA: dict[str, Any] = {"used": False, "strata": []}
CALIBRATION = Calibration.from_dict(
    {
        "temperature": 2.0,  # 0.6 becomes 0.310, 0.9 becomes 0.525, 0.5 becomes 0.269
        "bias": -1.0,
        "plain_threshold": 0.5,
        "plain_thickness": NO_STRATA,
        "operating_point": {
            "aim": "dice",
            "rule": "protocol",
            "least_lesion_mm3": 0.0,
            "threshold": 0.3,
            "thickness": NO_STRATA,
        },
    }
)


def row(values: list[Any], dtype: type) -> Volume:
    return Volume(np.array(values, dtype).reshape(9, 1, 1), GRID)


@pytest.fixture
def predicted() -> list[str]:
    """Names of the series that the network was asked for."""
    return []


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, predicted: list[str]) -> TrainedModel:
    def predict(model: TrainedModel, items: list[Any]) -> Iterator[Volume]:
        for item in items:
            predicted.append(item.series.series_id)
            yield row(RAW, np.float32)

    scan = Scan(hu=row(HU, np.int16).data, grid=GRID, slice_thickness_mm=2.0)
    monkeypatch.setattr(trained, "predicted", predict)
    monkeypatch.setattr(one_series, "native_probability", lambda item, common, restrict_hu: common)
    monkeypatch.setattr(one_series, "read_series", lambda series: scan)
    monkeypatch.setattr(one_series, "read_label", lambda series, like, look: row(LABEL, np.uint8))
    run = Run(tmp_path / "run", ExperimentConfig(name="a"))
    return TrainedModel(run, torch.nn.Identity(), torch.device("cpu"), "0123", [])


@pytest.fixture
def item() -> Any:
    series = SimpleNamespace(series_id="a1", patient_id="a", true_volume_mm3=None, label_2=None)
    return SimpleNamespace(series=series, slice_thickness_mm=2.0, source_sha256="4567")


def measured(
    model: TrainedModel,
    item: Any,
    function: Callable[[EvaluationWork], Any] = evaluate_series,
    calibration: Calibration = CALIBRATION,
) -> Any:
    (found,) = on_host(model, [evaluation_work(model, item, "dev", calibration)], function, ALONE)
    return found


def probability(work: EvaluationWork) -> Volume | None:
    return calibrated_probability(work, GRID)


def test_a_row_by_hand(model: TrainedModel, item: Any) -> None:
    found = measured(model, item).row
    assert found["dice"] == pytest.approx(2 * 2 / (2 + 3))  # the bright pair, from 0.3 on
    assert found["plain_dice"] == pytest.approx(2 * 1 / (3 + 3))  # the sure ones: two dark, one of the label
    assert found["uncalibrated_dice"] == pytest.approx(2 * 3 / (6 + 3))  # all that the network holds for likely
    assert found["volume_mm3"] == pytest.approx(2 * 0.5)
    folder = model.run.directory / "predictions/dev"
    masks = [
        read_mask(folder / f"a1_{name}.nii.gz", like=GRID).data.ravel().tolist() for name in ("mask", "mask_plain")
    ]
    assert masks == [[1, 1, 0, 0, 0, 0, 0, 0, 0], [0, 0, 0, 1, 1, 0, 1, 0, 0]]


def test_probabilities_are_summed_up_before_and_after_calibration(model: TrainedModel, item: Any) -> None:
    sums = measured(model, item).sums
    before, after = (np.array(p, float) for p in (RAW, 1 / (1 + np.exp(1 - special.logit(RAW) / 2))))
    says, label = np.array(RAW) > 0, np.array(LABEL)
    for found, p in zip(sums.voxels, (before, after), strict=True):
        assert found.scores[0] == 6
        assert found.scores[1] == pytest.approx(((p - label)[says] ** 2).sum(), rel=1e-5)
        assert found.bins.sum(axis=0) == pytest.approx([6, p[says].sum(), 3], rel=1e-5)
    for found, p in zip(sums.lesions, (before, after), strict=True):  # the pair alone is marked, and is a lesion
        assert found.scores[:2] == pytest.approx([1, (1 - p[0]) ** 2], rel=1e-5)


def test_small_components_are_dropped_from_the_result_alone(model: TrainedModel, item: Any) -> None:
    point = CALIBRATION.to_dict()["operating_point"] | {"least_lesion_mm3": 1.1}  # the pair has 1 mm³
    found = measured(
        model, item, calibration=Calibration.from_dict(CALIBRATION.to_dict() | {"operating_point": point})
    ).row
    assert (found["volume_mm3"], found["plain_volume_mm3"]) == (0, 1.5)


def test_the_network_is_asked_once_and_again_for_another_calibration(
    model: TrainedModel, item: Any, predicted: list[str]
) -> None:
    path = model.run.directory / "predictions/dev/a1_probability.nii.gz"
    first = measured(model, item, probability)
    again = measured(model, item, probability)
    assert predicted == ["a1"]
    np.testing.assert_array_equal(first.data, again.data)
    assert json.loads(path.with_name("a1_probability.json").read_text()).items() >= {
        ("temperature", 2.0),
        ("bias", -1.0),
    }
    other = measured(model, item, probability, replace(CALIBRATION, scaling=Scaling(temperature=2.0, bias=0.0)))
    assert predicted == ["a1", "a1"]
    assert other.data[0, 0, 0] == pytest.approx(1 / (1 + np.exp(-np.log(1.5) / 2)))


def test_an_uncalibrated_map_of_the_same_weights_saves_the_network(
    model: TrainedModel, item: Any, predicted: list[str]
) -> None:
    path = trained.uncalibrated_file(model.run, item)
    write_nifti(row([0.9] * 9, np.float32), path)
    path.with_name("a1_uncalibrated.json").write_text(json.dumps(trained.prediction_key(model, item)))
    found = measured(model, item, probability)
    assert predicted == []
    assert found.data.ravel() == pytest.approx([0.5246] * 9, abs=1e-4)


def test_a_damaged_map_is_predicted_again(model: TrainedModel, item: Any, predicted: list[str]) -> None:
    whole = measured(model, item)
    path = model.run.directory / "predictions/dev/a1_probability.nii.gz"
    kept = path.read_bytes()
    path.write_bytes(kept[: len(kept) // 2])
    assert repr(measured(model, item)) == repr(whole)  # nan is like nan
    assert predicted == ["a1", "a1"]
    assert path.read_bytes() == kept


def test_only_series_without_a_map_are_predicted_and_all_come_in_order(
    model: TrainedModel, item: Any, predicted: list[str]
) -> None:
    items = [SimpleNamespace(**vars(item) | {"series": replaced(item, f"s{k}")}) for k in range(5)]
    works = [evaluation_work(model, one, "dev", CALIBRATION) for one in items]
    list(on_host(model, [works[1], works[3]], evaluate_series, ALONE))
    rows = list(on_host(model, works, evaluate_series, ALONE))
    assert [found.row["series_id"] for found in rows] == ["s0", "s1", "s2", "s3", "s4"]
    assert predicted == ["s1", "s3", "s0", "s2", "s4"]


def replaced(item: Any, name: str) -> Any:
    return SimpleNamespace(**vars(item.series) | {"series_id": name})


def test_described_for_the_terminal() -> None:
    value, lower = {"mean": 0.5, "ci95": [0.4, 0.6]}, {"mean": 0.25, "ci95": [0.2, 0.3]}
    names = ("dice", "sensitivity", "ppv", "lesion_f1", "volume_icc")
    summary: dict[str, Any] = {"run": "cnn", "split": "dev", "n_series": 3, "n_patients": 2}
    summary |= {**dict.fromkeys(names, value), "uncalibrated": dict.fromkeys(names, lower)}
    head, result, uncalibrated = describe_evaluation(summary).splitlines()
    assert head == "cnn, dev: 3 scans of 2 patients"
    assert result.startswith("  at the operating point: dice 0.500 [0.400; 0.600]; sensitivity 0.500")
    assert uncalibrated.startswith("  uncalibrated, at probability 0.5: dice 0.250 [0.200; 0.300]")
