from __future__ import annotations

import pandas as pd
import pytest

from data_modules.csv_files import as_text
from data_modules.errors import UserError
from iac_lightning.evaluation.tables.series_table import (
    example_series,
    read_series_table,
    series_table,
    write_series_table,
)
from iac_lightning.evaluation.tables.summary import summarise


def test_a_table_round_trips_with_names_that_look_like_numbers(table, tmp_path):
    table["patient_id"] = ["001", "002", "003", "003"]
    write_series_table(table, tmp_path / "test.csv")
    pd.testing.assert_frame_equal(read_series_table(tmp_path / "test.csv"), table, check_dtype=False)
    assert [p.name for p in tmp_path.iterdir()] == ["test.csv"]


@pytest.mark.parametrize("name", ["NA", "None", "null", "nan", "1e5", "True", "007"])
def test_patients_stay_apart_whatever_one_is_called(table, tmp_path, name):
    table["patient_id"] = ["P1", "P2", name, name]
    write_series_table(table, tmp_path / "test.csv")
    found = read_series_table(tmp_path / "test.csv")
    assert found["patient_id"].tolist() == ["P1", "P2", name, name]
    assert as_text(found["patient_id"]).tolist() == ["P1", "P2", name, name]


def test_the_intervals_count_a_patient_that_is_called_na(table, tmp_path):
    write_series_table(table.replace({"patient_id": {"c": "NA"}}), tmp_path / "test.csv")
    found = summarise(read_series_table(tmp_path / "test.csv"))
    assert (found["n_patients"], found["dice_all"]["n_patients"]) == (3, 3)


def test_numbers_are_read_as_before_to_the_last_digit(table, tmp_path):
    write_series_table(table, tmp_path / "test.csv")
    plain = pd.read_csv(tmp_path / "test.csv", dtype={"series_id": str, "patient_id": str})
    pd.testing.assert_frame_equal(read_series_table(tmp_path / "test.csv"), plain, check_exact=True)


def test_a_table_that_was_saved_by_a_spreadsheet(table, tmp_path):
    write_series_table(table, tmp_path / "test.csv")
    expected = read_series_table(tmp_path / "test.csv")
    table.to_csv(tmp_path / "saved.csv", sep=";", decimal=",", index=False, encoding="utf-8-sig", lineterminator="\r\n")
    pd.testing.assert_frame_equal(read_series_table(tmp_path / "saved.csv"), expected, check_exact=True)


def test_a_cell_that_is_no_number_is_named(table, tmp_path):
    write_series_table(table.astype({"dice": object}).assign(dice=["much", 1, 1, 1]), tmp_path / "test.csv")
    with pytest.raises(UserError, match="row 2, column 'dice': 'much'; expected a number"):
        read_series_table(tmp_path / "test.csv")


def test_reading_a_foreign_table_names_the_columns(tmp_path):
    (tmp_path / "x.csv").write_text("series_id,patient_id\na,b\n")
    with pytest.raises(UserError, match=r"x\.csv.*slice_thickness_mm.*dice"):
        read_series_table(tmp_path / "x.csv")


def test_no_series_and_repeated_series_are_refused(table):
    with pytest.raises(UserError, match="no series"):
        series_table([])
    with pytest.raises(UserError, match="a1"):
        series_table([row._asdict() for row in pd.concat([table, table[:1]]).itertuples(index=False)])


def test_example_series(make_table):
    rows = make_table(0.7, 0)
    chosen = example_series(rows)
    dice = rows[rows["has_lesion"]].set_index("series_id")["dice"]
    assert dice[chosen["best"]] == dice.max()
    assert dice[chosen["worst"]] == dice.min()
    rank = (dice > dice[chosen["median"]]).sum()
    assert rank == len(dice) // 2
    assert example_series(rows[~rows["has_lesion"]]) == {}
    assert list(example_series(rows[rows["has_lesion"]][:2])) == ["best", "worst"]
