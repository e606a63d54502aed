"""The JSON file beside a NIfTI file, which says what NIfTI has no room for."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from data_modules.errors import UserError


def sidecar_path(image: Path) -> Path:
    """Where the sidecar of a `.nii` or `.nii.gz` file lies, whether there is one or not."""
    return image.with_name(image.name.removesuffix(".gz").removesuffix(".nii") + ".json")


def read_sidecar(image: Path) -> dict[str, Any]:
    """What the BIDS-style JSON file beside a NIfTI file holds; empty where there is none.

    Raises:
        UserError: when it is no JSON object, is not of CT, or holds numbers that make no sense.
    """
    sidecar = sidecar_path(image)
    if not sidecar.is_file():
        return {}
    try:
        content = json.loads(sidecar.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{sidecar}: not valid JSON ({error}). Mend it, or remove it to go on without.") from error
    if not isinstance(content, dict):
        raise UserError(f"{sidecar}: expected a JSON object with keys such as SliceThickness")
    if content.get("Modality", "CT") != "CT":
        raise UserError(f"{sidecar}: Modality is {content['Modality']!r}, expected 'CT'. Give a CT scan.")
    for key in ("SliceThickness", "GantryDetectorTilt"):
        value = content.get(key, 1.0)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise UserError(f"{sidecar}: {key} is {value!r}, expected a number")
    if not content.get("SliceThickness", 1.0) > 0:
        raise UserError(f"{sidecar}: SliceThickness is {content['SliceThickness']!r}, expected a positive number of mm")
    return content
