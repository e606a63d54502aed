"""Quality of calibrated probabilities from sums of scans."""

from __future__ import annotations

import numpy as np
import pytest

from data_modules.scan.geometry import Grid, Volume
from iac_lightning.evaluation.calibration.held_out import (
    describe_reliability,
    held_out_lesions,
    reliability_of_scans,
    sums_of_scan,
)
from iac_lightning.evaluation.calibration.quality import STREAMED, quality
from iac_lightning.evaluation.calibration.record import Calibration
from iac_lightning.evaluation.calibration.scaling import IDENTITY, Scaling, apply
from tests.unit.iac_lightning.evaluation.calibration.synthetic_voxels import voxels
from tests.unit.iac_lightning.evaluation.calibration.test_record import BY_THICKNESS, RECORD

SHAPE = (20, 10, 5)


def test_a_split_scan_by_scan_is_the_split_at_once() -> None:
    calibration = Calibration.from_dict(RECORD | {"by_thickness": BY_THICKNESS})
    grid, patients = Grid(SHAPE, np.eye(4)), ["a", "a", "b", "c"]
    scans, before, after = [], [], []
    for k, mm in enumerate((1.0, 2.0, 3.0, 9.0)):
        raw, label = voxels(1_000, k, sharpen=2.0)
        raw[::7] = 0
        dark = np.arange(1_000) % 11 == 0
        own = calibration.scaling.of(mm)
        p = apply(raw, own.temperature, own.bias)
        mask = p > 0.1
        volumes = (Volume(x.reshape(SHAPE), grid) for x in (p, mask, label))
        scans.append(sums_of_scan(*volumes, calibration, mm, ~dark.reshape(SHAPE)))
        says = (raw > 0) & ~dark
        before.append((raw[says], label[says]))
        after.append((p[says], label[says]))
    found = reliability_of_scans(scans, patients)
    for when, parts in (("before", before), ("after", after)):
        expected = quality(parts, patients)
        for name in (*STREAMED, "n_voxels", "n_lesion_voxels"):
            assert found["voxels"][when][name] == pytest.approx(expected[name], rel=1e-4)
    assert found["lesions"]["before"]["n_candidates"] == found["lesions"]["after"]["n_candidates"] > 0
    lines = describe_reliability(found)
    assert lines[0].startswith("  probabilities of voxels, uncalibrated to calibrated: ece ")
    assert len(lines) == 2


def test_marked_lesions_of_development_scans_go_by_the_fit_to_others() -> None:
    candidates = [(np.array([0.5], np.float32), np.array([True])), (np.array([0.5], np.float32), np.array([False]))]
    found = held_out_lesions(candidates, [IDENTITY, Scaling(temperature=1.0, bias=-np.log(3))], ["a", "b"])
    assert found is not None
    assert found["before"]["brier"] == pytest.approx(0.25)
    assert found["after"]["brier"] == pytest.approx((0.25 + 0.25**2) / 2)  # the second lies at a quarter


def test_without_a_candidate_there_is_nothing_to_say() -> None:
    nothing = (np.zeros(0, np.float32), np.zeros(0, bool))
    assert held_out_lesions([nothing], [IDENTITY], ["a"]) is None
    assert describe_reliability({"voxels": None, "lesions": None}) == describe_reliability(None) == []
