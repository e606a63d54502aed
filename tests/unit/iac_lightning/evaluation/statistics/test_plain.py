from __future__ import annotations

import json

import numpy as np
import pandas as pd

from iac_lightning.evaluation.statistics.bootstrap import Interval
from iac_lightning.evaluation.statistics.plain import defined, plain, plain_interval


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
