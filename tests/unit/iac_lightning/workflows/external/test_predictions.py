"""Which masks follow from the files of another program, and what is said of those that do not fit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from data_modules.cohort.series import read_series
from data_modules.cohort.table import Series, read_cohort, write_cohort
from data_modules.errors import UserError
from data_modules.scan.geometry import Grid, Volume
from data_modules.scan.nifti import write_nifti
from iac_lightning.evaluation.calibration.record import Calibration
from iac_lightning.workflows.external.predictions import (
    Prediction,
    find_predictions,
    measure_prediction,
    raise_all,
    read_masks,
)

GRID = Grid((9, 1, 1), np.diag([0.5, 0.5, 2.0, 1.0]))
HU = [900, 900, -900, 129, 129, -900, 900, -900, 130]
RAW = [0.6, 0.6, 0.0, 0.9, 0.9, 0.0, 0.9, 0.0, 0.5]
"""Two neighbours that the program is unsure of, two sure ones that are dark, a sure one alone, one as likely as not."""
SURE, PAIR, ALL = [0, 0, 0, 1, 1, 0, 1, 0, 0], [1, 1, 0, 0, 0, 0, 0, 0, 0], [1, 1, 0, 1, 1, 0, 1, 0, 1]
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
def series(tmp_path: Path) -> Series:
    write_nifti(row(HU, np.int16), tmp_path / "images/a1.nii.gz")
    write_nifti(row(PAIR, np.uint8), tmp_path / "labels/a1.nii.gz")
    columns = ["patient_id", "series_id", "image", "label", "split", "slice_thickness_mm", "kernel", "manufacturer"]
    line = ("a", "a1", "images/a1.nii.gz", "labels/a1.nii.gz", "dev", 2.0, "", "")
    write_cohort(tmp_path / "cohort.csv", pd.DataFrame([line], columns=columns))
    (only,) = read_cohort(tmp_path / "cohort.csv").series
    return only


def masks_of(prediction: Prediction) -> list[list[int] | None]:
    found = read_masks(prediction, read_series(prediction.series))
    return [None if mask is None else mask.data.ravel().astype(int).tolist() for mask in found]


def test_a_mask_is_taken_as_it_is_and_by_the_protocol(series: Series, tmp_path: Path) -> None:
    write_nifti(row(ALL, np.uint8), tmp_path / "p/a1.nii.gz")
    (prediction,), problems = find_predictions(tmp_path / "p", [series])
    assert not problems
    assert masks_of(prediction) == [PAIR, ALL, None]  # dark voxels go, and those that are then alone


def test_probabilities_are_cut_where_it_is_said(series: Series, tmp_path: Path) -> None:
    write_nifti(row(RAW, np.float32), tmp_path / "p/a1.nii.gz")
    for threshold, expected in ((None, ALL), (0.7, SURE)):
        (prediction,), _ = find_predictions(tmp_path / "p", [series], threshold)
        assert prediction.threshold == (threshold or 0.5)
        assert masks_of(prediction)[1] == expected


def test_a_calibrated_model_has_a_threshold_for_each_mask(series: Series, tmp_path: Path) -> None:
    write_nifti(row(RAW, np.float32), tmp_path / "p/a1.nii.gz")
    (prediction,), _ = find_predictions(tmp_path / "p", [series])
    calibrated = replace(prediction, calibration=CALIBRATION)
    assert masks_of(calibrated) == [PAIR, SURE, ALL]  # the last without calibration
    measured = measure_prediction(calibrated)
    assert not isinstance(measured, str)
    assert measured[0]["dice"] == 1.0
    assert measured[0]["plain_dice"] == 0.0
    assert measured[0]["uncalibrated_dice"] == pytest.approx(2 * 2 / (6 + 2))


def test_files_that_do_not_belong_are_all_named(series: Series, tmp_path: Path) -> None:
    write_nifti(Volume(np.zeros((2, 1, 1), bool), Grid((2, 1, 1), GRID.affine)), tmp_path / "p/a1.nii.gz")
    write_nifti(row(SURE, np.uint8), tmp_path / "p/b1.nii.gz")
    predictions, problems = find_predictions(tmp_path / "p", [series])
    assert predictions == []
    assert problems == [
        "a1.nii.gz: (2, 1, 1) voxels, the scan has (9, 1, 1)",
        "b1.nii.gz: no series of this split is called so",
    ]
    with pytest.raises(UserError, match=r"2 problems with the predictions of the 1 series of split 'dev'"):
        raise_all(problems, tmp_path / "p", 1, "dev")
    raise_all([], tmp_path / "p", 1, "dev")


def test_predictions_in_another_order_of_the_axes_and_in_capitals(series: Series, tmp_path: Path) -> None:
    flip = np.diag([-1.0, 1.0, 1.0, 1.0])
    flip[0, 3] = 8
    turned = Volume(row(ALL, np.uint8).data[::-1], Grid((9, 1, 1), GRID.affine @ flip))
    write_nifti(turned, tmp_path / "p/a1.NII.GZ")
    (prediction,), problems = find_predictions(tmp_path / "p", [series])
    assert not problems
    assert masks_of(prediction) == [PAIR, ALL, None]
    foreground = np.array(RAW, np.float32)[::-1].reshape(1, 1, 1, 9)  # as nnU-Net writes it, on its mask's own voxels
    np.savez(tmp_path / "p/a1.npz", probabilities=np.concatenate([1 - foreground, foreground]))
    (prediction,), problems = find_predictions(tmp_path / "p", [series], 0.7)
    assert not problems
    assert masks_of(prediction)[1] == SURE
