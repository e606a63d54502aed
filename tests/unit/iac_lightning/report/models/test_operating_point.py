"""The choice, its alternatives and their price, and the curve with the point."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from iac_lightning.evaluation.tables.model_result import ModelResult
from iac_lightning.report.models.operating_point import operating_point_section
from iac_lightning.report.page import ReportContext

CONTEXT = ReportContext(title="t", question="q", split="test", seed=3)
FIGURES = {
    "balanced": 0.75,
    "dice": 0.5,
    "lesion_f1": 0.625,
    "lesion_sensitivity": 0.9,
    "small_lesion_sensitivity": 0.4,
    "false_components_per_scan": 1.25,
    "n_false_alarm": 0,
    "n_lesion_free": 7,
    "n_series": 20,
}


def calibration(**changed: Any) -> dict[str, Any]:
    dearer = {**FIGURES, "dice": 0.55, "n_false_alarm": 7, "false_components_per_scan": 75.9}
    cut = {"rule": "protocol", "least_lesion_mm3": 2.0, "threshold": 0.314}
    alternatives = [
        {
            "name": "for dice",
            "aim": "dice",
            **cut,
            "least_lesion_mm3": 0.0,
            "fitted": FIGURES,
            "cross_validated": dearer,
        },
        {"name": "uncalibrated, at probability 0.5", "fitted": None, "cross_validated": FIGURES},
    ]
    froc = {"threshold": [0.1, 0.5], "false_components_per_scan": [80.0, 0.5], "lesion_sensitivity": [0.95, 0.4]}
    point = {"aim": "balanced", **cut, "fitted": FIGURES, "cross_validated": FIGURES, "alternatives": alternatives}
    return {"n_series": 20, "n_patients": 14, "seed": 0, "operating_point": {**point, "froc": froc, **changed}}


def section(models: dict[str, ModelResult], **changed: Any) -> Any:
    first = next(iter(models))
    return operating_point_section(
        {**models, first: replace(models[first], calibration=calibration(**changed))}, CONTEXT
    )


def test_the_choice_stands_above_what_else_could_have_been(model_results: dict[str, ModelResult]) -> None:
    found = section(model_results)
    (table,), (figure,) = found.tables, found.figures
    assert [row[0] for row in table.rows] == [
        "VIT: chosen, for balanced",
        "+ for dice",
        "+ uncalibrated, at probability 0.5",
    ]
    assert table.rows[0][1] == "≥ 0.31; ≥ 2 mm³; protocol"
    assert table.rows[0][2:] == ["0.750", "0.500", "0.625", "0.900", "0.400", "1.25", "0 of 7"]
    assert table.rows[1][1:4] == ["≥ 0.31; any size; protocol", "0.750", "0.550"]
    assert table.rows[1][-2:] == ["75.90", "7 of 7"]
    assert table.rows[2][1] == "–"
    assert table.source == "20 scans of 14 patients, development split, seed 0"
    assert "before such choices were recorded: SCRATCH, CNN" in table.legend
    assert "not cross-validated" not in table.legend.lower()
    assert "balanced (mean Dice of every patient" in found.text
    assert figure.name == "froc"
    assert figure.alt.startswith(
        "At the operating point. VIT: 90\u00a0% of the lesions found, 1.25 false components a scan on the development "
        "split; "
    )
    assert figure.alt.endswith(" false components a scan on the test split.")
    assert len(figure.png) > 5_000


def test_what_could_not_be_cross_validated_says_so(model_results: dict[str, ModelResult]) -> None:
    (table,) = section(model_results, cross_validated=None).tables
    assert table.rows[0][0] == "VIT: chosen, for balanced (not cross-validated)"
    assert table.rows[0][3] == "0.500"
    assert "fewer than two patients have lesions" in table.legend


@pytest.mark.parametrize("known", [None, {"operating_point": {"aim": "dice", "threshold": 0.3}}])
def test_without_a_recorded_choice_there_is_no_section(model_results: dict[str, ModelResult], known: Any) -> None:
    models = {name: replace(model, calibration=known) for name, model in model_results.items()}
    assert operating_point_section(models, CONTEXT) is None


def test_thresholds_by_slice_thickness_are_told(model_results: dict[str, ModelResult]) -> None:
    strata = [{"stratum": "≤ 2 mm", "threshold": 0.2}, {"stratum": "> 2 mm", "threshold": None}]
    found = section(model_results, thickness={"used": True, "strata": strata})
    assert found.tables[0].rows[0][1].startswith("≥ 0.2 at ≤ 2 mm, else 0.31; ≥ 2 mm³")
    assert "beside its curve" in found.figures[0].caption
    one = section(model_results, thickness={"used": False, "strata": strata})
    assert one.tables[0].rows[0][1].startswith("≥ 0.31; ")
    assert "beside its curve" not in one.figures[0].caption
