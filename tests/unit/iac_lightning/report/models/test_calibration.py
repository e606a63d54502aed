from __future__ import annotations

from typing import Any

from iac_lightning.evaluation.tables.model_result import ModelResult
from iac_lightning.figures.calibration import reliability_of_models
from iac_lightning.report.models.calibration import calibration_section, qualities

NAMES = ("ece", "brier", "nll")


def curve(*shares: float, counted: str = "voxels") -> list[dict[str, Any]]:
    """A point a share, of probabilities 0.05, 0.45 and 0.93."""
    return [
        {"lesion_share": share, "mean_probability": p, f"n_{counted}": 9, "lesion_share_ci95": None}
        for share, p in zip(shares, (0.05, 0.45, 0.93), strict=False)
    ]


def both(scale: float, counted: str) -> dict[str, Any]:
    return {
        when: {
            name + suffix: ([0.9 * v, 1.1 * v] if suffix else v)
            for k, name in enumerate(NAMES)
            for v in (scale * factor * (k + 1),)
            for suffix in ("", "_ci95")
        }
        | {"reliability": curve(0.02, 0.3, counted=counted)}
        for when, factor in (("before", 2.0), ("after", 1.0))
    }


def calibrated(model_results: dict[str, ModelResult], **known: Any) -> ModelResult:
    """VIT, with values of development that are half of those of its split."""
    record: dict[str, Any] = {
        f"{name}_{when}{suffix}": values[f"{name}{suffix}"]
        for when, values in both(0.01, "voxels").items()
        for name in NAMES
        for suffix in ("", "_ci95")
    }
    record |= {"reliability_before": curve(0.02, 0.3, 0.8), "reliability_after": curve(0.02, 0.3)}
    record |= {"temperature": 1.25, "bias": -0.5, "operating_point": {"threshold": 0.3}, "warnings": ["a warning"]}
    record |= {"n_series": 9, "n_patients": 5, "seed": 4, **known}
    vit = vars(model_results["vit"])
    reliability = {"voxels": both(0.02, "voxels"), "lesions": both(0.04, "candidates")}
    return ModelResult(
        **{**vit, "calibration": record, "summary": vit["summary"] | {"split": "test", "reliability": reliability}}
    )


def test_development_beside_test_for_voxels_and_lesions(model_results: dict[str, ModelResult]) -> None:
    assert calibration_section(model_results) is None
    lesions = both(0.03, "candidates")
    chosen = {
        "scaling": "temperature and bias",
        "scaling_why": "it helps",
        "after": "cross-validated",
        "lesions": lesions,
    }
    model = calibrated(model_results, **chosen)
    section = calibration_section(model_results | {"vit": model})
    assert section is not None
    quality, scaling = section.tables
    names = ["VIT: voxels, development", "+ voxels, test", "+ lesions, development", "+ lesions, test"]
    assert [row[0] for row in quality.rows] == names
    assert quality.rows[0][1:3] == [("0.02", "0.018; 0.022"), ("0.01", "0.009; 0.011")]
    assert [row[2][0] for row in quality.rows] == ["0.01", "0.02", "0.03", "0.04"]
    assert quality.source == "development: 9 scans of 5 patients, seed 4"
    assert "Development, calibrated: cross-validated." in quality.legend
    assert "VIT: a warning." in quality.legend
    assert "Not calibrated here, or anew since this evaluation: SCRATCH, CNN." in quality.legend
    assert scaling.rows == [["VIT", "temperature and bias", "1.250", "−0.500", "0.3"]]
    assert scaling.legend == "VIT: It helps."
    (figure,) = section.figures
    assert figure.alt == (
        "Expected calibration error, before and after calibration. VIT: voxels, development 0.02 before, 0.01 after; "
        "voxels, test 0.04 before, 0.02 after; lesions, development 0.06 before, 0.03 after; lesions, test 0.08 "
        "before, 0.04 after."
    )
    panels = reliability_of_models({"VIT": qualities(model)}, "source").axes
    assert [axes.get_title().split("\n")[0] for axes in panels] == [name.split(": ")[-1].lstrip("+ ") for name in names]
    before, after = (line.get_xydata().tolist() for line in panels[0].lines if line.get_marker() in ("s", "o"))
    assert before == [[0.05, 0.02], [0.45, 0.3], [0.93, 0.8]]
    assert after == before[:2]


def test_a_calibration_of_before_cross_validation_says_what_its_values_are(
    model_results: dict[str, ModelResult],
) -> None:
    old = calibrated(model_results)
    summary = {name: value for name, value in old.summary.items() if name != "reliability"}
    section = calibration_section({"vit": ModelResult(**{**vars(old), "summary": summary})})
    assert section is not None
    assert [row[0] for row in section.tables[0].rows] == ["VIT: voxels, development"]
    assert "of the fit itself" in section.tables[0].legend


def test_values_of_the_development_split_itself_are_not_called_held_out(model_results: dict[str, ModelResult]) -> None:
    model = calibrated(model_results)
    own = ModelResult(**{**vars(model), "summary": model.summary | {"split": "dev"}})
    assert list(qualities(own)) == ["voxels, development"]
