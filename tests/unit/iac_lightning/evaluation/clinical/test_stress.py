"""Means, differences and slopes over thickness against hand-worked numbers and ordinary least squares."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from data_modules.errors import UserError
from iac_lightning.evaluation.clinical.stress import (
    METRICS,
    compare_stress,
    comparison_table,
    figures_of,
    ratio_ci,
    summarise_stress,
)
from iac_lightning.evaluation.tables.summary import COLUMNS
from iac_lightning.figures.stress import stress_figure
from iac_lightning.report.stress import write_stress_page

NATIVE = {"A": 0.8, "B": 1.0, "C": 2.5, "D": 1.0}
DICE = {
    "A": {0.8: 0.9, 1.0: 0.8, 2.0: 0.6, 5.0: 0.3},
    "B": {1.0: 0.7, 2.0: 0.6, 5.0: 0.5},
    "C": {2.5: 0.6, 5.0: 0.2},
    "D": {1.0: 1.0, 2.0: 0.0, 5.0: 1.0},  # without a lesion; one false alarm
}
WANTED = (1.0, 2.0, 5.0)


def table_of(dice: dict[str, dict[float, float]] = DICE) -> pd.DataFrame:
    rows = []
    for name, versions in dice.items():
        lesion = name != "D"
        for mm, value in versions.items():
            row = dict.fromkeys(COLUMNS, 0.5)
            label = {"A": 10.0, "B": 30.0, "C": 20.0, "D": 0.0}[name]
            row |= {
                "series_id": f"{name}_S1",
                "patient_id": name,
                "slice_thickness_mm": mm,
                "has_lesion": lesion,
                "label_volume_mm3": label,
                "true_volume_mm3": label / 2,
                "dice": value,
                "ppv": value if value else np.nan,
                "volume_mm3": label * (1 + mm / 10) if lesion else 40 * (1 - value),
                "native_thickness_mm": NATIVE[name],
                "is_native": mm == NATIVE[name],
                "ceiling_dice": 1.0 if mm == NATIVE[name] else 1 - mm / 10,
                "bound_dice": 1.0,
                "ceiling_volume_mm3": label,
            }
            row["volume_error_mm3"] = row["volume_mm3"] - label
            row["true_volume_error_mm3"] = row["volume_mm3"] - label / 2
            rows.append(row)
    return pd.DataFrame(rows)


@pytest.fixture(scope="module")
def summary() -> dict:
    return summarise_stress(table_of(), WANTED, seed=3, resamples=500) | {
        "split": "test",
        "settings": {"truth": "Truth.", "ceiling": "Ceiling.", "bound": "Bound."},
        "failed": {"E_S1": "no such file"},
    }


def test_a_native_version_counts_at_its_own_thickness(summary: dict) -> None:
    one, two, five = summary["thickness"]
    assert (one["n_patients"], one["n_native"], one["n_thicker"]) == (3, 2, 1)  # C is thicker
    assert one["dice"]["value"] == pytest.approx((0.8 + 0.7) / 2)  # D has no lesion
    assert (two["n_patients"], two["n_native"], two["n_thicker"]) == (3, 0, 1)
    assert (five["n_patients"], five["n_native"], five["n_thicker"]) == (4, 0, 0)
    assert five["dice"]["value"] == pytest.approx((0.3 + 0.5 + 0.2) / 3)
    assert summary["native"]["dice"]["value"] == pytest.approx((0.9 + 0.7 + 0.6) / 3)
    assert summary["native"]["thickness_mm"] == pytest.approx([0.8, 1.0, 2.5])
    assert (summary["n_patients"], summary["n_with_lesion"]) == (4, 3)


def test_differences_compare_a_head_with_itself(summary: dict) -> None:
    one, two, five = (part["difference_from_native"]["dice"] for part in summary["thickness"])
    assert one["difference"]["value"] == pytest.approx(0.8 - 0.9)  # of A alone: B and D are 1 mm by nature
    assert one["difference"]["n"] == 1
    assert two["difference"]["value"] == pytest.approx((-0.3 - 0.1) / 2)
    assert five["difference"]["value"] == pytest.approx((-0.6 - 0.2 - 0.4) / 3)
    assert (five["wins"], five["ties"], five["losses"]) == (0, 0, 3)
    low, high = five["difference"]["ci95"]
    assert -0.6 <= low < -0.4 < high <= -0.2


def test_volumes_false_alarms_and_the_share_of_the_ceiling(summary: dict) -> None:
    five = summary["thickness"][2]
    assert five["volume_ratio"]["value"] == pytest.approx(1.5)
    assert five["true_volume_ratio"]["value"] == pytest.approx(3.0)
    assert five["ceiling_volume_ratio"]["value"] == pytest.approx(1.0)
    assert five["volume_error_mm3"]["value"] == pytest.approx((5 + 15 + 10 + 0) / 4)
    assert five["share_of_ceiling"]["value"] == pytest.approx((0.3 + 0.5 + 0.2) / 3 / 0.5)
    assert [part["n_false_alarm"] for part in summary["thickness"]] == [0, 1, 0]
    assert five["ppv"]["n"] == 4


def test_a_ceiling_of_nothing_has_no_share() -> None:
    table = table_of().assign(ceiling_dice=0.0)
    assert np.isnan(figures_of(table, "share_of_ceiling")).all()


def test_the_slope_is_that_of_least_squares_with_a_constant_for_each_head(summary: dict) -> None:
    table = table_of()
    rows = table[table["has_lesion"]]
    heads = pd.get_dummies(rows["patient_id"]).to_numpy(dtype=float)
    design = np.column_stack([rows["slice_thickness_mm"], heads])
    (slope, *_), *_ = np.linalg.lstsq(design, rows["dice"].to_numpy(), rcond=None)
    found = summary["slope_within_patients_per_mm"]["dice"]
    assert found["value"] == pytest.approx(slope)
    assert (found["n"], found["n_patients"]) == (9, 3)
    assert found["ci95"][0] <= found["value"] <= found["ci95"][1] < 0


def test_the_difference_of_slopes_is_the_slope_difference() -> None:
    better = {name: {mm: min(1.0, d + 0.02 * mm) for mm, d in rows.items()} for name, rows in DICE.items()}
    tables = {"vit": table_of(better), "cnn": table_of()}
    (found,) = compare_stress(tables, WANTED, seed=3, resamples=500)
    assert (found["first"], found["second"], found["n_patients"], found["n_unpaired"]) == ("vit", "cnn", 4, 0)
    assert found["slope_difference_per_mm"]["dice"]["value"] == pytest.approx(0.02)
    assert found["slope_difference_per_mm"]["dice"]["ci95"] == pytest.approx([0.02, 0.02])
    assert found["native"]["dice"]["difference"]["value"] == pytest.approx(0.02 * (0.8 + 1.0 + 2.5) / 3)
    assert found["thickness"][2]["dice"]["difference"]["value"] == pytest.approx(0.1)
    slopes = [
        summarise_stress(t, WANTED, seed=3, resamples=10)["slope_within_patients_per_mm"]["lesion_f1"]["value"]
        for t in tables.values()
    ]
    assert found["slope_difference_per_mm"]["lesion_f1"]["value"] == pytest.approx(slopes[0] - slopes[1])


def test_the_last_model_is_the_baseline_and_rows_of_one_are_left_out() -> None:
    short = {name: rows for name, rows in DICE.items() if name != "A"}
    found = compare_stress({"a": table_of(), "b": table_of(short), "c": table_of()}, WANTED, seed=0, resamples=50)
    assert [(c["first"], c["second"]) for c in found] == [("a", "b"), ("a", "c"), ("b", "c")]
    assert [(c["n_rows"], c["n_unpaired"], c["n_patients"]) for c in found] == [(8, 4, 3), (12, 0, 4), (8, 4, 3)]
    table = comparison_table(found)
    assert len(table) == 3 * (2 + len(WANTED)) * len(METRICS)
    row = table[(table["kind"] == "slope per mm") & (table["figure"] == "dice")].iloc[0]
    assert (row["first"], row["second"], row["difference"]) == ("a", "b", 0.0)


def test_other_heads_or_labels_cannot_be_compared() -> None:
    table = table_of()
    with pytest.raises(UserError, match="no re-imaged scan in common"):
        compare_stress({"a": table, "b": table.assign(series_id=table["series_id"] + "x")}, WANTED, 0, 10)
    with pytest.raises(UserError, match="different labels"):
        compare_stress({"a": table, "b": table.assign(label_volume_mm3=table["label_volume_mm3"] + 1)}, WANTED, 0, 10)


def test_an_empty_table_is_refused_and_one_head_has_no_interval() -> None:
    with pytest.raises(UserError, match="nothing to summarise"):
        summarise_stress(table_of().iloc[:0], WANTED, 0)
    found = summarise_stress(table_of({"A": DICE["A"]}), WANTED, 0, 50)
    assert found["thickness"][0]["dice"] == {"value": 0.8, "ci95": [None, None], "n": 1, "n_patients": 1}
    json.dumps(found, allow_nan=False)


def test_a_ratio_of_totals() -> None:
    found = ratio_ci([1.0, 2.0, np.nan], [2.0, 8.0, 5.0], ["a", "b", "c"], seed=0, resamples=200)
    assert (found.estimate, found.n, found.low, found.high) == (pytest.approx(0.3), 2, 0.25, 0.5)


def test_the_figure_draws_every_head_and_mean(summary: dict) -> None:
    dice, change, share, volume = stress_figure({"vit": table_of()}, {"vit": summary}).axes
    drawn = [np.asarray(line.get_xydata(), dtype=float) for line in dice.get_lines()]
    heads = [line for line in drawn if len(line) and line[0].tolist() in ([0.8, 0.9], [1.0, 0.7], [2.5, 0.6])]
    assert sorted(len(head) for head in heads) == [2, 3, 4]
    means = [[1.0, 0.75], [2.0, 0.6], [5.0, 1 / 3]]
    assert any(line.shape == (3, 2) and np.allclose(line, means) for line in drawn)
    assert any(np.allclose(line, [[0.0, 2.2 / 3]]) for line in drawn if line.shape == (1, 2))
    ceiling = [[1.0, (0.9 + 1.0) / 2], [2.0, 0.8], [5.0, 0.5]]
    dashed = [line for line in dice.get_lines() if line.get_linestyle() == "--"]
    assert np.allclose(dashed[0].get_xydata(), ceiling)
    assert next(tick.get_text() for tick in dice.get_xticklabels()) == "native\nn=3"
    assert [tick.get_text().strip() for tick in change.get_xticklabels()] == ["1\nn=1", "2\nn=2", "5\nn=3"]
    assert volume.get_yscale() == "log"
    assert share.get_ylim()[1] >= 1


def test_the_page_says_which_model_loses_more(summary: dict, tmp_path) -> None:
    worse = {name: {mm: d - 0.02 * mm for mm, d in rows.items()} for name, rows in DICE.items()}
    tables = {"vit": table_of(), "cnn": table_of(worse)}
    other = {key: summary[key] for key in ("split", "settings", "failed")}
    summaries = {"vit": summary, "cnn": other | summarise_stress(tables["cnn"], WANTED, seed=3, resamples=500)}
    page = write_stress_page(tmp_path, tables, summaries, compare_stress(tables, WANTED, 3, 500))
    html = page.read_text()
    assert "cnn loses more Dice than vit (vit − cnn: 0.0200 [0.0200; 0.0200] per mm)." in html
    assert "E_S1: no such file" in html
    assert "0.733" in html  # mean native Dice of the first model
    assert "http" not in html
    alone = write_stress_page(tmp_path / "one", {"vit": tables["vit"]}, {"vit": summary}, []).read_text()
    assert "first − second" not in alone
