from __future__ import annotations

from typing import Any

import pytest

from iac_lightning.report.models.comparison import describe_comparison


def comparison(**changes: Any) -> dict[str, Any]:
    slope = {"value": 0.01, "ci95": [0.0, 0.02], "n": 9, "n_patients": 4}
    metric = {
        "difference": {"value": 0.1, "ci95": [0.05, 0.15], "n": 9, "n_patients": 5},
        "wilcoxon_p": 0.01,
        "holm_p": 0.02,
        "cohen_dz": 0.5,
        "rank_biserial": None,
        "wins": 6,
        "ties": 1,
        "losses": 2,
        "slope_per_mm": slope,
        "slope_within_patients_per_mm": slope,
    }
    facts = {"model": "a", "baseline": "b", "split": "dev", "n_series": 12, "n_patients": 7}
    facts |= {"n_with_lesion": 9, "cutoffs": None, "risk": None, "test_looks": {"a": 2, "b": 1}}
    return facts | {"metrics": {"dice": metric | changes}}


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [
        ({}, "established: better"),
        ({"difference": {"value": -0.1, "ci95": [-0.15, -0.05], "n": 9, "n_patients": 5}}, "established: worse"),
        ({"holm_p": 0.06}, "not established"),
        ({"holm_p": None}, "not established"),
        ({"difference": {"value": 0.1, "ci95": [-0.05, 0.15], "n": 9, "n_patients": 5}}, "not established"),
        ({"difference": {"value": 0.1, "ci95": [None, None], "n": 9, "n_patients": 1}}, "not established"),
    ],
)
def test_a_difference_is_established_by_test_and_interval(changes: dict[str, Any], verdict: str) -> None:
    lines = describe_comparison(comparison(**changes)).splitlines()
    assert lines[0] == "a − b, dev: 12 scans of 7 patients, 9 with lesions"
    assert lines[1].endswith(f"patients: {verdict}")


def test_risk_groups_and_looks() -> None:
    text = describe_comparison(comparison())
    assert "risk groups: no cut-offs; fix them" in text
    assert "looks" not in text  # of the development split nobody counts them
    change = {"value": -0.25, "ci95": [-0.5, 0.1], "n": 12, "n_patients": 7}
    risk = {"misclassified": 3, "baseline_misclassified": 4, "relative_change": change}
    risk |= {"patients": {"exact_p": 0.5}, "mcnemar": {"exact_p": 0.0001}}
    cutoffs = {"none_mm3": 0.0, "low_mm3": 20.0, "medium_mm3": 81.25, "source": "fixed in the settings"}
    lines = describe_comparison(comparison() | {"risk": risk, "cutoffs": cutoffs, "split": "test"}).splitlines()
    assert lines[-3] == (
        "  risk groups: 3 against 4 scans misclassified, −25\u00a0% [−50\u00a0%; +10\u00a0%]; sign test over patients "
        "p = 0.500, McNemar over scans p < 0.001"
    )
    assert lines[-2] == "    limits 0, 20, 81.2 mm³: fixed in the settings"
    assert lines[-1] == "  looks at the test split so far, this one included: a 2, b 1"
    risk["relative_change"] = change | {"value": None}
    assert "no relative change, for the baseline makes no error" in describe_comparison(
        comparison() | {"risk": risk, "cutoffs": cutoffs}
    )
