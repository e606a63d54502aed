from __future__ import annotations

import pandas as pd
import pytest
from scipy import stats

from iac_lightning.evaluation.clinical.detection import scan_detection

TABLE = pd.DataFrame(
    {
        "patient_id": ["a", "a", "b", "c", "d", "e", "f"],
        "has_lesion": [True, True, True, True, True, True, False],
        "volume_mm3": [5.0, 0.0, 3.0, 1.0, 2.0, 4.0, 2.0],
        "n_predicted": [2, 0, 1, 1, 1, 1, 3],
        "n_predicted_hit": [1, 0, 1, 0, 1, 1, 0],
        "plain_volume_mm3": [1.0] * 7,
        "plain_n_predicted": [4] * 7,
        "plain_n_predicted_hit": [0] * 7,
    }
)


def test_scans_are_counted_and_intervals_have_patients_as_trials():
    found = scan_detection(TABLE)
    assert (found["tp"], found["fn"], found["tn"], found["fp"]) == (5, 1, 0, 1)
    assert found["sensitivity"]["value"] == pytest.approx(5 / 6)
    assert (found["sensitivity"]["n"], found["sensitivity"]["n_patients"]) == (6, 5)
    assert found["specificity"] == {"value": 0.0, "ci95": [None, None], "n": 1, "n_patients": 1}
    assert found["ppv"]["value"] == pytest.approx(5 / 6)
    assert found["npv"]["value"] == 0.0
    assert found["n_false"] == 1 + 1 + 3
    assert found["false_per_scan"] == pytest.approx(5 / 7)
    assert found["false_per_free_scan"] == 3.0


def test_with_one_scan_a_patient_the_interval_is_the_exact_binomial_one():
    found = scan_detection(TABLE.assign(patient_id=list("abcdefg")))["sensitivity"]
    exact = stats.binomtest(5, 6).proportion_ci(method="exact")
    assert found["ci95"] == pytest.approx([exact.low, exact.high])


def test_other_masks_and_a_split_of_one_kind():
    found = scan_detection(TABLE, "plain_")
    assert (found["tp"], found["fp"], found["false_per_scan"]) == (6, 1, 4.0)
    assert found["npv"] == {"value": None, "ci95": [None, None], "n": 0, "n_patients": 0}
    assert scan_detection(TABLE[TABLE["has_lesion"]])["false_per_free_scan"] is None
