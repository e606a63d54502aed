"""A simulated head is known by its file, by where it lies, and by its row; a patient's by none of them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from data_modules.cohort.table import Series, read_cohort
from data_modules.phantom.mark import is_phantom_image, is_phantom_series


def a_series(image: Path, **facts: object) -> Series:
    values = {"patient_id": "a", "series_id": "a", "image": image, "label": None, "split": "dev"}
    return Series(**{**values, "slice_thickness_mm": 5.0, **facts})  # type: ignore[arg-type]


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    """A NIfTI that says nothing of where it comes from."""
    path = tmp_path / "images" / "a.nii.gz"
    path.parent.mkdir()
    nib.save(nib.Nifti1Image(np.zeros((3, 3, 3), dtype=np.int16), np.eye(4)), path)
    return path


def test_the_generators_files_are_marked_wherever_they_lie(phantom_cohort: Path, tmp_path: Path) -> None:
    series = read_cohort(phantom_cohort).series[0]
    copy = tmp_path / "somewhere.nii.gz"
    shutil.copy(series.image, copy)
    assert is_phantom_image(copy)
    assert is_phantom_series(series)
    assert is_phantom_series(a_series(copy))


def test_files_of_before_the_mark_are_known_by_their_folder(plain: Path) -> None:
    assert not is_phantom_image(plain)
    (plain.parents[1] / "phantom.json").write_text(json.dumps({"version": 2, "seed": 0}))
    assert is_phantom_image(plain)
    (plain.parents[1] / "phantom.json").write_text("[]")  # something else of that name
    assert not is_phantom_image(plain)


def test_a_row_tells_too(plain: Path) -> None:
    assert not is_phantom_series(a_series(plain))
    assert is_phantom_series(a_series(plain, extra={"phantom_seed": "0"}))
    assert not is_phantom_series(a_series(plain, extra={"phantom_seed": ""}))
    assert is_phantom_series(a_series(plain, true_volume_mm3=0.0))


def test_what_is_no_nifti_is_no_phantom(tmp_path: Path) -> None:
    (tmp_path / "broken.nii.gz").write_bytes(b"\x1f\x8bno")
    (tmp_path / "folder").mkdir()
    for name in ("broken.nii.gz", "folder", "absent.nii.gz"):
        assert not is_phantom_image(tmp_path / name)
