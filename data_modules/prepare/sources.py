"""The files that a prepared series is made of, and what tells that they have changed."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data_modules.cohort.region_hints import CENTER
from data_modules.cohort.series import known_thickness_mm
from data_modules.cohort.table import Series
from data_modules.errors import UserError
from data_modules.scan.dicom_files import files_below
from data_modules.scan.sidecar import sidecar_path
from data_modules.scan.stored import image_files


def source_files(series: Series) -> list[Path]:
    """The files that decide a prepared series: image (all of a DICOM folder), its JSON sidecar, and labels."""
    if series.image.is_dir():
        try:
            files = files_below(series.image)
        except UserError:  # which reading it will say
            files = []
    else:
        sidecar = sidecar_path(series.image)
        files = [*_parts(series.image), *([sidecar] if sidecar.is_file() else [])]
    labels = [label for label in (series.label, series.label_2) if label]
    return files + [part for label in labels for part in _parts(label)]


def _parts(image: Path) -> list[Path]:
    """The files of an image; the image alone where it cannot be read, which reading it will say."""
    try:
        return image_files(image)
    except UserError:
        return [image]


def source_state(series: Series, root: Path) -> str:
    """Digest of the names, sizes and times of the source files: cheap, and changed whenever they are written."""
    state: list[Any] = [known_thickness_mm(series), series.extra.get("dicom_series", ""), series.label is not None]
    state += [center] if (center := series.extra.get(CENTER)) else []
    for path in source_files(series):
        facts = path.stat()
        state.append([os.path.relpath(path, root), facts.st_size, facts.st_mtime_ns])
    return digest(state)


def source_sha256(series: Series, thickness_from: str = "file", template: str = "") -> str:
    """Digest of what the source files hold, wherever they lie.

    Args:
        series: which.
        thickness_from: as of its scan.
        template: which of several templates the region was found with; empty where there is only one.
    """
    facts: tuple[Any, ...] = (known_thickness_mm(series), series.extra.get("dicom_series", ""))
    if series.image.is_dir() and thickness_from != "file":
        facts = (*facts, thickness_from)
    if series.extra.get(CENTER) or template:
        facts = (*facts, series.extra.get(CENTER, ""), template)
    digest = hashlib.sha256(repr(facts).encode())
    for path in source_files(series):
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def sources_digest(series: Sequence[Series], root: Path) -> str:
    """Digest of which series these are, of whom, in which split, and of the state of their files."""
    return digest([(s.series_id, s.patient_id, s.split, source_state(s, root)) for s in series])


def digest(data: Any) -> str:
    """SHA-256 of plain types, whatever the order of their keys."""
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()
