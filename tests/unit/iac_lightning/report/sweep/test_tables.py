from __future__ import annotations

from dataclasses import replace

from iac_lightning.report.sweep.result import CellResult, SweepResult
from iac_lightning.report.sweep.tables import (
    cost_table,
    design_table,
    differences_table,
    interactions_table,
    leads_table,
    trends_table,
)
from tests.unit.iac_lightning.report.sweep.conftest import swept


def test_the_design_keeps_its_holes(sweep: SweepResult) -> None:
    table = design_table(sweep)
    assert table.holes == [False] * 5 + [True]
    assert table.rows[-1] == ["4×4×2", "b", "0 of 2 seeds; seed 0 not run; seed 1 failed: no memory", "–", "–"]
    mean, seeds = sweep.ablation.cells[0], sweep.ablation.sample.seeds[0]
    assert table.rows[0] == [
        "2×2×2",
        "a",
        "all seeds",
        (f"{mean.estimate:.3f}", f"{mean.low:.3f}; {mean.high:.3f}"),
        f"{seeds[0]:.3f}, {seeds[1]:.3f}",
    ]
    planned = replace(sweep, cells=[c for c in sweep.cells if c.levels != {"size": "4×4×2", "up": "b"}])
    assert design_table(planned).rows[-1][2] == "left out of the plan"


def test_differences_beside_the_means(sweep: SweepResult) -> None:
    rows = {row[1]: row for row in differences_table(sweep).rows}
    assert rows["a"][3:6] == ["baseline", "", ""]
    (effect,) = (e for e in sweep.ablation.differences if e.level == "b")
    assert rows["b"][3] == (f"+{effect.estimate:.3f}", f"+{effect.low:.3f}; +{effect.high:.3f}")
    assert rows["b"][4:6] == [f"{effect.p:.3f}", f"{effect.adjusted_p:.3f}"]
    assert rows["b"][6:] == ["2 of 3", "2, 4"]
    tiny = replace(effect, estimate=-0.0001, low=-0.0002, high=-0.0001, p=0.0001)
    shown = differences_table(replace(sweep, ablation=replace(sweep.ablation, differences=[tiny])))
    row = {row[1]: row for row in shown.rows}["b"]
    assert row[3:5] == [("+0.000", "+0.000; +0.000"), "< 0.001"]


def test_leads(sweep: SweepResult, nothing: SweepResult) -> None:
    assert leads_table(nothing) is None
    rows = {row[0]: row for row in leads_table(sweep).rows}
    assert rows["size"][1] == "2×2×2"
    assert rows["size"][3][0].endswith(" over 4×2×2")
    assert rows["size"][4:6] == ["100 %", "established"]
    assert rows["size"][6] == "is the baseline (2×2×2)"
    assert rows["up"][6][0].endswith(" over a")
    without = replace(sweep, ablation=replace(sweep.ablation, leads={"size": None}))
    assert leads_table(without).rows == [["size", "–", "–", "–", "–", "–", "–"]]


def test_trends_and_interactions(sweep: SweepResult) -> None:
    (row,) = trends_table(sweep).rows
    (slope,) = sweep.ablation.trends
    assert row[0] == "size"
    assert row[1][0] == f"−{-slope.estimate:.4f}"
    assert row[4] == "1 of 2"
    assert trends_table(replace(sweep, ablation=replace(sweep.ablation, trends=[]))) is None
    table = interactions_table(sweep)
    assert [row[:2] for row in table.rows] == [["size: 4×2×2 − 2×2×2", "up: b − a"]]
    assert "over the 1 interactions" in table.legend
    assert interactions_table(replace(sweep, ablation=None)) is None


def test_cost(sweep: SweepResult) -> None:
    before = CellResult(name="p", kind="pretrain", levels={"size": "2×2×2"}, seed=0, state="trained", seconds=7200.0)
    table = cost_table(replace(sweep, cells=[before, *sweep.cells]))
    assert table.rows[0] == ["2×2×2, a", "2 of 2", "10 min", "1,234,567"]
    assert table.rows[-2] == ["4×4×2, b", "0 of 2", "–", "–"]
    assert table.rows[-1] == ["pre-training 2×2×2", "1 of 1", "2.0 h", "–"]
    assert table.legend.startswith("Training time of all runs together: 3.7 h. Test split, ")


def test_one_patient_has_no_interval() -> None:
    alone = swept(patients=1, hole=None)
    assert design_table(alone).rows[0][3] == f"{alone.ablation.cells[0].estimate:.3f}"
    assert leads_table(alone).rows[0][3][1] == "no interval"
