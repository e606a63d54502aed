"""The JSON file beside a NIfTI file."""

from __future__ import annotations

from pathlib import Path

import pytest

from data_modules.errors import UserError
from data_modules.scan.sidecar import read_sidecar, sidecar_path


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
    ],
)
def test_what_makes_no_sense_is_refused(tmp_path: Path, content: str, expected: str) -> None:
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(UserError, match=expected) as caught:
        read_sidecar(tmp_path / "a.nii")
    assert "a.json" in str(caught.value)
