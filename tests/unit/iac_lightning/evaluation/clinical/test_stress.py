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
    summarise_stress,
    values_of,
)
from tests.synthetic_stress import DICE, WANTED, table_of


def test_a_native_version_counts_at_its_own_thickness(stress_summary: dict) -> None:
    one, two, five = stress_summary["thickness"]
    assert (one["n_patients"], one["n_native"], one["n_thicker"]) == (3, 2, 1)  # C is thicker
    assert one["dice"]["value"] == pytest.approx((0.8 + 0.7) / 2)  # D has no lesion
    assert (two["n_patients"], two["n_native"], two["n_thicker"]) == (3, 0, 1)
    assert (five["n_patients"], five["n_native"], five["n_thicker"]) == (4, 0, 0)
    assert five["dice"]["value"] == pytest.approx((0.3 + 0.5 + 0.2) / 3)
    assert stress_summary["native"]["dice"]["value"] == pytest.approx((0.9 + 0.7 + 0.6) / 3)
    assert stress_summary["native"]["thickness_mm"] == pytest.approx([0.8, 1.0, 2.5])
    assert (stress_summary["n_patients"], stress_summary["n_with_lesion"]) == (4, 3)


def test_differences_compare_a_head_with_itself(stress_summary: dict) -> None:
    one, two, five = (part["difference_from_native"]["dice"] for part in stress_summary["thickness"])
    assert one["difference"]["value"] == pytest.approx(0.8 - 0.9)  # of A alone: B and D are 1 mm by nature
    assert one["difference"]["n"] == 1
    assert two["difference"]["value"] == pytest.approx((-0.3 - 0.1) / 2)
    assert five["difference"]["value"] == pytest.approx((-0.6 - 0.2 - 0.4) / 3)
    assert (five["wins"], five["ties"], five["losses"]) == (0, 0, 3)
    assert five["difference"]["ci95"] == [None, None]
    assert five["difference"]["points"] == pytest.approx([-0.6, -0.4, -0.2])


def test_volumes_false_alarms_and_the_share_of_the_ceiling(stress_summary: dict) -> None:
    five = stress_summary["thickness"][2]
    assert five["volume_ratio"]["value"] == pytest.approx(1.5)
    assert five["true_volume_ratio"]["value"] == pytest.approx(3.0)
    assert five["ceiling_volume_ratio"]["value"] == pytest.approx(1.0)
    assert five["volume_error_mm3"]["value"] == pytest.approx((5 + 15 + 10 + 0) / 4)
    assert five["share_of_ceiling"]["value"] == pytest.approx((0.3 + 0.5 + 0.2) / 3 / 0.5)
    assert [part["n_false_alarm"] for part in stress_summary["thickness"]] == [0, 1, 0]
    assert five["ppv"]["n"] == 4


def test_a_ceiling_of_nothing_has_no_share() -> None:
    table = table_of().assign(ceiling_dice=0.0)
    assert np.isnan(values_of(table, "share_of_ceiling")).all()


def test_the_slope_is_that_of_least_squares_with_a_constant_for_each_head(stress_summary: dict) -> None:
    table = table_of()
    rows = table[table["has_lesion"]]
    heads = pd.get_dummies(rows["patient_id"]).to_numpy(dtype=float)
    design = np.column_stack([rows["slice_thickness_mm"], heads])
    (slope, *_), *_ = np.linalg.lstsq(design, rows["dice"].to_numpy(), rcond=None)
    found = stress_summary["slope_within_patients_per_mm"]["dice"]
    assert found["value"] == pytest.approx(slope)
    assert (found["n"], found["n_patients"]) == (9, 3)
    assert found["remark"] == "3 patients: too few for an interval"
    assert found["points"][0] <= found["value"] <= found["points"][-1] < 0


def test_the_difference_of_slopes_is_the_slope_difference() -> None:
    better = {name: {mm: min(1.0, d + 0.02 * mm) for mm, d in rows.items()} for name, rows in DICE.items()}
    tables = {"vit": table_of(better), "cnn": table_of()}
    (found,) = compare_stress(tables, WANTED)
    assert (found["first"], found["second"], found["n_patients"], found["n_unpaired"]) == ("vit", "cnn", 4, 0)
    assert found["slope_difference_per_mm"]["dice"]["value"] == pytest.approx(0.02)
    assert found["slope_difference_per_mm"]["dice"]["points"] == pytest.approx([0.02] * 3)
    assert found["native"]["dice"]["difference"]["value"] == pytest.approx(0.02 * (0.8 + 1.0 + 2.5) / 3)
    assert found["thickness"][2]["dice"]["difference"]["value"] == pytest.approx(0.1)
    slopes = [
        summarise_stress(t, WANTED)["slope_within_patients_per_mm"]["lesion_f1"]["value"] for t in tables.values()
    ]
    assert found["slope_difference_per_mm"]["lesion_f1"]["value"] == pytest.approx(slopes[0] - slopes[1])


def test_the_last_model_is_the_baseline_and_rows_of_one_are_left_out() -> None:
    short = {name: rows for name, rows in DICE.items() if name != "A"}
    found = compare_stress({"a": table_of(), "b": table_of(short), "c": table_of()}, WANTED)
    assert [(c["first"], c["second"]) for c in found] == [("a", "b"), ("a", "c"), ("b", "c")]
    assert [(c["n_rows"], c["n_unpaired"], c["n_patients"]) for c in found] == [(8, 4, 3), (12, 0, 4), (8, 4, 3)]
    table = comparison_table(found)
    assert len(table) == 3 * (2 + len(WANTED)) * len(METRICS)
    row = table[(table["kind"] == "slope per mm") & (table["figure"] == "dice")].iloc[0]
    assert (row["first"], row["second"], row["difference"]) == ("a", "b", 0.0)


def test_other_heads_or_labels_cannot_be_compared() -> None:
    table = table_of()
    with pytest.raises(UserError, match="no re-imaged scan in common"):
        compare_stress({"a": table, "b": table.assign(series_id=table["series_id"] + "x")}, WANTED)
    with pytest.raises(UserError, match="different labels"):
        compare_stress({"a": table, "b": table.assign(label_volume_mm3=table["label_volume_mm3"] + 1)}, WANTED)


def test_an_empty_table_is_refused_and_one_head_has_no_interval() -> None:
    with pytest.raises(UserError, match="nothing to summarise"):
        summarise_stress(table_of().iloc[:0], WANTED)
    found = summarise_stress(table_of({"A": DICE["A"]}), WANTED)
    assert found["thickness"][0]["dice"] == {
        "value": 0.8,
        "ci95": [None, None],
        "n": 1,
        "n_patients": 1,
        "remark": "1 patient: too few for an interval",
        "points": [0.8],
    }
    json.dumps(found, allow_nan=False)
