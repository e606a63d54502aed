"""One slice thickness for all who ask, and what a row gets wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from data_modules.cohort.series import (
    known_thickness_mm,
    label_remark,
    read_series,
    spacing_remark,
    table_remarks,
    thickness_remark,
)
from data_modules.cohort.table import Series
from data_modules.errors import UserError
from tests.dicom_series import START, stepping, write_series


def series_of(image: Path, thickness_mm: float | None, **facts: Any) -> Series:
    return Series("p", "p-a", image, None, "dev", thickness_mm, facts.pop("spacing_mm", None), **facts)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    hu = np.random.default_rng([0]).integers(-1000, 1500, (8, 8, 6)).astype(np.int16)
    nib.save(nib.Nifti1Image(hu, np.diag([0.5, 0.5, 3.0, 1.0])), tmp_path / "a.nii.gz")
    return tmp_path / "a.nii.gz"


def write_sidecar(image: Path, content: str) -> None:
    (image.parent / "a.json").write_text(content)


def test_the_file_goes_before_the_table(image: Path) -> None:
    assert read_series(series_of(image, 2.5)).slice_thickness_mm == 2.5
    write_sidecar(image, json.dumps({"SliceThickness": 5}))
    assert read_series(series_of(image, 2.5)).slice_thickness_mm == 5.0
    assert read_series(series_of(image, None)).slice_thickness_mm == 5.0


def test_a_thickness_that_nobody_knows_is_no_guess(image: Path) -> None:
    with pytest.raises(UserError, match=r"a\.nii\.gz: does not say how thick .* in the row of p-a"):
        read_series(series_of(image, None))


def test_the_series_of_a_dicom_folder_that_the_row_names(tmp_path: Path) -> None:
    for uid, spacing in (("1.2.77", 3.0), ("1.2.88", 5.0)):
        write_series(
            tmp_path, stepping(START, np.arange(4) * spacing), prefix=uid, SeriesInstanceUID=uid, SliceThickness=spacing
        )
    chosen = series_of(tmp_path, None, extra={"dicom_series": "1.2.88"})
    assert read_series(chosen).slice_thickness_mm == 5.0
    for extra in ({}, {"dicom_series": ""}):
        with pytest.raises(UserError, match="2 CT series, expected one"):
            read_series(series_of(tmp_path, None, extra=extra))


def test_what_the_thickness_depends_on(image: Path) -> None:
    assert known_thickness_mm(series_of(image, 2.5)) == 2.5
    write_sidecar(image, json.dumps({"SliceThickness": 5}))
    assert known_thickness_mm(series_of(image, 2.5)) == 5.0
    assert known_thickness_mm(series_of(image.parent, 2.5)) == 2.5  # DICOM: its headers are not opened for this
    write_sidecar(image, "{")
    assert known_thickness_mm(series_of(image, 2.5)) == 2.5


@pytest.mark.parametrize(("given_mm", "told"), [(None, False), (5.0, False), (5.5, False), (5.6, True), (4.4, True)])
def test_a_thickness_that_is_not_the_scans_is_told(given_mm: float | None, told: bool) -> None:
    remark = thickness_remark(given_mm, 5.0, "the sidecar")
    assert (remark is not None) == told
    if remark:
        assert f"by the sidecar is not that of the file: {given_mm:g} mm, the file 5 mm" in remark


def test_a_voxel_size_that_is_not_the_scans_is_told(image: Path) -> None:
    own = (0.5, 0.5, 3.0)
    for spacing in (None, own, (3.0, 0.5, 0.5), (0.502, 0.5, 3.0)):
        assert spacing_remark(series_of(image, 3.0, spacing_mm=spacing), own) is None
    remark = spacing_remark(series_of(image, 3.0, spacing_mm=(0.5, 0.5, 5.0)), own)
    assert remark is not None
    assert "0.5 × 0.5 × 5 mm, the file 0.5 × 0.5 × 3 mm" in remark
    both = table_remarks(series_of(image, 9.0, spacing_mm=(0.5, 0.5, 5.0)), 3.0, own)
    assert [text.split(" by ")[0] for text in both] == ["slice thickness", "voxel size"]
    assert table_remarks(series_of(image, 3.0, spacing_mm=own), 3.0, own) == ()


@pytest.mark.parametrize(
    ("given", "own_mm3", "differs"),
    [
        ("", 10.0, False),
        ("10", None, False),
        ("10.9", 10.0, False),
        ("11.1", 10.0, True),
        ("0", 1.1, True),
        ("100", 91.0, False),
        ("100", 90.0, True),
        ("0.9", 0.0, False),
        ("5", 0.0, True),
    ],
)
def test_a_volume_of_the_table_that_is_not_the_masks(
    image: Path, given: str, own_mm3: float | None, differs: bool
) -> None:
    series = series_of(image, 3.0, extra={"label_volume_mm3": given})
    remark = label_remark(series, own_mm3)
    assert (remark is not None) == differs
    assert table_remarks(series, 3.0, (0.5, 0.5, 3.0), own_mm3) == ((remark,) if differs else ())
    if differs:
        assert f"not that of the mask: {given} mm³ by the table" in str(remark)
