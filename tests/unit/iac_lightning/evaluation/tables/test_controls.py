from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from iac_lightning.evaluation.tables.controls import COLUMNS, control_table, summarise_controls

NAMES = ["s3", "s1", "s2", "s4"]
TABLE = pd.DataFrame(
    {
        "series_id": ["s1", "s2", "s3", "s4"],
        "patient_id": ["a", "a", "b", "c"],
        "slice_thickness_mm": [1.0, 2.0, 3.0, 4.0],
        "has_lesion": [True, True, True, False],
        "dice": [0.5, 0.75, 0.875, 0.0],
        "plain_dice": [0.75, 0.75, 1.0, 1.0],
        "volume_mm3": [1.0, 2.0, 3.0, 4.0],
    }
)
FOUND = {  # in the order of NAMES
    "mean_tokens": [{"dice": d, "plain_dice": p} for d, p in ((0.875, 0.5), (0.5, 0.5), (0.75, 0.5), (0.9, 0.0))],
    "silenced_attention": [{"dice": d, "plain_dice": 0.75} for d in (0.625, 0.25, 0.5, 0.0)],
}


def test_a_row_a_series_with_each_control_beside_it() -> None:
    table = control_table(TABLE, NAMES, FOUND)
    assert list(table.columns) == list(COLUMNS)
    assert table["series_id"].tolist() == ["s1", "s2", "s3", "s4"]
    assert table["dice"].tolist() == TABLE["dice"].tolist()
    assert table["mean_tokens_dice"].tolist() == [0.5, 0.75, 0.875, 0.9]
    assert table["silenced_attention_dice"].tolist() == [0.25, 0.5, 0.625, 0.0]


def test_what_is_lost_is_what_it_was_worth() -> None:
    found = summarise_controls(control_table(TABLE, NAMES, FOUND), list(FOUND))
    tokens, attention = found["mean_tokens"], found["silenced_attention"]
    assert tokens["dice"]["mean"] == pytest.approx((0.5 + 0.75 + 0.875) / 3)
    assert tokens["difference"] == {
        "mean": 0.0,
        "ci95": [None, None],
        "n": 3,  # lesion-free: not counted
        "n_patients": 2,
        "remark": "2 patients: too few for an interval",
        "points": [0.0, 0.0],
    }
    assert tokens["wilcoxon_p"] == 1
    assert tokens["plain"]["difference"]["mean"] == pytest.approx((0.25 + 0.25 + 0.5) / 3)
    assert tokens["plain"]["difference"]["points"] == pytest.approx([0.25, 0.5])
    assert attention["difference"]["mean"] == pytest.approx(0.25)
    assert attention["difference"]["points"] == pytest.approx([0.25, 0.25])


def test_without_plain_masks_there_is_nothing_of_them() -> None:
    found = {"mean_tokens": [{"dice": row["dice"]} for row in FOUND["mean_tokens"]]}
    table = control_table(TABLE.drop(columns="plain_dice"), NAMES, found)
    assert not [name for name in table if "plain" in str(name)]
    assert "plain" not in summarise_controls(table, ["mean_tokens"])["mean_tokens"]


def test_without_lesions_nothing_is_known() -> None:
    free = control_table(TABLE.assign(has_lesion=False), NAMES, FOUND)
    (tokens,) = summarise_controls(free, ["mean_tokens"]).values()
    assert tokens["dice"]["mean"] is None
    assert tokens["difference"]["ci95"] == [None, None]
    assert not np.isnan(tokens["difference"]["n"])
