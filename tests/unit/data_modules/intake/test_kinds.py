"""What files and stacks are, by what headers say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from data_modules.intake.facts import image_facts
from data_modules.intake.headers import read_files
from data_modules.intake.kinds import kind_of_stack
from tests.dicom_exports import DOSE_REPORT, HEIGHTS, SECONDARY_CAPTURE, add


def kind(folder: Path, allow_contrast: bool = False, **tags: Any) -> str:
    """The code of a series of one file, or of its stack."""
    add(folder / "s", "s", **{"SeriesDescription": "", "BodyPartExamined": "", **tags})
    found = read_files(sorted((folder / "s").iterdir()))
    if found[0]["kind"] != "slice":
        assert {f["code"] for f in found} == {found[0]["code"]}
        return str(found[0]["code"])
    images = [image_facts(k, f["series"], f["instance"], f["facts"]) for k, f in enumerate(found)]
    return kind_of_stack(images, allow_contrast=allow_contrast)[0]


@pytest.mark.parametrize(
    ("tags", "code"),
    [
        ({}, "ok"),
        ({"BodyPartExamined": "HEAD"}, "ok"),
        ({"BodyPartExamined": "CHEST"}, "not_head"),
        ({"BodyPartExamined": "CHEST", "SeriesDescription": "Kopf nativ"}, "ok"),
        ({"BodyPartExamined": "HEAD", "SeriesDescription": "C-Spine 2.0"}, "not_head"),
        ({"StudyDescription": "CT ABDOMEN"}, "not_head"),
        ({"StudyDescription": "CT HEAD AND NECK"}, "ok"),
        ({"SeriesDescription": "CTA head"}, "contrast"),
        ({"SeriesDescription": "Head C+"}, "contrast"),
        ({"SeriesDescription": "Head without contrast"}, "ok"),
        ({"SeriesDescription": "HEAD W/O CONTRAST"}, "ok"),
        ({"SeriesDescription": "Head non-contrast"}, "ok"),
        ({"ContrastBolusAgent": "NONE"}, "ok"),
        ({"ContrastBolusVolume": 60}, "contrast"),
        ({"ImageType": "DERIVED\\SECONDARY\\REFORMATTED"}, "reformat"),
        ({"ImageType": "DERIVED\\SECONDARY\\AXIAL"}, "ok"),
        ({"ImageOrientationPatient": "1\\0\\0\\0\\0\\-1"}, "reformat"),
        ({"ImageType": "DERIVED\\SECONDARY\\MIP"}, "reformat"),
        ({"ImageType": "ORIGINAL\\PRIMARY\\IODINE"}, "not_hu"),
        ({"RescaleType": "MGML"}, "not_hu"),
        ({"ImagePositionPatient": None}, "geometry"),
        ({"heights": HEIGHTS[:5]}, "too_few_slices"),
        ({"heights": HEIGHTS / 10}, "too_few_slices"),
        ({"NumberOfFrames": 20}, "unreadable"),
        ({"SOPClassUID": DOSE_REPORT, "Modality": "SR"}, "dose_report"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.88.11", "Modality": "SR"}, "exam_summary"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.104.1", "Modality": "DOC"}, "exam_summary"),
        ({"SOPClassUID": SECONDARY_CAPTURE, "Modality": "OT"}, "secondary_capture"),
        ({"SOPClassUID": SECONDARY_CAPTURE, "SeriesDescription": "Topogram"}, "localizer"),
        ({"SamplesPerPixel": 3}, "secondary_capture"),
        ({"Modality": "PT"}, "not_ct"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.481.3", "Modality": "RTSTRUCT"}, "not_ct"),
    ],
)
def test_the_code_of_a_series(tmp_path: Path, tags: dict[str, Any], code: str) -> None:
    assert kind(tmp_path, **tags) == code


def test_contrast_may_be_allowed(tmp_path: Path) -> None:
    assert kind(tmp_path, allow_contrast=True, ContrastBolusAgent="Iomeron") == "ok"


def test_files_that_are_no_dicom_and_damaged_ones(tmp_path: Path) -> None:
    add(tmp_path / "s", "s", heights=HEIGHTS[:1])
    whole = next((tmp_path / "s").iterdir()).read_bytes()
    for name, content in (
        ("text", b"hello"),
        ("empty", b""),
        ("cut", whole[:140]),
        ("start", whole[:132] + b"\xff" * 9),
    ):
        (tmp_path / name).write_bytes(content)
    found = {name: read_files([tmp_path / name])[0] for name in ("text", "empty", "cut", "start")}
    assert {name: (f["kind"], f["code"]) for name, f in found.items()} == {
        "text": ("foreign", ""),
        "empty": ("foreign", ""),
        "cut": ("damaged", "unreadable"),
        "start": ("damaged", "unreadable"),
    }
