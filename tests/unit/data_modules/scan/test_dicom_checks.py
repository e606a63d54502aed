"""Scans that are refused for what their headers say of values, sizes and places."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest

from data_modules.errors import UserError
from data_modules.scan import dicom
from data_modules.scan.reading import read_scan
from tests.dicom_series import START, field, field_errors, remarks, stepping, write_series

STEPS = np.arange(10) * 3.0


def refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The message of a refusal for which no pixel is read."""
    monkeypatch.setattr(dicom, "read_hu", None)
    with pytest.raises(UserError) as caught:
        read_scan(folder)
    return str(caught.value)


@pytest.mark.parametrize(
    ("tags", "message"),
    [
        ({"RescaleSlope": None}, "RescaleSlope or RescaleIntercept missing.*in all 10 slices"),
        ({"RescaleIntercept": None}, "RescaleSlope or RescaleIntercept missing.*in all 10 slices"),
        ({"RescaleIntercept": [-1024] * 7 + [""] * 3}, "RescaleSlope or RescaleIntercept missing.*in 3 of 10 slices"),
        ({"RescaleSlope": 0}, "RescaleSlope 0 and RescaleIntercept -1024 cannot give HU"),
        ({"RescaleSlope": [1] * 9 + [0]}, "RescaleSlope 0 .*in 1 of 10 slices"),
        ({"RescaleSlope": -1}, "RescaleSlope -1"),
        ({"RescaleSlope": "1e30"}, r"RescaleSlope 1e\+30"),
        ({"RescaleIntercept": "1e9"}, r"RescaleSlope 1 and RescaleIntercept 1e\+09"),
        ({"SliceThickness": 5000}, "SliceThickness 5000 mm .*Expected 0.1 to 20 mm"),
        ({"SliceThickness": [3] * 9 + [0.001]}, "SliceThickness 0.001 mm .*in 1 of 10"),
        ({"PixelSpacing": [0.0005, 0.0005]}, "PixelSpacing 0.0005"),
        ({"PixelSpacing": [0.9, 700.0]}, r"PixelSpacing 0.9\\700 mm"),
        ({"Rows": 60000}, "60000 rows and 40 columns"),
    ],
)
def test_headers_that_cannot_be_right(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tags: dict[str, Any], message: str
) -> None:
    write_series(tmp_path, stepping(START, STEPS))
    for i, path in enumerate(sorted(tmp_path.glob("*.dcm"))):
        header = pydicom.dcmread(path)
        for key, value in tags.items():
            own = value[i] if isinstance(value, list) and len(value) == 10 else value
            if own is None:
                delattr(header, key)
            else:
                setattr(header, key, own)
        header.save_as(path)
    assert re.search(rf"\.dcm: {message}", refused(tmp_path, monkeypatch))


@pytest.mark.parametrize(
    ("heights", "message"),
    [
        ([*STEPS[:-1], 227.0], "s.*.dcm: 1 of 10 slices lie 203 mm from the others, which are 3.0 mm apart"),
        ([-200.0, *STEPS[1:]], "1 of 10 slices lie 203 mm from the others"),
        ([*STEPS[:5], *(STEPS[5:] + 60.0)], "5 of 10 slices lie 63 mm from the others"),
        ([0, 3, 6, 12, 15, 24, 27, 30], "about 3 slices are missing, .* 27% of the scan would be interpolated"),
        (STEPS * 10, "slices lie 30 mm apart, expected up to 20 mm"),
        (STEPS / 1000, "one position"),
        (sorted([*STEPS, *(STEPS + 0.4)]), "0.40 mm and 2.60 mm apart by turns"),
    ],
)
def test_places_that_are_not_those_of_one_scan(tmp_path: Path, heights: Any, message: str) -> None:
    write_series(tmp_path, stepping(START, heights))
    with pytest.raises(UserError, match=message):
        read_scan(tmp_path)


def test_a_slice_far_beside_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    positions = stepping(START, STEPS)
    positions[4] = positions[4] + (5000.0, 0.0, 0.0)
    write_series(tmp_path, positions)
    assert "its image lies 5000 mm beside others of the scan" in refused(tmp_path, monkeypatch)


def test_every_position_the_same(tmp_path: Path) -> None:
    scenes = iter(range(10))
    write_series(tmp_path, [np.array(START)] * 10, scene=lambda p: field(p) + next(scenes))
    with pytest.raises(UserError, match="ImagePositionPatient is the same in every file"):
        read_scan(tmp_path)


def test_positions_that_slice_locations_contradict(tmp_path: Path) -> None:
    scenes = iter(range(10))
    write_series(
        tmp_path, stepping(START, STEPS // 6 * 6), scene=lambda p: field(p) + next(scenes), SliceLocation=list(STEPS)
    )
    with pytest.raises(UserError, match="though SliceLocation says 0 and 3 mm"):
        read_scan(tmp_path)


def test_many_images_at_each_position(tmp_path: Path) -> None:
    for k in range(5):
        write_series(tmp_path, stepping(START, STEPS), prefix="abcde"[k], scene=lambda p, k=k: field(p) + k)
    with pytest.raises(UserError, match="5 different images at its position"):
        read_scan(tmp_path)
    for path in [*tmp_path.glob("d*"), *tmp_path.glob("e*")]:
        path.unlink()
    assert "20 slices left out that differ from another at the same position" in remarks(read_scan(tmp_path))


def test_some_positions_the_same(tmp_path: Path) -> None:
    scenes = iter(range(10))
    heights = [9.0, 9.0, 9.0, *STEPS[3:]]
    write_series(tmp_path, stepping(START, heights), scene=lambda p: field(p) + next(scenes))
    with pytest.raises(UserError, match="4 different images at its position"):
        read_scan(tmp_path)


@pytest.mark.parametrize("apart_mm", [0.03, -0.09])
def test_positions_that_differ_by_rounding_are_one(tmp_path: Path, apart_mm: float) -> None:
    write_series(tmp_path, stepping(START, STEPS), prefix="a")
    again = list(range(101, 111))
    write_series(
        tmp_path, stepping(START, STEPS + apart_mm), prefix="b", InstanceNumber=again, scene=lambda p: field(p) + 9
    )
    scan = read_scan(tmp_path)
    assert scan.hu.shape[2] == 10
    assert "10 slices left out that differ from another at the same position" in remarks(scan)
    assert field_errors(scan).max() <= 0.51 + 5 * 0.09  # the first numbered was kept


@pytest.mark.parametrize(("thickness_mm", "step_mm"), [(0.25, 0.25), (0.2, 0.1), (10.0, 1.0)])
def test_thin_slices_and_slices_that_overlap_stay_apart(tmp_path: Path, thickness_mm: float, step_mm: float) -> None:
    write_series(tmp_path, stepping(START, np.arange(8) * step_mm), SliceThickness=thickness_mm)
    scan = read_scan(tmp_path)
    assert scan.hu.shape[2] == 8
    assert scan.grid.spacing_mm[2] == pytest.approx(step_mm)
    assert scan.warnings == ()


@pytest.mark.parametrize("gone", [range(1, 20, 3), range(1, 11, 2)], ids=["every third", "every second of a part"])
def test_slices_missing_by_turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gone: range) -> None:
    heights = np.delete(np.arange(20) * 3.0, gone)
    write_series(tmp_path, stepping(START, heights))
    assert re.search(r"about [56] slices are missing, .* (32|25)% of the scan", refused(tmp_path, monkeypatch))


def test_wide_steps_of_thick_slices_are_none_missing(tmp_path: Path) -> None:
    heights = [*range(0, 24, 3), *range(25, 60, 6)]
    thickness = [3.0] * 8 + [6.0] * 6
    write_series(tmp_path, stepping(START, heights), SliceThickness=thickness)
    assert "missing" not in remarks(read_scan(tmp_path))


def test_slices_beside_each_other_by_turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two acquisitions that nothing but their places tells apart."""
    positions = stepping(START, np.arange(12) * 1.5)
    for position in positions[1::2]:
        position[0] += 6.0
    write_series(tmp_path, positions, InstanceNumber=[1] * 12)
    assert "slices lie 6.0 mm beside each other by turns: two acquisitions" in refused(tmp_path, monkeypatch)
