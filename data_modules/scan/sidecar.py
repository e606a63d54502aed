"""The JSON file beside an image file, which says what NIfTI has no room for."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

from data_modules.errors import UserError
from data_modules.scan.image_files import image_stem
from data_modules.scan.plausible import PLAUSIBLE_MM, is_plausible_mm

_OF_DCM2NIIX = re.compile(r"(?:_Tilt|_Eq|_\d+)$")


def sidecar_path(image: Path) -> Path:
    """Where the sidecar of an image file lies, whether there is one or not.

    Where there is none of its name, that of the name without `_Tilt`, `_Eq` or a number at the end counts: dcm2niix
    writes `head.json` for `head.nii.gz`, and none for the `head_Tilt_Eq_1.nii.gz` that it makes of the same slices.
    """
    own = stem = image_stem(image)
    while True:
        for suffix in (".json", ".JSON"):
            if image.with_name(stem + suffix).is_file():
                return image.with_name(stem + suffix)
        shorter = _OF_DCM2NIIX.sub("", stem)
        if shorter in (stem, ""):
            return image.with_name(f"{own}.json")
        stem = shorter


def sidecar_remarks(image: Path) -> list[str]:
    """What to tell where the sidecar has another name than the image."""
    sidecar = sidecar_path(image)
    if not sidecar.is_file() or sidecar.stem == image_stem(image):
        return []
    return [f"no JSON file of the image's own name: slice thickness and kernel are those of {sidecar.name}"]


def read_sidecar(image: Path) -> dict[str, Any]:
    """What the BIDS-style JSON file beside an image file holds; empty where there is none.

    Raises:
        UserError: when it is no JSON object, is not of CT, or holds numbers that make no sense.
    """
    sidecar = sidecar_path(image)
    if not sidecar.is_file():
        return {}
    try:
        content = json.loads(sidecar.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise UserError(f"{sidecar}: cannot be read ({error.strerror}). Mend that, or remove it.") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{sidecar}: not valid JSON ({error}). Mend it, or remove it to go on without.") from error
    if not isinstance(content, dict):
        raise UserError(f"{sidecar}: expected a JSON object with keys such as SliceThickness")
    if content.get("Modality", "CT") != "CT":
        raise UserError(f"{sidecar}: Modality is {content['Modality']!r:.80}, expected 'CT'. Give a CT scan.")
    for key in ("SliceThickness", "GantryDetectorTilt"):
        value = content.get(key, 1.0)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise UserError(f"{sidecar}: {key} is {value!r:.80}, expected a number")
    thickness = content.get("SliceThickness", 1.0)
    low, high = PLAUSIBLE_MM
    if not is_plausible_mm(thickness):
        raise UserError(
            f"{sidecar}: SliceThickness is {thickness!r:.80}, expected a positive number, mm from {low:g} to {high:g}"
        )
    if not _are_thicknesses(content.get("SliceThicknesses", [1.0])):
        raise UserError(
            f"{sidecar}: SliceThicknesses is expected to be a list of mm from {low:g} to {high:g}, one a slice"
        )
    return content


def _are_thicknesses(values: Any) -> bool:
    """Whether a JSON value lists the thickness of each slice."""
    return (
        isinstance(values, list)
        and bool(values)
        and all(isinstance(v, int | float) and not isinstance(v, bool) and is_plausible_mm(v) for v in values)
    )
