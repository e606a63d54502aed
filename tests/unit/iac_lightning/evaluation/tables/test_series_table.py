from __future__ import annotations

import pandas as pd
import pytest

from data_modules.errors import UserError
from iac_lightning.evaluation.tables.series_table import (
    example_series,
    read_series_table,
    series_table,
    write_series_table,
)


def test_a_table_round_trips_with_names_that_look_like_numbers(table, tmp_path):
    table["patient_id"] = ["001", "002", "003", "003"]
    write_series_table(table, tmp_path / "test.csv")
    pd.testing.assert_frame_equal(read_series_table(tmp_path / "test.csv"), table, check_dtype=False)
    assert [p.name for p in tmp_path.iterdir()] == ["test.csv"]


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
