"""Rules at their edges, and where they stand."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import pytest

from data_modules import settings
from data_modules.settings import Rule, choice, rises, setting


@pytest.mark.parametrize(
    ("rule", "fine", "wrong"),
    [
        (settings.ANY, [-1e9, 0], []),
        (settings.POSITIVE, [1e-9], [0, -1]),
        (settings.NOT_NEGATIVE, [0.0, 5], [-1e-9]),
        (settings.AT_LEAST_ZERO, [0], [-1]),
        (settings.AT_LEAST_ONE, [1], [0]),
        (settings.SHARE, [0, 1], [-0.01, 1.01]),
        (settings.SHARE_ABOVE_ZERO, [1e-9, 1], [0, 1.01]),
        (settings.SHARE_BELOW_ONE, [0, 0.999], [1, -0.01]),
        (settings.SHARE_INSIDE, [0.001, 0.999], [0, 1]),
        (settings.SIZES, [(1, 1, 1)], [(1, 0, 1)]),
        (settings.LENGTHS, [(0.1, 1, 1)], [(1, 1, 0)]),
    ],
)
def test_edges(rule: Rule, fine: list[Any], wrong: list[Any]) -> None:
    assert all(rule.fine(value) for value in fine)
    assert not any(rule.fine(value) for value in wrong)
    assert rule.expected


def test_rules_and_words_stand_beside_their_field() -> None:
    @dataclass(kw_only=True)
    class Settings:
        size: int = setting(3, settings.AT_LEAST_ONE)
        colour: str = choice("red", "blue")
        shape: str = choice("round", "flat", default="flat")

    assert (Settings().size, Settings().colour, Settings().shape) == (3, "red", "flat")
    size, colour, _ = fields(Settings)
    assert size.metadata == {"range": settings.AT_LEAST_ONE}
    assert colour.metadata == {"choices": ("red", "blue")}


def test_rising() -> None:
    assert rises([])
    assert rises([1])
    assert rises([1, 2, 3])
    assert not rises([1, 1])
    assert not rises([2, 1])
