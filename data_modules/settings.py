"""What a single setting may be, told beside the setting: rules and choices as metadata of a dataclass field.

``batch_size: int = setting(2, AT_LEAST_ONE)`` and ``profile: str = choice("overlap", "gaussian", "linear")``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

RANGE, CHOICES = "range", "choices"
"""Keys of a field's metadata: a `Rule`, or the words that are allowed."""


@dataclass(frozen=True)
class Rule:
    """Which values a setting takes; null, where its type allows it, is always fine.

    Attributes:
        fine: whether a value of the setting's type is one of them.
        expected: what they are, in words that follow "expected".
    """

    fine: Callable[[Any], bool]
    expected: str


def setting(default: Any, rule: Rule) -> Any:
    """A field with a default and a rule."""
    return field(default=default, metadata={RANGE: rule})


def choice(*words: str, default: str | None = None) -> Any:
    """A field that takes one of some words; the first is the default where none is named."""
    return field(default=default or words[0], metadata={CHOICES: words})


def rises(values: Sequence[float]) -> bool:
    """Whether each value is greater than the one before."""
    return all(a < b for a, b in pairwise(values))


ANY = Rule(lambda v: True, "any number")
POSITIVE = Rule(lambda v: v > 0, "a number greater than 0")
NOT_NEGATIVE = Rule(lambda v: v >= 0, "a number of 0 or more")
AT_LEAST_ZERO = Rule(lambda v: v >= 0, "a whole number of 0 or more")
AT_LEAST_ONE = Rule(lambda v: v >= 1, "a whole number of 1 or more")
SHARE = Rule(lambda v: 0 <= v <= 1, "a number from 0 to 1")
SHARE_ABOVE_ZERO = Rule(lambda v: 0 < v <= 1, "a number above 0 and at most 1")
SHARE_BELOW_ONE = Rule(lambda v: 0 <= v < 1, "a number from 0 to below 1")
SHARE_INSIDE = Rule(lambda v: 0 < v < 1, "a number between 0 and 1, both excluded")
SIZES = Rule(lambda v: min(v) >= 1, "three whole numbers of 1 or more")
LENGTHS = Rule(lambda v: min(v) > 0, "three numbers greater than 0")
