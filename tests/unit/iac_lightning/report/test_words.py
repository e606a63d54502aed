from __future__ import annotations

import numpy as np
import pytest

from iac_lightning.report.words import (
    cell,
    duration,
    estimate,
    interval,
    number,
    p_cell,
    p_value,
    pair,
    plural,
    sentence,
    share,
    share_cell,
    signed,
)

NAN = float("nan")


def test_numbers_have_true_minus_signs() -> None:
    assert [number(v) for v in (0.6512, -0.1234, None, NAN)] == ["0.651", "−0.123", "–", "–"]
    assert [signed(v, 1) for v in (3.21, -3.21, None, NAN)] == ["+3.2", "−3.2", "–", "–"]
    assert [share(v) for v in (0.454, -0.454, None)] == ["45\u00a0%", "−45\u00a0%", "–"]
    assert share(0.454, sign=True) == "+45\u00a0%"


@pytest.mark.parametrize("zero", [-0.0001, -0.0, 0.0, 0.0001, np.float64(-0.0001), np.float32(-0.0001)])
def test_what_rounds_to_zero_has_no_minus(zero: float) -> None:
    assert number(zero) == "0.000"
    assert signed(zero) == "+0.000"
    assert share(zero) == "0\u00a0%"
    assert share(zero, sign=True) == "+0\u00a0%"
    assert interval(zero, zero, zero, 2, sign=True) == "+0.00 [+0.00; +0.00]"
    assert signed(-0.0006) == "−0.001"


def test_intervals() -> None:
    assert interval(-0.1234, -0.2, 0.05) == "−0.123 [−0.200; 0.050]"
    assert interval(-0.1234, -0.2, 0.05, 1, sign=True) == "−0.1 [−0.2; +0.1]"
    assert interval(0.5, None, None) == "0.500"
    assert interval(0.5, NAN, NAN) == "0.500"
    assert interval(None, None, None) == interval(NAN, NAN, NAN) == "–"


def test_values_of_summaries() -> None:
    mean, slope = {"mean": 0.5, "ci95": [0.4, 0.6]}, {"value": -0.01, "ci95": [None, None], "n_patients": 3}
    few = {**slope, "points": [-0.02, -0.01, 0.0]}
    perfect = {"value": 1.0, "ci95": [None, None], "n_patients": 9, "remark": "no interval: all agree"}
    assert estimate(mean) == "0.500 [0.400; 0.600]"
    assert estimate(mean, 1, sign=True) == "+0.5 [+0.4; +0.6]"
    assert estimate(slope, 2) == "−0.01 (3 patients: too few for an interval)"
    assert estimate(few, 2) == "−0.01 (3 patients: too few for an interval; −0.02, −0.01, 0.00)"
    assert estimate(perfect, 2) == "1.00 (no interval: all agree)"
    assert estimate({"value": None, "ci95": [None, None], "n_patients": 0}) == "–"
    assert cell(mean, 2) == ("0.50", "0.40; 0.60")
    assert cell(mean, 2, sign=True) == ("+0.50", "+0.40; +0.60")
    assert cell(few, 2, sign=True) == ("−0.01", "3 patients: too few for an interval; −0.02, −0.01, +0.00")
    assert share_cell(slope) == ("−1\u00a0%", "3 patients: too few for an interval")
    assert share_cell({"value": 0.1, "ci95": [-0.2, 0.3]}) == ("+10\u00a0%", "−20\u00a0%; +30\u00a0%")
    assert pair("–", "1", "2") == "–"


def test_p_values() -> None:
    assert [p_value(p) for p in (0.0004, 0.0321, NAN, None)] == ["p < 0.001", "p = 0.032", "p –", "p –"]
    assert [p_cell(p) for p in (0.0004, 0.0321, NAN)] == ["< 0.001", "0.032", "–"]


def test_durations_sentences_and_counts() -> None:
    assert [duration(s) for s in (None, 42, 400, 12240)] == ["–", "42 s", "7 min", "3.4 h"]
    assert sentence("dev split, 3 scans") == "Dev split, 3 scans."
    assert [plural(n, "scan") for n in (0, 1, 2)] == ["0 scans", "1 scan", "2 scans"]
