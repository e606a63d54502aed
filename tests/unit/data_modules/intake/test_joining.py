"""Skull base and vault: what belongs together and what does not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_modules.intake.facts import ImageFacts, facts_text, image_facts
from data_modules.intake.joining import parts_of_one_scan
from data_modules.scan.dicom_headers import SliceHeader, read_header
from tests.dicom_exports import add


def stack(folder: Path, name: str, heights: Any, **tags: Any) -> list[ImageFacts]:
    whole = {"FrameOfReferenceUID": "1.2.3", "BurnedInAnnotation": "YES", "SeriesNumber": 2}
    add(folder / name, name, heights=heights, **{**whole, **tags})
    found = []
    for k, path in enumerate(sorted((folder / name).iterdir())):
        header, result = read_header(path, ("BodyPartExamined", "BurnedInAnnotation"))
        assert header is not None
        assert isinstance(result, SliceHeader)
        found.append(image_facts(k, "1.2", f"{k}", facts_text(header, result)))
    return found


LOW, HIGH = np.arange(10) * 3.0, 27 + 4.0 + np.arange(8) * 5.0
THIN, THICK = {"SliceThickness": 3.0}, {"SliceThickness": 5.0}


def test_facts_survive_the_index(tmp_path: Path) -> None:
    images = stack(tmp_path, "a", LOW, **THIN)
    _, header = read_header(sorted((tmp_path / "a").iterdir())[3])
    assert isinstance(header, SliceHeader)
    for name in SliceHeader.__dataclass_fields__:
        if name not in ("path", "location_mm"):
            own, read = getattr(images[3].slice, name), getattr(header, name)
            assert np.array_equal(own, read), name
            assert type(own) is type(read), name
    assert images[3].burned_in
    assert images[3].body_part == "HEAD"


def test_parts_that_go_on_from_each_other(tmp_path: Path) -> None:
    low, high = stack(tmp_path, "a", LOW, **THIN), stack(tmp_path, "b", HIGH, **THICK)
    assert parts_of_one_scan([high, low]) == [(1, 0)]
    other = stack(tmp_path, "c", HIGH, **THICK, SeriesNumber=7)
    assert parts_of_one_scan([other, high, low]) == [(2, 1)]


@pytest.mark.parametrize(
    ("heights", "tags"),
    [
        (HIGH + 9, {}),
        (HIGH - 15, {}),
        (HIGH, {"FrameOfReferenceUID": "1.2.4"}),
        (HIGH, {"ConvolutionKernel": "H60s"}),
        (HIGH, {"ContrastBolusAgent": "Iomeron"}),
        (HIGH, {"PixelSpacing": "0.8\\0.8"}),
        (HIGH, {"ImageOrientationPatient": "1\\0\\0\\0\\0.98\\-0.199"}),
        (31.0 + np.arange(26) * 5.0, {}),
    ],
)
def test_parts_that_do_not_belong_together(tmp_path: Path, heights: Any, tags: dict[str, Any]) -> None:
    low, high = stack(tmp_path, "a", LOW, **THIN), stack(tmp_path, "b", heights, **{**THICK, **tags})
    assert parts_of_one_scan([low, high]) == []
