from __future__ import annotations

import json
import pickle
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from data_modules.errors import UserError
from data_modules.scan.geometry import Grid, Volume
from iac_lightning.evaluation.calibration.record import (
    APPLIED,
    DECIDING,
    Calibration,
    describe_calibration,
    describe_scaling,
    reliability,
)
from iac_lightning.evaluation.calibration.scaling import IDENTITY, Scaling, apply

THICK_IS_OWN = {
    "used": True,
    "why": "thresholds by stratum",
    "strata": [
        {"above_mm": 0.0, "up_to_mm": 4.0, "threshold": None},
        {"above_mm": 4.0, "up_to_mm": None, "threshold": 0.2},
    ],
}
ONE_FOR_ALL: dict[str, Any] = {"used": False, "why": "one threshold for all", "strata": []}
RECORD: dict[str, Any] = {
    "temperature": 2.0,
    "bias": -1,
    "by_thickness": None,
    "scaling": "temperature and bias",
    "scaling_why": "temperature and bias; negative log-likelihood: less",
    "after": "cross-validated by patient in 5 folds",
    **{f"{name}_{when}": 0.125 for name in ("ece", "adaptive_ece", "brier", "nll") for when in ("before", "after")},
    "n_series": 9,
    "n_patients": 7,
    "lesions": None,
    "warnings": ["the bones are old"],
    "reliability_before": [{"bin": [0, 0.1]}],
    "reliability_after": [],
    "operating_point": {
        "aim": "balanced",
        "rule": "protocol",
        "least_lesion_mm3": 0.0,
        "threshold": 0.3,
        "thickness": ONE_FOR_ALL,
        "alternatives": ["a table"],
        "cross_validated": {
            "dice": 0.5,
            "lesion_f1": 0.625,
            "false_components_per_scan": 1.25,
            "n_false_alarm": 0,
            "n_lesion_free": 7,
        },
    },
    "plain_threshold": 0.5,
    "plain_thickness": THICK_IS_OWN,
    "checkpoint_sha256": "0123",
    "depends_on": "4567",
}
"""Temperature 2 and bias −1: raw 0.5, 0.6 and 0.9 become sigmoid(−1) = 0.269, sigmoid(0.405 / 2 − 1) = 0.310 and
sigmoid(2.197 / 2 − 1) = 0.525."""

BY_THICKNESS = {"slope": 0.5, "bias": 1.0, "thinnest_mm": 1.0, "thickest_mm": 4.0}

RAW = [0.6, 0.6, 0.0, 0.9, 0.9, 0.0, 0.9, 0.0, 0.5]
HU = [200, 200, 200, 129, 129, 200, 200, 200, 130]
"""A row of voxels: two unsure neighbours, two sure ones that are dark, a sure one alone, and one as likely as not."""


def with_point(**changed: Any) -> dict[str, Any]:
    """The record with another operating point."""
    return RECORD | {"operating_point": RECORD["operating_point"] | changed}


def row(values: list[Any], dtype: type) -> Volume:
    data = np.array(values, dtype).reshape(-1, 1, 1)
    return Volume(data, Grid(data.shape, np.diag([0.5, 0.5, 2.0, 1.0])))


@pytest.fixture
def calibration() -> Calibration:
    return Calibration.from_dict(RECORD)


def test_apply_by_hand(calibration: Calibration):
    raw = row(RAW, np.float32)
    calibrated = calibration.apply(raw, 2.0)
    assert calibrated.data.ravel() == pytest.approx([0.3106, 0.3106, 0, 0.5246, 0.5246, 0, 0.5246, 0, 0.2689], abs=1e-4)
    assert calibrated.data.dtype == np.float32
    assert calibrated.grid.same_as(raw.grid)


def test_masks_by_hand(calibration: Calibration):
    """At 0.5 the sure ones; under the protocol at 0.3 the unsure pair too, but nothing dark and nothing alone."""
    probability = calibration.apply(row(RAW, np.float32), 2.0)
    protocol, plain = calibration.masks(probability, row(HU, np.int16), 2.0)
    assert plain.data.ravel().tolist() == [0, 0, 0, 1, 1, 0, 1, 0, 0]
    assert protocol.data.ravel().tolist() == [1, 1, 0, 0, 0, 0, 0, 0, 0]
    assert plain.data.dtype == protocol.data.dtype == np.bool_


def test_rule_and_least_lesion_by_hand(calibration: Calibration):
    """At 0.3 all but the last: two pairs and a single voxel, each voxel of 0.5 mm³."""
    probability, hu = calibration.apply(row(RAW, np.float32), 2.0), row(HU, np.int16)
    for rule, least_mm3, expected in (
        ("none", 0.0, [1, 1, 0, 1, 1, 0, 1, 0, 0]),
        ("none", 0.5, [1, 1, 0, 1, 1, 0, 1, 0, 0]),
        ("none", 0.6, [1, 1, 0, 1, 1, 0, 0, 0, 0]),
        ("protocol", 1.0, [1, 1, 0, 0, 0, 0, 0, 0, 0]),
        ("protocol", 1.1, [0] * 9),
    ):
        cut = Calibration.from_dict(with_point(rule=rule, least_lesion_mm3=least_mm3))
        assert cut.masks(probability, hu, 2.0).mask.data.ravel().tolist() == expected, (rule, least_mm3)


def test_each_mask_follows_the_slice_thickness_by_its_own_strata(calibration: Calibration):
    assert [calibration.plain.at(mm) for mm in (1.0, 4.0, 4.01)] == [0.5, 0.5, 0.2]
    assert [calibration.point.thresholds.at(mm) for mm in (1.0, 4.0, 4.01)] == [0.3] * 3
    probability, hu = calibration.apply(row(RAW, np.float32), 2.0), row(HU, np.int16)
    protocol, plain = calibration.masks(probability, hu, 5.0)
    assert plain.data.ravel().tolist() == [1, 1, 0, 1, 1, 0, 1, 0, 1]
    assert protocol.data.ravel().tolist() == [1, 1, 0, 0, 0, 0, 0, 0, 0]
    other = Calibration.from_dict(with_point(thickness=THICK_IS_OWN) | {"plain_thickness": ONE_FOR_ALL})
    protocol, plain = other.masks(probability, hu, 5.0)
    assert plain.data.ravel().tolist() == [0, 0, 0, 1, 1, 0, 1, 0, 0]
    assert protocol.data.ravel().tolist() == [1, 1, 0, 0, 0, 0, 0, 0, 0]  # at 0.2 the last voxel stays alone
    strict = Calibration.from_dict(with_point(threshold=0.9, thickness=THICK_IS_OWN))
    assert not strict.masks(probability, hu, 2.0).mask.data.any()
    assert strict.masks(probability, hu, 5.0).mask.data.sum() == 2


def test_a_probability_at_its_threshold_belongs_to_the_mask():
    quarters = Calibration.from_dict(with_point(threshold=0.5) | {"plain_threshold": 0.75})
    protocol, plain = quarters.masks(row([0.75, 0.74, 0.0, 0.5, 0.5], np.float32), row([200] * 5, np.int16), 2.0)
    assert plain.data.ravel().tolist() == [1, 0, 0, 0, 0]
    assert protocol.data.ravel().tolist() == [1, 1, 0, 1, 1]


def test_a_scan_on_another_grid_is_refused(calibration: Calibration):
    with pytest.raises(UserError, match="grid"):
        calibration.masks(calibration.apply(row(RAW, np.float32), 2.0), row(HU[:-1], np.int16), 2.0)


def test_the_uncalibrated_mask_is_that_of_raw_one_half(calibration: Calibration):
    raw = row([0.0, 0.499, 0.5, 0.501, 0.9], np.float32)
    assert calibration.uncalibrated_mask(calibration.apply(raw, 2.0), 2.0).data.ravel().tolist() == [0, 0, 1, 1, 1]


def test_slice_thickness_changes_the_scaling_everywhere():
    """x = log(2 mm / 2 mm) = 0 in the middle; log 2 at 4 mm and beyond."""
    thick = Calibration.from_dict(RECORD | {"by_thickness": BY_THICKNESS})
    raw = row([0.0, 0.499, 0.5, 0.501, 0.9], np.float32)
    np.testing.assert_array_equal(thick.apply(raw, 2.0).data, apply(raw.data, 2.0, -1.0))
    slope, bias = 0.5 + 0.5 * np.log(2), -1 + np.log(2)
    for mm in (4.0, 9.0):
        found = thick.apply(raw, mm)
        np.testing.assert_allclose(found.data, apply(raw.data, 1 / slope, bias), rtol=1e-6)
        assert thick.uncalibrated_mask(found, mm).data.ravel().tolist() == [0, 0, 1, 1, 1]
        np.testing.assert_allclose(thick.undo(found.data, mm), raw.data, rtol=1e-5)
    assert Calibration.from_dict(thick.to_dict()) == thick
    assert thick.facts(("by_thickness",)) == {"by_thickness": BY_THICKNESS}
    assert "by slice thickness (1 mm: temperature" in describe_scaling(thick.scaling)
    assert describe_scaling(IDENTITY) == "no calibration (temperature 1.000, bias +0.000)"


def test_there_and_back_gives_the_same_bytes():
    for record in (RECORD, dict(reversed(RECORD.items())), {name: RECORD[name] for name in APPLIED}):
        again = Calibration.from_dict(json.loads(json.dumps(record))).to_dict()
        assert json.dumps(again) == json.dumps(record)  # the order of the keys too, and whole numbers stay whole


def test_what_is_changed_is_written_in_its_place(calibration: Calibration):
    changed = replace(
        calibration, scaling=Scaling(temperature=2.0, bias=0.5), point=replace(calibration.point, least_lesion_mm3=2.0)
    ).to_dict()
    assert list(changed) == list(RECORD)
    assert changed == with_point(least_lesion_mm3=2.0) | {"bias": 0.5}


def test_facts_are_given_in_the_order_they_are_asked_for(calibration: Calibration):
    assert list(calibration.facts(("n_patients", "bias")).items()) == [("n_patients", 7), ("bias", -1)]
    deciding = {
        name: value
        for name, value in RECORD["operating_point"].items()
        if name not in ("alternatives", "cross_validated")
    }
    assert calibration.facts(APPLIED) == {name: RECORD[name] for name in APPLIED} | {"operating_point": deciding}
    with pytest.raises(KeyError):
        calibration.facts(("nobody",))


def test_it_travels_to_worker_processes(calibration: Calibration):
    assert pickle.loads(pickle.dumps(calibration)) == calibration


def test_a_file_without_its_numbers_is_refused_by_name():
    broken = {name: value for name, value in RECORD.items() if name not in ("bias", "plain_thickness")}
    broken["operating_point"] = {"aim": "dice", "rule": "none", "least_lesion_mm3": 1, "threshold": 0.5}
    told = "without bias, plain_thickness, operating_point.thickness: .*iac calibrate"
    with pytest.raises(UserError, match=rf"runs/a/calibration\.json: .* {told}"):
        Calibration.from_dict(broken, "runs/a/calibration.json")
    with pytest.raises(UserError, match=r"^calibration\.json: "):
        Calibration.from_dict(broken)


def test_reliability_parts_before_from_after():
    assert reliability(RECORD, "before")["reliability"] == [{"bin": [0, 0.1]}]
    assert reliability(RECORD | {"nll_after": 3.0}, "after") == {
        "ece": 0.125,
        "adaptive_ece": 0.125,
        "brier": 0.125,
        "nll": 3.0,
        "reliability": [],
    }


def test_described_for_the_terminal(calibration: Calibration):
    assert describe_calibration(calibration).splitlines() == [
        "temperature 2.000, bias -1.000 (9 development scans of 7 patients)",
        "  chosen: temperature and bias; negative log-likelihood: less",
        "  voxels before and after (cross-validated by patient in 5 folds):",
        "    ece: 0.125 before, 0.125 after",
        "    adaptive_ece: 0.125 before, 0.125 after",
        "    brier: 0.125 before, 0.125 after",
        "    nll: 0.125 before, 0.125 after",
        "  operating point (balanced): probability ≥ 0.3; at least 130 HU, no single voxels",
        "    on other patients: Dice 0.500, lesion F1 0.625, 1.2 false components a scan, 0 false alarms on 7 "
        "lesion-free scans",
        "  by slice thickness: one threshold for all",
        "  threshold alone: 0.5",
        "  warning: the bones are old",
    ]


def test_an_operating_point_that_finds_nothing_is_said_to():
    def told(lesion_sensitivity: float) -> str:
        changed = with_point(fitted={"lesion_sensitivity": lesion_sensitivity})
        return describe_calibration(Calibration.from_dict(RECORD | changed))

    assert "    warning: no lesion of the development scans is found here" in told(0.0)
    assert "no lesion" not in told(0.01)


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"temperature": 0}, "temperature 0, expected 0.05 to 20"),
        ({"temperature": -1.0}, "temperature -1.0"),
        ({"temperature": float("nan")}, "temperature nan"),
        ({"temperature": "2"}, "temperature '2'"),
        ({"temperature": 20.1}, "temperature 20.1"),
        ({"bias": float("inf")}, "bias inf"),
        ({"bias": None}, "bias None"),
        ({"by_thickness": {"slope": 1.0}}, r"by_thickness \{'slope': 1.0\}, expected null or slope, bias"),
        ({"by_thickness": BY_THICKNESS | {"thinnest_mm": 0}}, "by_thickness"),
        ({"by_thickness": BY_THICKNESS | {"bias": float("nan")}}, "by_thickness"),
        ({"plain_threshold": 2}, "plain_threshold 2, expected a number between 0 and 1"),
        ({"plain_threshold": 0.0}, "plain_threshold 0.0"),
        ({"plain_threshold": True}, "plain_threshold True"),
        (with_point(threshold=-0.5), r"operating_point\.threshold -0.5"),
        (with_point(rule="bright"), r"operating_point\.rule 'bright', expected protocol, none"),
        (with_point(aim=None), r"operating_point\.aim None, expected balanced, dice"),
        (with_point(least_lesion_mm3=-1), r"operating_point\.least_lesion_mm3 -1, expected a number of 0 or more"),
        ({"operating_point": 0.5}, "operating_point 0.5, expected an object"),
        ({"plain_thickness": []}, "plain_thickness without used"),
        (with_point(thickness={"used": True}), r"operating_point\.thickness without used .* and strata"),
        (
            {"plain_thickness": {"used": True, "strata": [{"above_mm": 0, "up_to_mm": 4, "threshold": 2}]}},
            r"plain_thickness\.strata\[0\]",
        ),
        (
            {"plain_thickness": {"used": True, "strata": [{"above_mm": 4, "up_to_mm": 1, "threshold": 0.2}]}},
            r"plain_thickness\.strata\[0\]",
        ),
        ({"plain_thickness": {"used": True, "strata": [{"threshold": 0.2}]}}, r"plain_thickness\.strata\[0\]"),
    ],
)
def test_values_that_no_calibration_has_are_refused(changed: dict[str, Any], told: str):
    with pytest.raises(UserError, match=rf"a\.json: not a calibration: {told}.*iac calibrate"):
        Calibration.from_dict(RECORD | changed, "a.json")


def test_a_calibration_of_before_operating_points_is_read_as_what_it_did(calibration: Calibration):
    old = {name: value for name, value in RECORD.items() if name not in DECIDING[2:]}
    old |= {"threshold": 0.5, "thickness": THICK_IS_OWN, "prior_threshold": 0.3, "prior_thickness": ONE_FOR_ALL}
    found = Calibration.from_dict(old)
    assert found.point == replace(calibration.point, aim="dice")
    assert found.plain == calibration.plain
    assert Calibration.from_dict(found.to_dict()) == found


def test_temperatures_at_their_limits_are_fine():
    for slope in (0.05, 20.0):
        Calibration.from_dict(RECORD | {"temperature": 1 / slope})
    with pytest.raises(UserError, match="not a calibration: list, expected an object"):
        Calibration.from_dict([])  # type: ignore[arg-type]
