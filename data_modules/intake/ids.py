"""Codes instead of identifiers: salted hashes. Who has the salt can make them again; who has not learns nothing."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from dataclasses import dataclass
from pathlib import Path

from data_modules.errors import UserError
from data_modules.files import replacing

SALT = "salt"
"""File of the private folder."""
PATIENT, EXAM, SERIES = "P", "E", "S"
"""First letters of codes, so that no table takes them for numbers."""
_DIGITS = 12
_SALT_BYTES = 32


@dataclass(frozen=True)
class Codes:
    """Makes codes with one salt."""

    salt: bytes

    def code(self, kind: str, *raw: str) -> str:
        """The code of what some raw text names.

        Args:
            kind: one of the letters above.
            raw: parts of the identifier.
        """
        message = "\0".join((kind, *raw)).encode()
        return kind + hmac.new(self.salt, message, hashlib.sha256).hexdigest()[:_DIGITS]


def private_folder(folder: Path) -> Path:
    """The folder that only its owner may open; made where it is missing."""
    folder.mkdir(parents=True, exist_ok=True)
    os.chmod(folder, 0o700)
    return folder


def read_salt(private: Path, *, may_make: bool) -> Codes:
    """Codes with the salt of a private folder.

    Args:
        private: the folder.
        may_make: whether a new salt may be made where there is none.

    Raises:
        UserError: where the salt is missing that codes were made with, or is damaged.
    """
    path = private / SALT
    if not path.exists():
        if not may_make:
            raise UserError(
                f"{path}: there is no salt, and the images beside it have codes that were made with one. Put the "
                "private folder of the first import back (--private FOLDER), or import into a new folder."
            )
        with replacing(path, keeps_present=True) as temporary:
            temporary.touch(mode=0o600)
            temporary.write_text(secrets.token_hex(_SALT_BYTES) + "\n", encoding="ascii")
    try:
        salt = bytes.fromhex(path.read_text(encoding="ascii").strip())
    except ValueError:
        salt = b""
    if len(salt) < _SALT_BYTES // 2:
        raise UserError(f"{path}: is no salt. Expected {2 * _SALT_BYTES} hexadecimal digits: put the right file back.")
    return Codes(salt)
