"""What preparation remarked on many scans, in numbers and a sentence that name no scan."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

_LISTED = 3


def kind(warning: str) -> str:
    """What a warning is about, without what is particular to one scan: up to the first colon, numbers as "…"."""
    return re.sub(r"\d+(\.\d+)?", "…", warning.partition(": ")[0])


def summarise_warnings(warnings: Sequence[Sequence[str]]) -> dict[str, Any]:
    """How many scans carry warnings, and of which kinds.

    Args:
        warnings: of each scan, also of those without.

    Returns:
        `n_series`, `n_with_warnings` and `kinds`: `[kind, number of scans]`, the most frequent first.
    """
    counts = Counter(name for remarks in warnings for name in {kind(warning) for warning in remarks})
    return {
        "n_series": len(warnings),
        "n_with_warnings": sum(bool(remarks) for remarks in warnings),
        "kinds": [list(row) for row in sorted(counts.items(), key=lambda row: (-row[1], row[0]))],
    }


def warnings_sentence(summary: Mapping[str, Any]) -> str:
    """The summary in a sentence, with the most frequent kinds."""
    if not summary["n_with_warnings"]:
        return f"None of the {summary['n_series']} evaluated scans carries a warning of its preparation."
    kinds = [f"{name} ({n})" for name, n in summary["kinds"][:_LISTED]]
    rest = len(summary["kinds"]) - len(kinds)
    more = f"; and {rest} other kind{'s' if rest > 1 else ''}" if rest else ""
    carry = "carries" if summary["n_with_warnings"] == 1 else "carry"
    numbers = " (“…” stands for a number of each scan)" if any("…" in name for name in kinds) else ""
    return (
        f"{summary['n_with_warnings']} of the {summary['n_series']} evaluated scans {carry} warnings of preparation"
        f"{numbers}: {'; '.join(kinds)}{more}."
    )
