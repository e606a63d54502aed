"""The JSON file beside a NIfTI file."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from data_modules.errors import UserError
from data_modules.scan.reading import read_scan
from data_modules.scan.sidecar import read_sidecar, sidecar_path, sidecar_remarks


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_it_lies_beside_the_image_under_its_name(tmp_path: Path, suffix: str) -> None:
    image = tmp_path / f"head.v2{suffix}"
    assert sidecar_path(image) == tmp_path / "head.v2.json"
    assert read_sidecar(image) == {}
    (tmp_path / "head.v2.json").write_text('{"SliceThickness": 5, "Manufacturer": "Größe"}', encoding="utf-8")
    assert read_sidecar(image) == {"SliceThickness": 5, "Manufacturer": "Größe"}


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("{", "not valid JSON"),
        ("[1]", "expected a JSON object"),
        ('{"Modality": "MR"}', "Modality is 'MR'"),
        ('{"SliceThickness": "5"}', "SliceThickness is '5', expected a number"),
        ('{"SliceThickness": true}', "SliceThickness is True, expected a number"),
        ('{"SliceThickness": 0}', "expected a positive number"),
        ('{"GantryDetectorTilt": NaN}', "GantryDetectorTilt is nan"),
        ('{"SliceThicknesses": 5}', "SliceThicknesses is expected to be a list"),
        ('{"SliceThicknesses": []}', "SliceThicknesses is expected to be a list"),
        ('{"SliceThicknesses": [5, true]}', "SliceThicknesses is expected to be a list"),
        ('{"SliceThicknesses": [5, 50]}', "SliceThicknesses is expected to be a list"),
    ],
)
def test_what_makes_no_sense_is_refused(tmp_path: Path, content: str, expected: str) -> None:
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(UserError, match=expected) as caught:
        read_sidecar(tmp_path / "a.nii")
    assert "a.json" in str(caught.value)


@pytest.mark.parametrize(
    ("image", "json_name", "found"),
    [
        ("head_Tilt_Eq_1.nii.gz", "head.json", True),
        ("head_Tilt_1.nii", "head_Tilt.json", True),
        ("head_Eq.nii.gz", "head.json", True),
        ("HEAD_Tilt.NII.GZ", "HEAD.json", True),
        ("head_1.nii.gz", "head.json", True),
        ("head_Tilt.nrrd", "head.JSON", True),
        ("head_MoCo.nii.gz", "head.json", False),
        ("head_S1.nii.gz", "head.json", False),
        ("header.nii.gz", "head.json", False),
    ],
)
def test_dcm2niixs_other_volumes_of_a_series_have_its_sidecar(
    tmp_path: Path, image: str, json_name: str, found: bool
) -> None:
    (tmp_path / json_name).write_text('{"SliceThickness": 5}')
    assert read_sidecar(tmp_path / image) == ({"SliceThickness": 5} if found else {})
    told = sidecar_remarks(tmp_path / image)
    assert [json_name in remark for remark in told] == ([True] if found else [])
    own = tmp_path / f"{image.split('.')[0]}.json"
    own.write_text('{"SliceThickness": 3}')
    assert read_sidecar(tmp_path / image) == {"SliceThickness": 3}
    assert sidecar_remarks(tmp_path / image) == []


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("[" * 100_000)
    with pytest.raises(UserError, match=r"a\.json: not valid JSON"):
        read_sidecar(tmp_path / "a.nii")
    (tmp_path / "a.json").write_bytes(b"\xef\xbb\xbf" + b'{"SliceThickness": 2}')
    assert read_sidecar(tmp_path / "a.nii") == {"SliceThickness": 2}


def test_the_thickness_of_each_slice_comes_back_and_is_counted(tmp_path: Path) -> None:
    hu = np.random.default_rng(0).normal(40, 10, (3, 3, 4))
    image = nib.Nifti1Image(hu.astype(np.int16), np.diag([1.0, 1.0, 3.0, 1.0]))
    nib.save(image, tmp_path / "a.nii")
    (tmp_path / "a.json").write_text('{"SliceThickness": 4, "SliceThicknesses": [3, 3, 5, 5]}')
    assert read_scan(tmp_path / "a.nii").slice_thicknesses_mm == (3.0, 3.0, 5.0, 5.0)
    (tmp_path / "a.json").write_text('{"SliceThickness": 4, "SliceThicknesses": [3, 3, 5]}')
    with pytest.raises(UserError, match="3 SliceThicknesses for 4 slices"):
        read_scan(tmp_path / "a.nii")
