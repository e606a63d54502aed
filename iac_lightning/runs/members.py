"""The runs that an ensemble is made of: `ensemble.json` in its run directory."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from data_modules.errors import UserError
from data_modules.files import write_json_atomic

FILE = "ensemble.json"


@dataclass(frozen=True)
class Member:
    """A run of an ensemble.

    Attributes:
        run: its directory.
        name: of the run.
        checkpoint_sha256: first 16 hexadecimal digits: which weights of it.
        fold: that it held out; None: the development split.
    """

    run: Path
    name: str
    checkpoint_sha256: str
    fold: int | None


def members_of(directory: Path) -> tuple[Member, ...]:
    """The members of the ensemble in a run directory; none where it is a single run.

    Raises:
        UserError: when the file is not what `write_members` writes.
    """
    path = directory / FILE
    if not path.exists():
        return ()
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))["members"]
        members = tuple(
            Member(directory / row["run"], str(row["name"]), str(row["checkpoint_sha256"]), row["fold"]) for row in rows
        )
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: not what `iac ensemble` writes ({error!r}); make the ensemble again") from None
    return members


def write_members(directory: Path, members: Sequence[Member]) -> None:
    """Write `ensemble.json`; where runs lie is noted from its folder, so that all of them can be moved together."""
    rows = [
        {
            "run": os.path.relpath(member.run.absolute(), directory.absolute()),
            "name": member.name,
            "checkpoint_sha256": member.checkpoint_sha256,
            "fold": member.fold,
        }
        for member in members
    ]
    write_json_atomic(directory / FILE, {"members": rows})
