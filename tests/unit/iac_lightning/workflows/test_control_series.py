"""One series under a control: measured as the network itself is, kept, and measured again where anything differs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from data_modules.scan.geometry import Grid, Volume
from data_modules.scan.scan import Scan
from iac_lightning.config.schema import ExperimentConfig
from iac_lightning.evaluation.calibration.record import Calibration
from iac_lightning.runs.directory import Run
from iac_lightning.workflows import control_series, one_series, trained
from iac_lightning.workflows.control_series import ControlWork, control_dice
from iac_lightning.workflows.evaluate import evaluation_work
from iac_lightning.workflows.one_series import evaluate_series
from iac_lightning.workflows.trained import ALONE, TrainedModel, on_host

GRID = Grid((6, 1, 1), np.diag([0.5, 0.5, 2.0, 1.0]))
LABEL = [1, 1, 0, 0, 1, 0]
HU = [900, 900, 900, 900, 90, 900]
RAW = [0.9, 0.9, 0.9, 0.0, 0.9, 0.0]
NO_STRATA: dict[str, Any] = {"used": False, "strata": []}
CALIBRATION = Calibration.from_dict(
    {
        "temperature": 2.0,  # 0.9 becomes 0.525
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
    return Volume(np.array(values, dtype).reshape(6, 1, 1), GRID)


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
    for module in (one_series, control_series):
        monkeypatch.setattr(module, "read_series", lambda series: scan)
        monkeypatch.setattr(module, "read_label", lambda series, like, look: row(LABEL, np.uint8))
    monkeypatch.setattr(one_series, "native_probability", lambda item, common, restrict_hu: common)
    return TrainedModel(Run(tmp_path / "run", ExperimentConfig(name="a")), torch.nn.Identity(), "cpu", "01", [])  # type: ignore[arg-type]


def series_item(name: str = "a1") -> Any:
    series = SimpleNamespace(series_id=name, patient_id="a", true_volume_mm3=None, label_2=None)
    return SimpleNamespace(series=series, slice_thickness_mm=2.0, source_sha256="4567")


def work(model: TrainedModel, name: str = "a1", calibration: Calibration = CALIBRATION) -> ControlWork:
    whole = evaluation_work(model, series_item(name), "dev", calibration)
    return ControlWork(**vars(whole), control="mean_tokens")


def measured(model: TrainedModel, *works: ControlWork) -> list[dict[str, float]]:
    return list(on_host(model, works, control_dice, ALONE))


def test_dice_by_hand_and_as_of_the_network_itself(model: TrainedModel) -> None:
    (found,) = measured(model, work(model))
    assert found["dice"] == pytest.approx(2 * 2 / (3 + 3))  # the dark voxel is gone
    assert found["plain_dice"] == pytest.approx(2 * 3 / (4 + 3))
    (own,) = on_host(model, [evaluation_work(model, series_item(), "dev", CALIBRATION)], evaluate_series, ALONE)
    assert {name: own.row[name] for name in found} == found


def test_what_was_measured_is_kept_and_the_network_asked_for_the_rest(
    model: TrainedModel, predicted: list[str]
) -> None:
    works = [work(model, name) for name in ("a1", "a2", "a3")]
    found = measured(model, works[1])  # and killed
    again = measured(model, *works)
    assert predicted == ["a2", "a1", "a3"]
    assert again == found * 3
    assert not list(works[0].folder.glob("*.nii.gz"))  # numbers alone


def test_another_threshold_or_network_is_measured_again(model: TrainedModel, predicted: list[str]) -> None:
    measured(model, work(model))
    higher = Calibration.from_dict({**CALIBRATION.to_dict(), "plain_threshold": 0.6})
    (found,) = measured(model, work(model, calibration=higher))
    assert found["plain_dice"] == 0
    measured(replace(model, checkpoint_sha256="02"), work(replace(model, checkpoint_sha256="02")))
    assert predicted == ["a1"] * 3


@pytest.mark.parametrize("text", ["", "{", "[]", '{"dice": {"dice": 1}}', '{"dice": 3, "key": {}}'])
def test_a_damaged_file_is_measured_again(model: TrainedModel, predicted: list[str], text: str) -> None:
    whole = measured(model, work(model))
    path = work(model).path
    kept = path.read_text()
    path.write_text(text)
    assert measured(model, work(model)) == whole
    assert predicted == ["a1", "a1"]
    assert json.loads(path.read_text()) == json.loads(kept)


def test_an_uncalibrated_map_of_the_network_itself_does_not_stand_for_it(
    model: TrainedModel, predicted: list[str]
) -> None:
    list(on_host(model, [evaluation_work(model, series_item(), "dev", CALIBRATION)], evaluate_series, ALONE))
    measured(model, work(model))
    assert predicted == ["a1", "a1"]
