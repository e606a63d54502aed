from __future__ import annotations

from iac_lightning.evaluation.tables.model_result import ModelResult
from iac_lightning.figures.calibration import reliability_of_models
from iac_lightning.report.models.calibration import calibration_section


def test_calibration_before_and_after(model_results):
    edges = [(0.0, 0.1, 0.05, 0.02, 900), (0.4, 0.5, 0.45, 0.3, 40), (0.9, 1.0, 0.93, 0.8, 5)]
    keys = ("mean_probability", "lesion_share", "n_voxels")
    rows = [{"bin": [a, b], "lesion_share_ci95": None} | dict(zip(keys, row, strict=True)) for a, b, *row in edges]
    qualities = {
        f"{name}_{when}{suffix}": ([0.9 * v, 1.1 * v] if suffix else v)
        for k, name in enumerate(("ece", "adaptive_ece", "brier", "nll"))
        for when, v in (("before", 0.02 * (k + 1)), ("after", 0.01 * (k + 1)))
        for suffix in ("", "_ci95")
    }
    known = {
        "temperature": 1.25,
        "bias": -0.5,
        "operating_point": {"threshold": 0.3},
        "n_series": 9,
        "n_patients": 5,
        "seed": 4,
    }
    known |= {"warnings": ["a warning"], "reliability_before": rows, "reliability_after": rows[:2], **qualities}
    assert calibration_section(model_results) is None
    section = calibration_section(
        model_results | {"vit": ModelResult(**{**vars(model_results["vit"]), "calibration": known})}
    )
    before, after = section.tables[0].rows
    assert before[4] == ("0.02", "0.018; 0.022")
    assert after == ["+ after calibration", "1.250", "−0.500", "0.3", *after[4:]]
    assert [c[0] for c in after[4:]] == ["0.01", "0.02", "0.03", "0.04"]
    assert section.tables[0].source == "9 scans of 5 patients, development split, seed 4"
    assert "VIT: a warning." in section.tables[0].legend
    assert "Not calibrated here: SCRATCH, CNN." in section.tables[0].legend
    curve, sizes = reliability_of_models({"VIT": known}, "source").axes
    before, after = (line.get_xydata().tolist() for line in curve.lines if line.get_marker() in ("s", "o"))
    assert before == [[0.05, 0.02], [0.45, 0.3], [0.93, 0.8]]
    assert after == before[:2]
    assert [round(bar.get_height()) for bar in sizes.patches] == [900, 40, 5, 900, 40]
