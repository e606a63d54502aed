"""The files of a bundle that comes from elsewhere: what they must be before anything in them is believed.

They are data: plain files of the folder itself, of bounded size, with the sums of the manifest, and JSON of finite
values; weights are read by `safetensors` once their shapes are those of the network.
"""

from __future__ import annotations

import json
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from data_modules.errors import UserError
from data_modules.files import sha256
from iac_lightning.modules.checkpoint import check_finite

FORMAT = "iac-lightning bundle"
VERSION = 2
"""Raised when an older `load_bundle` could not read, or would misread, what is written now. 2: ensembles; what holds a
single network is written as 1."""
MOST_MEMBERS = 1000
"""Far more networks than an ensemble needs."""

MANIFEST = "manifest.json"
WEIGHTS = "weights.safetensors"
SETTINGS = "model.json"
CALIBRATION = "calibration.json"
TRAINED_ON = "trained_on.json"
CARD = "MODEL_CARD.md"
FILES = (WEIGHTS, SETTINGS, CALIBRATION, TRAINED_ON, CARD)

_MOST_BYTES = {MANIFEST: 2**20, SETTINGS: 2**20, CALIBRATION: 2**24, TRAINED_ON: 2**27, CARD: 2**22}
AGAIN = "Copy it again whole, or export the run again: iac export RUN OUT"


def is_bundle(path: Path) -> bool:
    """Whether a folder says that it is a bundle."""
    try:
        manifest = read_json(path, MANIFEST)
    except UserError:
        return False
    return isinstance(manifest, dict) and manifest.get("format") == FORMAT


def check_manifest(path: Path) -> dict[str, Any]:
    """Refuse a folder whose files are not those that were exported.

    Returns:
        The manifest.

    Raises:
        UserError: with one line.
    """
    if not is_bundle(path):
        what = f"not a bundle (no {MANIFEST} of one)" if path.exists() else "there is no such folder"
        raise UserError(f"{path}: {what}. Give a folder that `iac export RUN OUT` wrote.")
    manifest: dict[str, Any] = read_json(path, MANIFEST)
    version = manifest.get("format_version")
    if type(version) is not int or not 1 <= version <= VERSION:
        raise UserError(
            f"{path}: a bundle of format {version!r:.40}; this version reads up to {VERSION}. Update iac-lightning."
        )
    sums = manifest.get("sha256")
    if not isinstance(sums, dict) or set(sums) != set(FILES):
        raise UserError(f"{path / MANIFEST}: does not list the files of a bundle ({', '.join(FILES)}). {AGAIN}")
    if others := other_files(path):
        raise UserError(
            f"{path / others[0]}: is no file of a bundle ({len(others)} such). Remove it, or copy the bundle again."
        )
    for name in FILES:
        check_file(path, name)
        if sha256(path / name) != sums[name]:
            raise UserError(f"{path / name}: is not the file that was exported (cut off, or changed). {AGAIN}")
    return manifest


def other_files(path: Path) -> list[str]:
    """What lies in a bundle's folder and does not belong to it."""
    return sorted(file.name for file in path.iterdir() if file.name not in (*FILES, MANIFEST))


def check_file(path: Path, name: str) -> None:
    """Refuse what is not a plain file of the folder itself, or is far larger than such a file can be.

    Raises:
        UserError: with one line.
    """
    file = path / name
    try:
        found = file.lstat()
    except OSError:
        raise UserError(f"{file}: is missing from the bundle. {AGAIN}") from None
    if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
        raise UserError(
            f"{file}: is a link or no plain file, and a bundle holds plain files of its own only. Copy the file itself "
            f"there if you trust it, or export the run again: iac export RUN OUT"
        )
    if found.st_size > (most := _MOST_BYTES.get(name, found.st_size)):
        raise UserError(f"{file}: holds {found.st_size:,} bytes, and at most {most:,} are read. {AGAIN}")


def read_json(path: Path, name: str) -> Any:
    """Plain values of one of the files, each number finite.

    Raises:
        UserError: when the file is not such JSON, or not a file of a bundle.
    """
    check_file(path, name)
    try:
        return json.loads((path / name).read_text(encoding="utf-8"), parse_constant=_refuse, parse_float=_finite)
    except (OSError, ValueError, RecursionError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise UserError(f"{path / name}: not JSON as it was exported ({reason}). {AGAIN}") from None


def read_weights(path: Path, expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of a network; nothing of them is read before their shapes are the network's.

    Args:
        path: of the bundle.
        expected: the network's tensors, which need not hold values.

    Raises:
        UserError: when they are those of another network, or not finite.
    """
    file = path / WEIGHTS
    try:
        with safe_open(file, "pt") as weights:
            names = set(weights.keys())
            wrong = sorted(names ^ set(expected))
            wrong += [n for n, tensor in expected.items() if n in names and not _fits(weights, n, tensor)]
        state = load_file(file) if not wrong else {}
    except (SafetensorError, OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{file}: is not a file of weights ({reason}). {AGAIN}") from None
    if wrong:
        raise UserError(
            f"{path}: the bundle is whole but does not fit this version of iac-lightning: its settings describe "
            f"another network than its weights ({len(wrong)} tensors differ, such as {wrong[0]}). Use the version "
            "that its model card names, or export the run again."
        )
    check_finite(state, file)
    return state


def _fits(weights: Any, name: str, tensor: Tensor) -> bool:
    """Whether a tensor of the file has the shape of the network's, in single precision as all of them."""
    piece = weights.get_slice(name)
    return bool(piece.get_dtype() == "F32" and list(piece.get_shape()) == list(tensor.shape))


def _refuse(word: str) -> Any:
    raise ValueError(f"{word} is no number")


def _finite(text: str) -> float:
    if abs(value := float(text)) == float("inf"):
        raise ValueError(f"{text} is no number that can be reckoned with")
    return value
