"""Probability maps of a run on disk, each with the key of what it depends on. Imports no torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from data_modules.errors import UserError
from data_modules.files import on_disk, write_json_atomic
from data_modules.scan.geometry import Grid, Volume
from data_modules.scan.nifti import read_probability, write_nifti

MASK_ENDING = "_mask.nii.gz"
"""Of the file of a series' mask that is the result: at the operating point, after the annotation protocol."""

PLAIN_MASK_ENDING = "_mask_plain.nii.gz"
"""Of the file of the mask of a threshold alone."""


def write_prediction(probability: Volume, path: Path, key: dict[str, Any]) -> None:
    """Write a probability map (`….nii.gz`), and beside it (`….json`) what it depends on."""
    key_file(path).unlink(missing_ok=True)
    with on_disk(path):
        write_nifti(probability, path)
    write_json_atomic(key_file(path), key)


def saved_prediction(path: Path, key: dict[str, Any], like: Grid | None = None) -> Volume | None:
    """The map that an earlier call wrote, if it is whole and depends on the same; None otherwise."""
    if not is_saved(path, key):
        return None
    try:
        return read_probability(path, like=like)
    except (OSError, ValueError, UserError):  # a damaged one is predicted again
        return None


def is_saved(path: Path, key: dict[str, Any]) -> bool:
    """Whether an earlier call wrote a map that depends on the same; it may be damaged."""
    try:
        return path.exists() and bool(json.loads(key_file(path).read_text(encoding="utf-8")) == key)
    except (OSError, ValueError):
        return False


def key_file(path: Path) -> Path:
    """Where the key of a probability map lies."""
    return path.with_name(path.name.replace(".nii.gz", ".json"))
