"""Which slices make one scan, and how several are offered."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_modules.errors import UserError
from data_modules.scan.reading import read_scan
from tests.dicom_series import START, field, field_errors, remarks, stepping, tilted, write_series

STEPS = np.arange(6) * 3.0


def choices(folder: Path) -> str:
    with pytest.raises(UserError, match="CT series, expected one") as caught:
        read_scan(folder)
    return str(caught.value)


def test_frames_of_reference_are_never_stacked(tmp_path: Path) -> None:
    write_series(tmp_path, stepping(START, STEPS), FrameOfReferenceUID=["1.5"] * 3 + ["1.6"] * 3)
    assert choices(tmp_path).count("3 slices, axial") == 2
    assert read_scan(tmp_path, series="2").hu.shape[2] == 3


@pytest.mark.parametrize("offset_mm", [0.0, 1.5, 8.0])
def test_acquisitions_that_overlap_are_choices(tmp_path: Path, offset_mm: float) -> None:
    """Repeated at the same place, half a slice on, or so that only a part of the head was scanned again."""
    write_series(tmp_path, stepping(START, STEPS), prefix="a", AcquisitionNumber=1)
    moved = stepping(START, STEPS + offset_mm)
    write_series(tmp_path, moved, prefix="b", scene=lambda p: field(p) + 40, AcquisitionNumber=2)
    message = choices(tmp_path)
    assert "acquisition 1," in message
    assert "acquisition 2," in message
    assert field_errors(read_scan(tmp_path, series="1")).max() <= 0.51
    assert field_errors(read_scan(tmp_path, series="2")).max() > 39


def test_a_second_passage_of_step_and_shoot_is_a_choice(tmp_path: Path) -> None:
    write_series(tmp_path, stepping(START, STEPS), prefix="a", AcquisitionNumber=list(range(1, 7)))
    write_series(tmp_path, stepping(START, STEPS + 1.5), prefix="b", AcquisitionNumber=list(range(7, 13)))
    message = choices(tmp_path)
    assert "1: 6 slices" in message
    assert "acquisition 1 to 6" in message
    assert "acquisition 7 to 12" in message


@pytest.mark.parametrize("down", [False, True])
def test_acquisitions_that_follow_each_other_are_one_scan(tmp_path: Path, down: bool) -> None:
    numbers = list(range(1, 7))
    write_series(tmp_path, stepping(START, STEPS), AcquisitionNumber=numbers[::-1] if down else numbers)
    scan = read_scan(tmp_path)
    assert scan.hu.shape[2] == 6
    assert scan.warnings == ()


def test_thin_base_and_thick_vault_that_share_a_slice_are_one_scan(tmp_path: Path) -> None:
    write_series(tmp_path, stepping(START, np.arange(8) * 2.0), prefix="a", SliceThickness=2.0, AcquisitionNumber=1)
    vault = stepping(START, [13.0, 20.0, 27.0, 34.0])
    write_series(tmp_path, vault, prefix="b", SliceThickness=7.0, AcquisitionNumber=2)
    assert "8 slices of 2 mm, 3 slices of 7 mm" in remarks(read_scan(tmp_path))


def test_images_numbered_twice_over_the_same_place_are_choices(tmp_path: Path) -> None:
    write_series(tmp_path, stepping(START, STEPS), prefix="a")
    again = list(range(101, 107))
    write_series(tmp_path, stepping(START, STEPS + 1.4), prefix="b", InstanceNumber=again)
    assert choices(tmp_path).count("6 slices") == 2


def test_acquisitions_that_only_their_times_tell_apart(tmp_path: Path) -> None:
    twelve = np.sort(np.concatenate([STEPS, STEPS + 1.4]))
    times = ["101500.000", "102233.500"] * 6
    write_series(tmp_path / "two", stepping(START, twelve), AcquisitionTime=times)
    assert choices(tmp_path / "two").count("6 slices") == 2
    helix = [f"1015{k:02d}.25" for k in range(12)]
    write_series(tmp_path / "helix", stepping(START, np.arange(12) * 1.5), AcquisitionTime=helix)
    assert read_scan(tmp_path / "helix").hu.shape[2] == 12
    rotations = ["101500"] * 6 + ["101502"] * 6
    write_series(tmp_path / "rotations", stepping(START, np.arange(12) * 1.5), AcquisitionTime=rotations)
    assert read_scan(tmp_path / "rotations").warnings == ()


@pytest.mark.parametrize("numbers", [[5, 1, 6, 2, 4, 3], [1] * 6, [None] * 6])
def test_numbers_without_order_tell_nothing(tmp_path: Path, numbers: list[Any]) -> None:
    write_series(tmp_path, stepping(START, STEPS), InstanceNumber=numbers)
    assert field_errors(read_scan(tmp_path)).max() <= 0.51


def test_two_kernels_over_the_same_place_are_choices(tmp_path: Path) -> None:
    write_series(tmp_path, stepping(START, STEPS), prefix="a", ConvolutionKernel="H31s")
    write_series(tmp_path, stepping(START, STEPS + 0.7), prefix="b", ConvolutionKernel="H60s")
    message = choices(tmp_path)
    assert "kernel H31s" in message
    assert "kernel H60s" in message


@pytest.mark.parametrize(("step_deg", "error_hu"), [(0.09, 1.0), (-0.2, 1.6)])
def test_an_orientation_that_drifts_is_followed(tmp_path: Path, step_deg: float, error_hu: float) -> None:
    """Laid parallel about their corners and not their centres, slices are off by 1.2 and 2.2 HU."""
    for i in range(12):
        write_series(
            tmp_path, stepping(START, [3.0 * i]), tilted(step_deg * i), prefix=f"s{i:02d}", InstanceNumber=i + 1
        )
    scan = read_scan(tmp_path)
    assert scan.hu.shape[2] == 12
    assert f"the orientation drifts within the series by up to {abs(step_deg) * 5.5:.1f}°" in remarks(scan)
    assert np.percentile(field_errors(scan), 90) < error_hu


def test_views_around_an_axis_are_no_scan(tmp_path: Path) -> None:
    for i in range(110):
        write_series(tmp_path, stepping(START, [0.5 * i]), tilted(0.28 * i), prefix=f"s{i:03d}", InstanceNumber=i + 1)
    with pytest.raises(UserError, match="not parallel, they turn by more than 15°"):
        read_scan(tmp_path)


def test_a_series_for_each_slice_is_joined(tmp_path: Path) -> None:
    uids, frames = [f"1.2.{i}" for i in range(6)], [f"1.3.{i}" for i in range(6)]
    write_series(tmp_path, stepping(START, STEPS), SeriesInstanceUID=uids, FrameOfReferenceUID=frames)
    scan = read_scan(tmp_path)
    assert field_errors(scan).max() <= 0.51
    assert "a SeriesInstanceUID for each slice: joined" in remarks(scan)
    assert "a FrameOfReferenceUID for each slice" in remarks(scan)
    others = [f"1.4.{i}" for i in range(6)]
    write_series(tmp_path, stepping(START, STEPS), prefix="b", SeriesInstanceUID=others, SeriesNumber=9)
    assert choices(tmp_path).count("6 slices, axial") == 2


def test_two_scans_of_a_series_for_each_slice_that_nothing_tells_apart(tmp_path: Path) -> None:
    for k in range(2):
        uids = [f"1.2.{k}.{i}" for i in range(6)]
        write_series(
            tmp_path, stepping(START, STEPS), prefix="ab"[k], SeriesInstanceUID=uids, scene=lambda p, k=k: field(p) + k
        )
    with pytest.raises(UserError, match="which of them make one scan cannot be told"):
        read_scan(tmp_path)


def test_the_list_tells_series_apart_and_what_is_kept_of_it_names_nobody(tmp_path: Path) -> None:
    uid = "1.2.840.99.12345678"
    plain = {"SeriesDescription": "HEAD WO", "SeriesInstanceUID": f"{uid}.1", "SeriesNumber": 2}
    write_series(tmp_path, stepping(START, STEPS), prefix="a", **plain)
    contrast = {"SeriesDescription": "Meier CTA", "SeriesInstanceUID": f"{uid}.2", "ContrastBolusAgent": "IOMERON"}
    write_series(tmp_path, stepping(START, STEPS), prefix="b", SeriesNumber=5, **contrast)
    with pytest.raises(UserError) as caught:
        read_scan(tmp_path)
    error = pickle.loads(pickle.dumps(caught.value))  # as it comes back from another process
    lines = str(error).splitlines()[1:]
    same = "slices, axial, 3 mm, kernel H31s"
    assert lines == [
        f"  1: 6 {same}, no contrast named, series number 2, acquisition 0, 'HEAD WO', UID …345678.1",
        f"  2: 6 {same}, with contrast, series number 5, acquisition 0, 'Meier CTA', UID …345678.2",
    ]
    assert "2: 6 slices, axial, 3 mm, kernel H31s, with contrast, series number 5" in error.kept
    assert "Meier" not in error.kept
    assert "345678" not in error.kept
    assert "contrast was given" in remarks(read_scan(tmp_path, series="2"))
    assert read_scan(tmp_path, series="345678.1").warnings == ()


def test_single_images_are_left_out_only_where_they_are_few(tmp_path: Path) -> None:
    write_series(tmp_path, stepping(START, STEPS), FrameOfReferenceUID=["1.5"] * 5 + ["1.6"])
    scan = read_scan(tmp_path)
    assert scan.hu.shape[2] == 5
    assert "1 single images with a geometry or an acquisition of their own left out" in remarks(scan)
    write_series(tmp_path, stepping(START, STEPS), FrameOfReferenceUID=["1.5"] * 2 + ["1.6", "1.7", "1.8", "1.9"])
    assert "5 CT series" in choices(tmp_path)


def test_slices_numbered_twice_are_two_scans(tmp_path: Path) -> None:
    write_series(tmp_path, stepping(START, STEPS), prefix="a")
    write_series(tmp_path, stepping(START, STEPS + 1.5), prefix="b", scene=lambda p: field(p) + 40)
    assert choices(tmp_path).count("6 slices, axial") == 2
    assert field_errors(read_scan(tmp_path, series="1")).max() <= 0.51


def test_numbers_that_begin_again_further_up_are_one_scan(tmp_path: Path) -> None:
    write_series(tmp_path, stepping(START, STEPS), prefix="a")
    write_series(tmp_path, stepping(START, STEPS + 18.0), prefix="b")
    scan = read_scan(tmp_path)
    assert scan.hu.shape[2] == 12
    assert scan.warnings == ()
