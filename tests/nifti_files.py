"""Small CT files for tests, written by nibabel and not by the code under test."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from data_modules.scan.scan import Scan

AFFINE = np.array([[-0.5, 0, 0, 30], [0, 0.6, 0, -20], [0, 0, 3.0, 5], [0, 0, 0, 1.0]])


def head(shape: tuple[int, ...] = (12, 10, 8), seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed]).integers(-1000, 1500, shape).astype(np.int16)


def save(path: Path, data: np.ndarray, affine: np.ndarray = AFFINE, units: str | None = "mm", **sidecar: Any) -> Path:
    """A NIfTI file, written by nibabel and not by the code under test."""
    image = nib.Nifti1Image(data, affine)
    image.set_sform(affine, code=1)
    if units:
        image.header.set_xyzt_units(units)
    nib.save(image, path)
    if sidecar:
        path.with_name(path.name.split(".")[0] + ".json").write_text(json.dumps(sidecar))
    return path


def with_header(path: Path, data: np.ndarray, affine: np.ndarray, version: int = 1, **fields: Any) -> Path:
    """A NIfTI file (`.nii`) with sform and qform, some of whose header fields are then overwritten as they are."""
    image = (nib.Nifti1Image if version == 1 else nib.Nifti2Image)(data, affine)
    image.set_sform(affine, code=1)
    image.set_qform(affine, code=1)
    image.header.set_xyzt_units("mm")
    nib.save(image, path)
    content = path.read_bytes()
    header = image.header_class(content[: image.header_class.template_dtype.itemsize], check=False)
    for name, value in fields.items():
        header[name] = value
    path.write_bytes(header.binaryblock + content[len(header.binaryblock) :])
    return path


def remarks(scan: Scan) -> str:
    return "\n".join(scan.warnings)
