"""Simulated coverage: right intervals cover as promised, wrong ones do not, and the tables hold the figures."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.coverage import __main__ as program
from benchmarks.coverage import errors, intervals, populations
from benchmarks.coverage.populations import Patients

KINDS = {kind.name: kind for kind in intervals.SIMULATED}


@pytest.mark.parametrize(
    ("name", "lowest"),
    [
        ("mean Dice, 5 % of the scans missed", 0.92),
        ("difference in Dice of two models", 0.92),
        ("slope of Dice over thickness, all scans", 0.92),
        ("slope within patients", 0.92),
        ("ICC(2,1) of volumes", 0.92),
        ("κ of risk groups, lower", 0.92),
    ],
)
def test_the_intervals_of_the_project_cover(name: str, lowest: float) -> None:
    kind = intervals.Simulated(name, KINDS[name].draw, truth_patients=50_000)
    found = intervals.coverage(kind, (10,), 600, 1)[10]
    assert lowest < found[0] < 0.995
    assert found[1] > 0.5


def test_the_percentile_bootstrap_of_before_does_not() -> None:
    kind = KINDS["the first by a percentile bootstrap"]
    assert intervals.coverage(kind, (5,), 400, 1)[5][0] < 0.87


def test_simulated_dice_has_zeros_ones_and_patients_alike() -> None:
    p = Patients(np.random.default_rng(0), 1, 4_000)
    dice = populations.dice(p, 0.05)
    assert ((dice >= 0) & (dice <= 1)).all()
    assert (dice == 0).mean() == pytest.approx(0.05, abs=0.01)
    assert (dice == 1).mean() == pytest.approx(0.02, abs=0.01)
    assert np.corrcoef(dice[0, :, 0], dice[0, :, 1])[0, 1] > 0.2
    assert set(populations.scans(p).sum(axis=2).ravel()) == {1, 2, 3}


def test_false_findings_are_rare_and_conformal_strata_hold() -> None:
    found = errors.false_findings(10, 12, 0)
    assert tuple(found) == errors.NAMES
    assert found["both: called established"] <= found["Wilcoxon over patients"] <= 0.35
    table = errors.conformal_coverage(20, 4, 0).set_index("stratum")
    assert (table["coverage"] >= table["merged"] - 1e-9).all()
    assert (table["coverage"] > table["promised"] - 0.2).all()


def test_the_page_gets_the_tables(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page, out = tmp_path / "page.md", tmp_path / "c.json"
    page.write_text(f"before\n{program.BEGIN}\nold\n{program.END}\nafter\n")
    words = ["--samples", "4", "--only", "mean Dice", "--out", str(out), "--page", str(page)]
    assert program.main(words) == 0
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text
    assert "| (3) | 5 | 8 |" in text
    assert json.loads(out.read_text())["samples"] == 4
    page.write_text("no marks")
    assert program.main(words) == 2
    assert program.main(["--samples", "0"]) == 2
    assert "expected 1 or more" in capsys.readouterr().err
