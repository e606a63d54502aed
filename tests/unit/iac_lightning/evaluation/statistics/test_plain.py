from __future__ import annotations

import json

import numpy as np
import pandas as pd

from iac_lightning.evaluation.statistics.intervals import Interval
from iac_lightning.evaluation.statistics.plain import correct, defined, plain, plain_interval, without_small_intervals


def test_everything_becomes_what_json_knows():
    result = {"a": (np.float64("nan"), np.int64(3), pd.NA), "b": {"c": [float("inf"), "x", np.bool_(True), None, 0.5]}}
    expected = {"a": [None, 3, None], "b": {"c": [None, "x", True, None, 0.5]}}
    assert plain(result) == expected
    assert json.loads(json.dumps(plain(result), allow_nan=False)) == expected


def test_an_interval_without_ends_or_value():
    one = Interval(estimate=0.5, low=float("nan"), high=float("nan"), n=3, n_patients=1)
    assert plain_interval(one, "mean") == {"mean": 0.5, "ci95": [None, None], "n": 3, "n_patients": 1}
    none = Interval(estimate=float("nan"), low=-1.0, high=float("inf"), n=0, n_patients=0)
    assert plain_interval(none) == {"value": None, "ci95": [-1.0, None], "n": 0, "n_patients": 0}
    assert [defined(v) for v in (0.0, float("nan"), float("-inf"))] == [0.0, None, None]


def test_what_stands_for_an_interval_and_a_test():
    few = Interval(
        estimate=0.5, low=float("nan"), high=float("nan"), n=3, n_patients=2, remark="too few", points=(0.4, 0.6)
    )
    assert plain_interval(few) == {
        "value": 0.5,
        "ci95": [None, None],
        "n": 3,
        "n_patients": 2,
        "remark": "too few",
        "points": [0.4, 0.6],
    }
    slope = Interval(estimate=0.5, low=0.1, high=0.9, n=9, n_patients=9, p=0.02)
    assert plain_interval(slope) == {"value": 0.5, "ci95": [0.1, 0.9], "n": 9, "n_patients": 9, "p": 0.02}


def test_rows_are_corrected_together_and_those_without_a_test_are_not_counted():
    rows = [{"p": 0.01}, {"value": 1}, {"p": 0.03}, {"p": None}]
    correct(rows)
    assert [row["holm_p"] for row in rows] == [0.02, None, 0.03, None]


def test_intervals_of_few_patients_of_an_earlier_version_are_left_out():
    few, enough = ({"mean": 0.5, "ci95": [0.4, 0.6], "n": 9, "n_patients": n} for n in (4, 5))
    found = without_small_intervals({"a": [few, enough], "b": {"c": few}, "d": 3})
    assert found["a"][1] == enough
    assert found["a"][0] == found["b"]["c"]
    assert found["a"][0] == {**few, "ci95": [None, None], "remark": "4 patients: too few for an interval"}
    assert found["d"] == 3
