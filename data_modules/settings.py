"""What a single setting may be, told beside the setting: rules and choices as metadata of a dataclass field.

``batch_size: int = setting(2, AT_LEAST_ONE)`` and ``profile: str = choice("overlap", "gaussian", "linear")``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

RANGE, CHOICES, TRUTH = "range", "choices", "truth"
"""Keys of a field's metadata: a `Rule`, or the words that are allowed, and those that false and true stand for."""


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


def choice(*words: str, default: str | None = None, truth: tuple[str, str] | None = None) -> Any:
    """A field that takes one of some words.

    Args:
        words: that are allowed.
        default: the first of them, where none is named.
        truth: the words that false and true stand for: YAML reads `off`, without quotes, as false.
    """
    return field(default=default or words[0], metadata={CHOICES: words} | ({TRUTH: truth} if truth else {}))


def rises(values: Sequence[float]) -> bool:
    """Whether each value is greater than the one before."""
    return all(a < b for a, b in pairwise(values))


MOST = 10**9
"""No count and no magnitude among the settings is larger: what is was typed wrongly, or made to do harm."""

ANY = Rule(lambda v: abs(v) <= MOST, f"a number from -{MOST} to {MOST}")
POSITIVE = Rule(lambda v: 0 < v <= MOST, f"a number greater than 0, at most {MOST}")
NOT_NEGATIVE = Rule(lambda v: 0 <= v <= MOST, f"a number from 0 to {MOST}")
AT_LEAST_ZERO = Rule(lambda v: 0 <= v <= MOST, f"a whole number from 0 to {MOST}")
AT_LEAST_ONE = Rule(lambda v: 1 <= v <= MOST, f"a whole number from 1 to {MOST}")
SHARE = Rule(lambda v: 0 <= v <= 1, "a number from 0 to 1")
SHARE_ABOVE_ZERO = Rule(lambda v: 0 < v <= 1, "a number above 0 and at most 1")
SHARE_BELOW_ONE = Rule(lambda v: 0 <= v < 1, "a number from 0 to below 1")
SHARE_INSIDE = Rule(lambda v: 0 < v < 1, "a number between 0 and 1, both excluded")
SIZES = Rule(lambda v: min(v) >= 1 and max(v) <= 4096, "three whole numbers from 1 to 4096")
LENGTHS = Rule(lambda v: min(v) > 0 and max(v) <= 1000, "three numbers greater than 0, at most 1000")
