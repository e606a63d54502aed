"""Interval and risk group of one scan, as the reports make them."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from iac_lightning.evaluation.clinical.conformal import fit_conformal, volume_intervals
from iac_lightning.evaluation.clinical.reference import (
    NOT_KNOWN,
    Development,
    Reference,
    interval_words,
    risk_words,
    volume_and_risk,
)
from iac_lightning.evaluation.clinical.risk import cutoffs_from_development
from iac_lightning.evaluation.statistics.strata import strata_from_edges

N = 30


@pytest.fixture
def development() -> Development:
    """Thirty patients whose volumes are found off by up to 4 √mm³."""
    rng = np.random.default_rng(0)
    label = np.linspace(0, 20, N) ** 2
    return Development(
        patient=tuple(range(N)),
        slice_thickness_mm=tuple(rng.uniform(0.5, 8, N).tolist()),
        volume_mm3=tuple(((np.sqrt(label) + rng.uniform(0, 4, N)) ** 2).tolist()),
        label_volume_mm3=tuple(label.tolist()),
        coverage=0.9,
        thickness_edges_mm=(1.0, 3.0),
    )


def test_the_same_as_in_a_report(development: Development) -> None:
    found = volume_and_risk(development, 100.0, 2.0)
    table = development.table()
    cutoffs = cutoffs_from_development(table)
    scan = pd.DataFrame({"series_id": ["a"], "patient_id": ["a"], "volume_mm3": [100.0], "slice_thickness_mm": [2.0]})
    row = volume_intervals(fit_conformal(table, 0.9, strata_from_edges((1.0, 3.0))), scan, cutoffs).iloc[0]
    interval, risk = found["volume_interval"], found["risk"]
    assert (interval["low_mm3"], interval["high_mm3"]) == (row["low_mm3"], row["high_mm3"])
    assert (interval["n_patients"], interval["stratum"], interval["coverage"]) == (N, "1–3 mm", 0.9)
    assert 0 < interval["low_mm3"] < 100 < interval["high_mm3"] < 400
    assert risk["set"] == row["groups"].split("|")
    assert risk["group"] in risk["set"]
    assert risk["cutoffs_mm3"] == list(cutoffs.limits_mm3)
    assert json.loads(json.dumps(found)) == found


def test_fixed_limits_go_before_those_of_development(development: Development) -> None:
    risk = volume_and_risk(replace(development, risk_cutoffs_mm3=(0.0, 90.0, 110.0)), 100.0, 2.0)["risk"]
    assert (risk["group"], risk["cutoffs_mm3"]) == ("medium", [0.0, 90.0, 110.0])


def test_what_too_few_patients_cannot_promise_is_open(development: Development) -> None:
    few = {name: getattr(development, name)[20:24] for name in ("patient", "slice_thickness_mm", "volume_mm3")}
    found = volume_and_risk(replace(development, **few, label_volume_mm3=development.label_volume_mm3[20:24]), 9.0, 2.0)
    interval = found["volume_interval"]
    assert (interval["low_mm3"], interval["high_mm3"]) == (0, None)
    assert any("cannot promise 90%" in remark for remark in interval["remarks"])
    assert found["risk"]["set"] == ["none", "low", "medium", "high"]
    assert interval_words(interval) == "90 % interval from 0 mm³ up, without an upper end"


def test_without_lesions_in_development_there_is_an_interval_and_no_group(development: Development) -> None:
    found = volume_and_risk(replace(development, label_volume_mm3=(0.0,) * N), 100.0, 2.0)
    assert found["volume_interval"]["high_mm3"] > 100
    assert (found["risk"]["group"], found["risk"]["set"]) == (None, None)
    assert "makes no risk groups" in found["risk"]["unknown"]
    assert risk_words(found["risk"]) == "risk group not known"


def test_what_is_not_kept_is_said() -> None:
    found = volume_and_risk(None, 100.0, 2.0)
    assert found["volume_interval"] == {"low_mm3": None, "high_mm3": None, "unknown": NOT_KNOWN}
    assert found["risk"] == {"group": None, "set": None, "unknown": NOT_KNOWN}


def test_it_survives_json_and_what_is_none_is_refused(development: Development) -> None:
    reference = Reference(development=development)
    record = json.loads(json.dumps(reference.to_dict()))
    assert Reference.from_dict(record) == reference
    assert Reference.from_dict({}) == Reference()
    wrong = [
        {"volume_mm3": [-1.0] * N},
        {"volume_mm3": [1.0]},
        {"coverage": 1.0},
        {"thickness_edges_mm": [3.0, 1.0]},
        {"risk_cutoffs_mm3": ["a", 1, 2]},
        {name: [] for name in ("patient", "slice_thickness_mm", "volume_mm3", "label_volume_mm3")},
        {"more": 1},
    ]
    for change in wrong:
        with pytest.raises(ValueError, match=r"development scans|edges of slice thickness"):
            Reference.from_dict({"development": record["development"] | change})
    with pytest.raises(ValueError, match="no object"):
        Reference.from_dict([])
