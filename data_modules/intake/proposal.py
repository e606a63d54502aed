"""Which of several accepted series of one examination is proposed, and why, in words."""

from __future__ import annotations

import re
from collections.abc import Sequence

from data_modules.intake.exams import FoundSeries

_SHARES_COVERED = 0.6
"""Of the longest series of the examination: what is shorter is a part of the head."""
_UNKNOWN_KERNEL = 5.0
_WORDS = {
    "SMOOTH": 1.0,
    "SOFT": 2.0,
    "STANDARD": 3.0,
    "STND": 3.0,
    "STD": 3.0,
    "STD+": 3.2,
    "BRAIN": 3.0,
    "DETAIL": 5.0,
    "LUNG": 6.0,
    "SHARP": 6.5,
    "BONE": 7.0,
    "BONEPLUS": 7.5,
    "EDGE": 8.0,
}
_PHILIPS = {"A": 2.0, "B": 3.0, "UA": 2.0, "UB": 3.0, "UC": 4.0, "C": 4.0, "L": 6.0, "D": 6.5, "E": 7.0}
_SIEMENS = re.compile(r"[A-Z][A-Z]?(\d\d)[A-Z]?(/\d+)?")
_CANON = re.compile(r"FC(\d\d)")


def softness(kernel: str) -> float:
    """How sharp a kernel is, by its name: 2 is soft, 7 that of bone.

    Siemens numbers kernels by sharpness (H31s, Hr40, J70h), GE names them, Philips takes letters, Canon numbers by
    use: 1 to 29 for soft tissue, 30 to 49 and 80 to 89 for bone, 50 to 59 for lungs, 60 to 79 for heads.
    """
    name = kernel.upper().split("/")[0].strip()
    if name in _WORDS:
        return _WORDS[name]
    if name in _PHILIPS:
        return _PHILIPS[name]
    if match := _CANON.match(name):
        number = int(match[1])
        for most, rank in ((9, 2.0), (29, 3.0), (49, 7.0), (59, 6.0), (79, 4.0), (99, 7.0)):
            if number <= most:
                return rank
    if match := _SIEMENS.fullmatch(name):
        return int(match[1]) / 10
    return next((rank for word, rank in _WORDS.items() if word in name), _UNKNOWN_KERNEL)


def propose(series: Sequence[FoundSeries]) -> tuple[FoundSeries, str]:
    """The best of the accepted series of one examination, and the reason.

    Plain before contrast; then what covers the head as the longest does; then the thinnest, the softest kernel, the
    longest; and of equals the one with the lowest series number.
    """
    longest = max(_value(item, "coverage_mm") for item in series)
    ranked = sorted(series, key=lambda item: (*_rank(item, longest), item.order))
    best = ranked[0]
    if len(ranked) == 1:
        return best, "the only accepted series of the examination"
    reasons = (
        "without contrast",
        "covers the region, where others show less of the head",
        f"the thinnest ({best.facts.get('slice_thickness_mm', '')} mm)",
        f"the softest kernel ({best.facts.get('kernel', '') or 'unknown'}) of equally thin ones",
        f"the longest ({best.facts.get('coverage_mm', '')} mm) of equally thin ones",
    )
    own, next_ = _rank(best, longest), _rank(ranked[1], longest)
    why = next((reason for reason, a, b in zip(reasons, own, next_, strict=True) if a != b), "the first of equals")
    return best, f"{why}, of {len(ranked)} accepted series of the examination"


def _rank(item: FoundSeries, longest_mm: float) -> tuple[bool, bool, float, float, float]:
    coverage = _value(item, "coverage_mm")
    return (
        item.facts.get("contrast") == "yes",
        coverage < _SHARES_COVERED * longest_mm,
        round(_value(item, "slice_thickness_mm"), 1),
        softness(item.facts.get("kernel", "")),
        -coverage,
    )


def _value(item: FoundSeries, column: str) -> float:
    return float(item.facts.get(column) or 0)
