"""Two models in the terminal: the figures of the statistics, the words for them, and the look that it is."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from data_modules.errors import UserError
from data_modules.files import write_json_atomic
from iac_lightning.cli import main
from iac_lightning.evaluation.clinical.risk import RiskCutoffs, compare_risk
from iac_lightning.evaluation.statistics.paired import effect_size, holm, paired_difference
from iac_lightning.evaluation.statistics.thickness import slope_ci
from iac_lightning.evaluation.tables.series_table import write_series_table
from iac_lightning.evaluation.tables.summary import summarise, write_summary
from iac_lightning.report.models.comparison import describe_comparison
from iac_lightning.runs.looks import looks
from iac_lightning.workflows.reports.compare import compare
from iac_lightning.workflows.reports.evaluated import load_entry


@pytest.fixture
def evaluated(tmp_path: Path, make_table: Callable[..., pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """Tables of two models whose evaluations lie in `good` and `poor`."""
    tables = {"good": make_table(0.8, 0), "poor": make_table(0.6, 1)}
    for name, table in tables.items():
        for split in ("test", "dev"):
            write_series_table(table, tmp_path / name / f"evaluation/{split}.csv")
            write_summary(summarise(table), tmp_path / name / f"evaluation/{split}.json")
        known = {"label": name, "predictions": {"test": "x"}, "cohort": "c.csv", "threshold": None}
        write_json_atomic(tmp_path / name / "model.json", known)
    return tables


def test_figures_are_those_of_the_statistics(evaluated: dict[str, pd.DataFrame], tmp_path: Path) -> None:
    cutoffs = "evaluation.risk_cutoffs_mm3=[0,40,100]"
    entries = [load_entry(tmp_path / name, [cutoffs]) for name in ("good", "poor")]
    found = compare(*entries, "test", ["dice", "hd95_mm", "ppv"])
    a, b = (table[table["has_lesion"]] for table in evaluated.values())
    patients = a["patient_id"].to_numpy(dtype=str)
    expected = paired_difference(a["dice"], b["dice"], patients)
    dice = found["metrics"]["dice"]
    assert dice["difference"]["value"] == pytest.approx(expected.difference.estimate)
    assert dice["difference"]["ci95"] == pytest.approx([expected.difference.low, expected.difference.high])
    assert (dice["wilcoxon_p"], dice["wins"], dice["losses"]) == (expected.wilcoxon_p, expected.wins, expected.losses)
    assert dice["cohen_dz"] == pytest.approx(effect_size(a["dice"], b["dice"], patients).dz)
    slope = slope_ci(a["dice"] - b["dice"], a["slice_thickness_mm"], patients)
    assert dice["slope_per_mm"]["ci95"] == pytest.approx([slope.low, slope.high])
    raw = [m["wilcoxon_p"] for m in found["metrics"].values()]
    assert [m["holm_p"] for m in found["metrics"].values()] == pytest.approx(holm(raw))
    fixed = RiskCutoffs(low_mm3=40, medium_mm3=100, source="")
    change = compare_risk(*evaluated.values(), fixed)
    assert found["risk"]["misclassified"] == change.misclassified
    assert found["risk"]["relative_change"]["value"] == pytest.approx(change.relative_change.estimate)
    assert found["cutoffs"]["source"] == "fixed in the settings"
    text = describe_comparison(found)
    d = expected.difference
    assert (
        f"Dice: {d.estimate:.3f} [{d.low:.3f}; {d.high:.3f}] over 38 scans of 19 patients: established: better" in text
    )
    assert "Hausdorff distance, mm: −" in text  # lower is better
    assert text.count("established: better") == 3
    assert f"{expected.wins} / {expected.ties} / {expected.losses} scans" in text


def test_the_terminal_and_json_and_each_call_a_look(
    evaluated: dict[str, pd.DataFrame], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["compare", str(tmp_path / "good"), str(tmp_path / "poor")]
    assert main([*command, "--metric", "lesion_f1"]) == 0
    assert "lesion F1: 0." in capsys.readouterr().out
    assert main([*command, "--json", "evaluation.risk_cutoffs_mm3=[0,30,90]"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["model"], found["baseline"], found["n_series"]) == ("good", "poor", 48)
    assert (found["cutoffs"]["low_mm3"], found["test_looks"]) == (30.0, {"good": 2, "poor": 2})
    assert [look["what"] for look in looks(tmp_path / "poor")] == ["compare", "compare"]
    assert main([*command, "--split", "dev"]) == 0
    assert "development patients" in capsys.readouterr().out  # cut-offs from the labels
    assert len(looks(tmp_path / "good")) == 2


def test_what_cannot_be_compared(
    evaluated: dict[str, pd.DataFrame], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good, poor = (load_entry(tmp_path / name) for name in evaluated)
    with pytest.raises(UserError, match="--metric dise: expected some of dice, "):
        compare(good, poor, "test", ["dise"])
    with pytest.raises(UserError, match="more than one run is called good"):
        compare(good, good, "test")
    with pytest.raises(UserError, match="only settings of evaluation can change"):
        load_entry(tmp_path / "good", ["inference.mirror=true"])
    assert main(["compare", str(tmp_path / "good")]) == 2
    assert "takes two models" in capsys.readouterr().err
    assert looks(tmp_path / "good") == []
    table = evaluated["poor"].assign(label_volume_mm3=lambda t: t["label_volume_mm3"] + np.eye(48)[3])
    write_series_table(table, tmp_path / "poor/evaluation/test.csv")
    with pytest.raises(UserError, match="not evaluated on the same series with the same labels"):
        compare(good, poor, "test")
