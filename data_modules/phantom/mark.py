"""How a simulated head is told from a patient's: by the mark that the generator left, in its table or in its file."""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

import nibabel as nib
import pydicom
from nibabel.filebasedimages import ImageFileError
from pydicom.errors import InvalidDicomError

from data_modules.cohort.table import Series
from data_modules.scan.dicom_files import files_below

MARK = "iac-lightning phantom"
"""In the description that a NIfTI header has room for, and the ManufacturerModelName of DICOM: it stays where a file is
copied alone."""

COLUMN = "phantom_seed"
"""Of the cohort table of simulated heads."""

_TAGS: list[Any] = ["SOPClassUID", "ManufacturerModelName"]

SETTINGS_FILE = "phantom.json"
"""In the folder of a simulated cohort; it told alone before images were marked."""


def is_phantom_series(series: Series) -> bool:
    """Whether a series of a cohort is simulated: its true volume is known, or its row or its image is marked."""
    return bool(series.extra.get(COLUMN)) or series.true_volume_mm3 is not None or is_phantom_image(series.image)


def is_phantom_image(path: Path) -> bool:
    """Whether an image is marked as simulated, or lies where the generator put it.

    Args:
        path: NIfTI, or a folder of DICOM, of which every file has to be marked. False for anything else.
    """
    if Path(path).is_dir():
        return _is_marked_dicom(path)
    return _is_marked(path) or _is_in_phantom_folder(path)


def _is_marked_dicom(folder: Path) -> bool:
    models = []
    for path in files_below(folder):
        try:
            header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=_TAGS)
        except (InvalidDicomError, OSError, EOFError, ValueError):
            continue
        if "SOPClassUID" not in header:  # no image, or not much of one
            continue
        models.append(str(header.get("ManufacturerModelName", "")))
        if models[-1] != MARK:
            return False
    return bool(models)


def _is_marked(path: Path) -> bool:
    try:
        header = nib.load(path).header
        return bool(header["descrip"].item().decode("latin-1").rstrip("\0") == MARK)
    except (OSError, EOFError, ValueError, KeyError, zlib.error, ImageFileError):
        return False


def _is_in_phantom_folder(path: Path) -> bool:
    """Whether `<cohort>/images/<series>.nii.gz` lies in a cohort of the generator's."""
    images = Path(path).absolute().parent
    try:
        settings = json.loads((images.parent / SETTINGS_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return images.name == "images" and isinstance(settings, dict) and {"version", "seed"} <= settings.keys()
