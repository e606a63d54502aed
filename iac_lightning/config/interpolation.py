"""Settings made from others: `${data.batch_size}`, and nothing else.

Settings files come from anywhere, so neither the environment (`oc.env`) nor any other function of OmegaConf is theirs
to use: what they would give is stored with the run, and shown.
"""

from __future__ import annotations

import re
from typing import Any

_REFERENCE = re.compile(r"\$\{[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*\}")


def is_interpolation(value: Any) -> bool:
    """Whether OmegaConf would read a setting, or a part of a list, as made from something else."""
    return any(isinstance(part, str) and "${" in part for part in (value if isinstance(value, list) else [value]))


def interpolation_problem(value: Any, stored: bool) -> str | None:
    """Why an interpolation is not followed; None where it names other settings only.

    Args:
        value: for which `is_interpolation` holds.
        stored: of settings that were stored with a run or a model, which are complete.
    """
    if stored:
        return "settings of a run or model are taken as they are written, without ${…}: write the value itself"
    parts = value if isinstance(value, list) else [value]
    if all("${" not in _REFERENCE.sub("", str(part)) for part in parts):
        return None
    return (
        "only other settings can be named, as ${data.batch_size}; the environment and functions are never read: "
        "write the value itself"
    )
