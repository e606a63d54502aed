from __future__ import annotations

import numpy as np

from iac_lightning.report.words import duration, interval, p_value


def test_words_for_numbers():
    assert interval(-0.1234, -0.2, 0.05) == "−0.123 [−0.200; 0.050]"
    assert interval(0.5, None, None) == "0.500"
    assert interval(0.5, np.nan, np.nan) == "0.500"
    assert interval(None, None, None) == "–"
    assert [p_value(p) for p in (0.0004, 0.0321, float("nan"))] == ["p < 0.001", "p = 0.032", "p –"]
    assert [duration(s) for s in (None, 42, 400, 12240)] == ["–", "42 s", "7 min", "3.4 h"]
