"""Names of scans on pages that say nothing of whose they are, the same each time a page is made."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable

_SHORTEST = 6


def scan_names(series_ids: Iterable[str], key: str) -> dict[str, str]:
    """Series to a name such as ``scan 3fa9c1``: a keyed digest, longer where two would have the same.

    Args:
        series_ids: of the evaluated scans.
        key: that the digest depends on (fingerprint of the prepared data), so that the same code of another cohort has
            another name.
    """
    digests = {
        series: hmac.new(key.encode(), series.encode(), hashlib.sha256).hexdigest()
        for series in sorted(set(series_ids))
    }
    length = _SHORTEST
    while len({digest[:length] for digest in digests.values()}) < len(digests):
        length += 1
    return {series: f"scan {digest[:length]}" for series, digest in digests.items()}
