"""Signatures of what an evaluation has written: a file that was changed by hand afterwards is known.

`signatures.json` of a run holds the SHA-256 of each file and its HMAC under the cohort's `split_salt`. Whoever has the
salt can sign anew: a signature tells an edited file from one as it was written, not an honest author from a forger.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from filelock import FileLock

from data_modules.cohort.leakage import SALT_FILE
from data_modules.files import sha256, write_json_atomic

FILE = "signatures.json"


def sign(directory: Path, files: Sequence[Path], table: Path | str) -> None:
    """Note what files hold now.

    Args:
        directory: of the run, or of an external model.
        files: below it.
        table: of the cohort, beside which the salt lies; without one the sums alone are noted.
    """
    salt = _salt(Path(table))
    with FileLock(directory / f"{FILE}.lock"):
        known = read_signatures(directory)
        for path in files:
            digest = sha256(path)
            known[_name(directory, path)] = {"sha256": digest, "hmac": _mac(salt, _name(directory, path), digest)}
        write_json_atomic(directory / FILE, known)


def complaint(directory: Path, path: Path, table: Path | str) -> str:
    """What is wrong with a file, in words; empty where it is as it was signed.

    Arguments as for `sign`.
    """
    known = read_signatures(directory).get(_name(directory, path))
    if not isinstance(known, dict):
        return "is not signed: it was written by an earlier version, or its signature was taken away"
    digest, salt = sha256(path), _salt(Path(table))
    if known.get("sha256") != digest:
        return "was changed after it was written"
    if not known.get("hmac") or not salt:
        return "is as it was signed, but without the cohort's split_salt anybody could have signed it"
    if not hmac.compare_digest(str(known["hmac"]), _mac(salt, _name(directory, path), digest)):
        return "was signed with another split_salt than the cohort's, or changed after it was written"
    return ""


def was_changed(directory: Path, path: Path) -> bool:
    """Whether a file was signed, and holds something else now."""
    known = read_signatures(directory).get(_name(directory, path))
    return isinstance(known, dict) and path.is_file() and known.get("sha256") != sha256(path)


def read_signatures(directory: Path) -> dict[str, Any]:
    """Signatures by the names of files; none where there are none, or they are damaged."""
    known: Any = {}
    with suppress(OSError, ValueError):
        known = json.loads((directory / FILE).read_text(encoding="utf-8"))
    return known if isinstance(known, dict) else {}


def _name(directory: Path, path: Path) -> str:
    return Path(os.path.relpath(path, directory)).as_posix()


def _mac(salt: str, name: str, digest: str) -> str:
    return hmac.new(salt.encode(), f"{name} {digest}".encode(), hashlib.sha256).hexdigest() if salt else ""


def _salt(table: Path) -> str:
    try:
        return table.absolute().with_name(SALT_FILE).read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""
