"""The files below a folder of DICOM, whether they lie there or are linked there."""

from __future__ import annotations

import os
from pathlib import Path

from data_modules.errors import UserError


def files_below(folder: Path) -> list[Path]:
    """Every file in a folder and its sub-folders, sorted; links to files and to folders are followed.

    What can be reached in several ways, as through a link to a folder above, is listed once.

    Raises:
        UserError: a folder that may not be looked into, for slices may lie there.
    """

    def refuse(error: OSError) -> None:
        raise UserError(
            f"{error.filename}: the folder cannot be read ({error.strerror}), and slices may lie there. "
            "Make it readable, or move it elsewhere."
        ) from error

    found: dict[Path, Path] = {}  # by where it really lies
    entered: set[Path] = set()
    for parent, folders, names in os.walk(folder, followlinks=True, onerror=refuse):
        real = Path(parent).resolve()
        if real in entered:
            folders.clear()
            continue
        entered.add(real)
        folders.sort()
        for name in names:
            path = Path(parent, name)
            if path.is_file():
                lies_at = path.resolve() if path.is_symlink() else real / name
                if lies_at not in found or (found[lies_at].is_symlink() and not path.is_symlink()):
                    found[lies_at] = path
    return sorted(found.values())
