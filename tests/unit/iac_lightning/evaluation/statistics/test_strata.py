from __future__ import annotations

import pytest

from iac_lightning.config.schema import EvaluationConfig
from iac_lightning.evaluation.statistics.strata import (
    EDGES_MM,
    THICKNESS_STRATA,
    edges_of,
    strata_from_edges,
    stratum_index,
)


def test_edges_belong_to_the_thinner_stratum():
    assert stratum_index([0.25, 1, 1.01, 2, 4, 6, 6.1, 10]).tolist() == [0, 0, 1, 1, 2, 3, 4, 4]


def test_strata_of_any_edges():
    assert [name for name, _, _ in THICKNESS_STRATA] == ["≤ 1 mm", "1–2 mm", "2–4 mm", "4–6 mm", "> 6 mm"]
    assert EvaluationConfig().thickness_edges_mm == EDGES_MM
    found = strata_from_edges([2.5])
    assert found == (("≤ 2.5 mm", 0.0, 2.5), ("> 2.5 mm", 2.5, float("inf")))
    assert edges_of(found) == [2.5]
    assert stratum_index([2.5, 2.6], found).tolist() == [0, 1]
    assert [n for n, _, _ in strata_from_edges([0.625, 3, 10])] == ["≤ 0.625 mm", "0.625–3 mm", "3–10 mm", "> 10 mm"]
    for wrong in ([], [0, 1], [2, 1], [1, 1]):
        with pytest.raises(ValueError, match="rising"):
            strata_from_edges(wrong)
