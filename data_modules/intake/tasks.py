"""One series as one task: what is to be read, and where it goes.

A task depends on nothing but its slices and settings, writes nothing but its own files, each whole, and may be done
again at any time with the same result.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

VERSION = 1
"""Changes where the same slices give another result."""
IMAGES = "images"
"""Folder of the images, beside the cohort table."""


@dataclass(frozen=True)
class Task:
    """A series to read.

    Attributes:
        series_id: its code.
        slices: place and name of each file; names are numbers in an order that the content decides.
        parts: whether they are of several series that make one scan.
        out: folder of the output.
        template: to find the region of interest by; None: it is not looked for.
    """

    series_id: str
    slices: tuple[tuple[str, str], ...]
    parts: bool
    out: str
    template: str | None


def image_path(out: Path, series_id: str) -> Path:
    """Where the image of a series lies."""
    return out / IMAGES / f"{series_id}.nii.gz"
