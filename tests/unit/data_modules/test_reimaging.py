"""Thick slices against hand-worked averages and direct block means, and masks brought back to thin slices."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from data_modules.ct import Scan
from data_modules.dicom import read_dicom
from data_modules.errors import UserError
from data_modules.geometry import Grid, Volume
from data_modules.reimaging import finest_mm, on_thin_slices, thick_slice_of, thicker
from data_modules.resampling import resample_occupancy


def scan_of(hu: NDArray[np.generic], spacing: tuple[float, float, float], axis: int = 2, **facts) -> Scan:
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = 10, -20, 30
    facts.setdefault("slice_thickness_mm", spacing[axis])
    return Scan(hu=hu, grid=Grid(hu.shape, affine), slice_axis=axis, **facts)


def line(values: list[int], spacing_mm: float, **facts) -> Scan:
    """One voxel in plane, slices along z."""
    return scan_of(np.array(values, dtype=np.int16)[None, None], (1.0, 1.0, spacing_mm), **facts)


def places_mm(scan: Scan) -> list[float]:
    """Middles of the slices, from the lower edge of the line that it was made of (30 mm is its first middle)."""
    index = np.zeros((scan.grid.shape[2], 3))
    index[:, 2] = np.arange(scan.grid.shape[2])
    return [round(float(z), 6) for z in scan.grid.to_ras_mm(index)[:, 2]]


def test_a_slab_of_bone_across_thick_slices_is_averaged_as_by_hand() -> None:
    thin = line([0, 0, 900, 900, 900, 0], 1.0)
    thick = thicker(thin, 2.0)
    assert thick.hu[0, 0].tolist() == [0, 900, 450]
    assert places_mm(thick) == [30.5, 32.5, 34.5]
    assert (thick.slice_thickness_mm, thick.hu.dtype) == (2.0, np.int16)
    assert thicker(thin, 3.0).hu[0, 0].tolist() == [300, 600]
    assert thicker(thin, 6.0).hu[0, 0].tolist() == [450]


def test_slices_beyond_the_ends_average_what_the_scan_shows() -> None:
    # Two slices of 3 mm over 4 mm go beyond by 1 mm at either end: each sees two thin slices.
    thick = thicker(line([100, 200, 300, 400], 1.0), 3.0)
    assert thick.hu[0, 0].tolist() == [150, 350]
    assert places_mm(thick) == [30.0, 33.0]
    # Three of 2 mm over 5 mm: the last is half beyond the scan.
    assert thicker(line([100, 200, 300, 400, 500], 1.0), 2.0).hu[0, 0].tolist() == [150, 350, 500]
    # 2.1 mm: two slices of 1 mm, and one whose middle the scan does not show.
    assert thicker(line([100, 200, 300], 0.7), 1.0).hu.shape[2] == 2


def test_edges_inside_thin_slices_weigh_them_by_their_share() -> None:
    # Edges at 0, 3, 6 mm over slices of 2 mm: 2/3 of the first and 1/3 of the second, and so on.
    assert thicker(line([0, 300, 600], 2.0), 3.0).hu[0, 0].tolist() == [100, 500]


@pytest.mark.parametrize(("axis", "times"), [(0, 2), (1, 3), (2, 5)])
def test_slices_that_divide_are_block_means(axis: int, times: int) -> None:
    rng = np.random.default_rng(4)
    shape = [7, 6, 8]
    shape[axis] = 6 * times
    spacing = [0.5, 0.4, 0.6]
    spacing[axis] = 0.8
    hu = rng.integers(-1000, 2000, shape).astype(np.int16)
    thick = thicker(scan_of(hu, (spacing[0], spacing[1], spacing[2]), axis), 0.8 * times)
    blocks = np.moveaxis(hu, axis, 0).reshape(6, times, *np.delete(shape, axis)).mean(axis=1)
    np.testing.assert_array_equal(np.moveaxis(thick.hu, axis, 0), np.rint(blocks.astype(np.float32)))
    np.testing.assert_allclose(thick.grid.size_mm, scan_of(hu, (spacing[0], spacing[1], spacing[2])).grid.size_mm)
    np.testing.assert_allclose(
        thick.grid.center_ras_mm, scan_of(hu, (spacing[0], spacing[1], spacing[2])).grid.center_ras_mm
    )


def test_gaps_and_overlaps_have_their_own_distance() -> None:
    thin = line([0] * 5 + [1000] * 5, 1.0)
    gapped = thicker(thin, 2.0, spacing_mm=4.0)
    assert gapped.grid.spacing_mm[2] == pytest.approx(4.0)
    # Slices of 2 mm around 1 (one below 0 mm goes beyond: 12 mm for 10), 5 and 9 mm.
    assert gapped.hu[0, 0].tolist() == [0, 500, 1000]
    assert thicker(thin, 4.0, spacing_mm=2.0).hu[0, 0].tolist() == [0, 0, 500, 1000, 1000]


def test_slices_narrower_than_their_distance_see_the_middle_of_it() -> None:
    thin = line([10 * k**2 for k in range(8)], 1.0)
    assert thicker(thin, 2.0, spacing_mm=4.0).hu[0, 0].tolist() == [(10 + 40) / 2, (250 + 360) / 2]
    assert thicker(thin, 4.0).hu[0, 0].tolist() == [(0 + 10 + 40 + 90) / 4, (160 + 250 + 360 + 490) / 4]


def test_overlapping_slices_are_widened_by_the_variance_that_they_lack() -> None:
    # Slices of 2 mm every 1 mm to 4 mm: a box of √(16 − 4 + 1) mm, which cuts the outer two of four.
    share = (np.sqrt(13) - 2) / 2
    thick = thicker(line([0, 0, 0, 3000, 0, 6000, 0, 0], 1.0, slice_thickness_mm=2.0), 4.0)
    assert thick.hu[0, 0].tolist() == pytest.approx([3000 * share / 13**0.5, 6000 / 13**0.5], abs=0.5)


def test_thin_voxels_begin_where_a_whole_slice_does() -> None:
    # 2.5 mm in slices of 2 mm: two, which begin one thin slice of 0.5 mm below the scan.
    thick = thicker(line([10, 20, 30, 40, 50], 0.5), 2.0)
    assert thick.hu[0, 0].tolist() == [20, 45]
    assert places_mm(thick) == [30.25, 32.25]


def test_a_slice_whose_middle_just_misses_the_scan_is_left_out() -> None:
    # The second slice of 2.05 mm would have its middle at 2.575 mm, the scan ends at 2.5 mm.
    assert thicker(line([100, 200, 300], 1.0), 2.05).hu.shape[2] == 1


def test_what_was_said_of_single_slices_is_forgotten() -> None:
    thin = line([0] * 6, 1.0, slice_thickness_mm=1.0, slice_thicknesses_mm=(0.5, 1.0) * 3)
    thick = thicker(thin, 3.0)
    assert (thick.slice_thickness_mm, thick.slice_thicknesses_mm) == (3.0, None)


def test_a_hundredth_of_a_millimetre_is_no_difference() -> None:
    thin = line([100, 200, 300, 400], 1.0)
    assert thicker(thin, 1.0).hu.tolist() == thin.hu.tolist()
    for thickness, spacing in ((0.995, 1.0), (2.0, 0.995)):
        assert thicker(thin, thickness, spacing_mm=spacing).slice_thickness_mm == thickness
    for thickness, spacing in ((0.985, 1.0), (2.0, 0.985)):
        with pytest.raises(UserError, match="tells no more"):
            thicker(thin, thickness, spacing_mm=spacing)


def test_nothing_is_made_finer_than_the_scan() -> None:
    assert finest_mm(line([0] * 4, 1.0)) == pytest.approx(1.0)
    assert finest_mm(line([0] * 4, 1.0, slice_thickness_mm=2.5)) == pytest.approx(2.5)  # overlap
    assert finest_mm(line([0] * 4, 3.0, slice_thickness_mm=1.0)) == pytest.approx(3.0)  # gaps hold no information
    mixed = line([0] * 4, 4.0, slice_thickness_mm=5.5, slice_thicknesses_mm=(4.0, 4.0, 7.0, 7.0))
    assert finest_mm(mixed) == pytest.approx(7.0)
    with pytest.raises(UserError, match=r"slices of 2 mm every 2 mm cannot be made .* slices of 3 mm"):
        thicker(line([0] * 4, 3.0, slice_thickness_mm=1.0), 2.0)
    with pytest.raises(UserError, match=r"slices of 4 mm every 2 mm"):
        thicker(line([0] * 4, 3.0), 4.0, spacing_mm=2.0)


def sheared(hu: NDArray[np.int16], tilt_deg: float, spacing_mm: float) -> Scan:
    """Slices tilted about x, stacked along pure z: the grid of a gantry that tilts; `spacing_mm` at right angles."""
    tilt = np.deg2rad(tilt_deg)
    affine = np.eye(4)
    affine[:3, 0] = 0.5, 0, 0
    affine[:3, 1] = 0, 0.5 * np.cos(tilt), -0.5 * np.sin(tilt)
    affine[:3, 2] = 0, 0, spacing_mm / np.cos(tilt)
    return Scan(hu=hu, grid=Grid(hu.shape, affine), slice_thickness_mm=spacing_mm)


def test_thickness_is_at_right_angles_to_tilted_slices() -> None:
    hu = np.random.default_rng(5).integers(-100, 900, (4, 5, 12)).astype(np.int16)
    scan = sheared(hu, 20.0, 1.5)
    assert not scan.grid.is_orthogonal
    assert finest_mm(scan) == pytest.approx(1.5)
    thick = thicker(scan, 4.5)
    assert thick.grid.spacing_mm[2] == pytest.approx(4.5 / np.cos(np.deg2rad(20)))
    np.testing.assert_array_equal(thick.hu, np.rint(hu.reshape(4, 5, 4, 3).mean(axis=3, dtype=np.float32)))
    assert thick.grid.voxel_volume_mm3 == pytest.approx(3 * scan.grid.voxel_volume_mm3)


def test_a_real_tilted_series_keeps_its_mean(shared_data: Path) -> None:
    """Fourteen slices of 4 mm through a skull base, gantry tilted by 18.5°, on the grid that the scanner drew."""
    stack = read_dicom(shared_data / "ge_head_dicom").stack
    base = np.flatnonzero(np.isclose(stack.thicknesses_mm, 4.0))
    step = np.diff(stack.positions_mm[base], axis=0)
    assert len(base) == 14
    np.testing.assert_allclose(step, np.broadcast_to(step[0], step.shape), atol=0.02)
    affine = np.eye(4)
    affine[:3, 0] = stack.x_direction * stack.pixel_mm[0]
    affine[:3, 1] = stack.y_direction * stack.pixel_mm[1]
    affine[:3, 2] = step[0]
    affine[:3, 3] = stack.positions_mm[base[0]]
    hu = np.ascontiguousarray(stack.planes[base].transpose(2, 1, 0))
    scan = Scan(hu=hu, grid=Grid(hu.shape, affine), slice_thickness_mm=4.0)
    assert not scan.grid.is_orthogonal
    assert finest_mm(scan) == pytest.approx(4.0, abs=0.02)  # 4.22 mm apart along the table, 4.00 across the slices
    thick = thicker(scan, 2 * finest_mm(scan))
    pairs = hu.reshape(*hu.shape[:2], 7, 2).mean(axis=3, dtype=np.float32)
    assert np.abs(thick.hu - pairs).max() <= 1
    assert float(thick.hu.mean()) == pytest.approx(float(hu.mean()), abs=0.05)
    back = on_thin_slices(Volume(thick.hu >= 130, thick.grid), scan.grid, 2)
    np.testing.assert_array_equal(back.data, np.repeat(thick.hu >= 130, 2, axis=2))


def test_a_mask_comes_back_to_the_slices_it_was_made_of() -> None:
    for axis in range(3):
        shape = [3, 4, 5]
        shape[axis] = 12
        thin = scan_of(np.zeros(shape, dtype=np.int16), (1.0, 1.0, 1.0), axis)
        thick = thicker(thin, 3.0)
        mask = np.random.default_rng(6).random(thick.hu.shape) < 0.5
        back = on_thin_slices(Volume(mask, thick.grid), thin.grid, axis)
        np.testing.assert_array_equal(back.data, np.repeat(mask, 3, axis=axis))
        assert back.grid is thin.grid


def test_most_of_a_thin_slice_decides_and_the_lower_thick_one_where_it_is_halved() -> None:
    thin = line([0] * 5, 2.0)  # edges of 5 mm slices: 0, 5, 10; the thin slice from 4 to 6 is halved
    thick = thicker(thin, 5.0)
    assert thick_slice_of(thick.grid, thin.grid, 2).tolist() == [0, 0, 0, 1, 1]
    upper = Volume(np.array([[[False, True]]]), thick.grid)
    assert on_thin_slices(upper, thin.grid, 2).data[0, 0].tolist() == [False, False, False, True, True]


@pytest.mark.parametrize(
    ("n", "spacing", "thickness"), [(23, 0.7, 2.0), (31, 0.75, 5.0), (17, 1.25, 3.0), (40, 0.6, 8.0)]
)
def test_a_mask_comes_back_as_its_occupancy_cut_at_one_half(n: int, spacing: float, thickness: float) -> None:
    thin = scan_of(np.zeros((2, 3, n), dtype=np.int16), (1.0, 1.0, spacing))
    thick = thicker(thin, thickness)
    mask = Volume(np.random.default_rng(n).random(thick.hu.shape) < 0.5, thick.grid)
    occupancy = resample_occupancy(mask, thin.grid).data
    clear = np.abs(occupancy - 0.5) > 0.01
    assert clear.mean() > 0.9
    np.testing.assert_array_equal(on_thin_slices(mask, thin.grid, 2).data[clear], occupancy[clear] > 0.5)


def test_outside_the_thick_slices_nothing_is_masked() -> None:
    thin = line([0] * 6, 1.0)
    thick = thicker(thin, 2.0)
    short = Volume(np.ones((1, 1, 2), dtype=bool), thick.grid.crop((0, 0, 1), (1, 1, 2)))
    assert on_thin_slices(short, thin.grid, 2).data[0, 0].tolist() == [False, False, True, True, True, True]
    counted = short.with_data(np.full((1, 1, 2), 7, dtype=np.uint8))
    assert on_thin_slices(counted, thin.grid, 2).data[0, 0].tolist() == [0, 0, 7, 7, 7, 7]
    assert thick_slice_of(short.grid, thin.grid, 2).tolist() == [-1, -1, 0, 0, 1, 1]


def test_other_voxels_in_plane_are_refused() -> None:
    thin = scan_of(np.zeros((4, 4, 6), dtype=np.int16), (1.0, 1.0, 1.0))
    thick = thicker(thin, 2.0)
    for grid in (thick.grid.crop((0, 0, 0), (3, 4, 3)), thick.grid.crop((1, 0, 0), (4, 4, 3))):
        with pytest.raises(ValueError, match="differ in plane"):
            on_thin_slices(Volume(np.zeros(grid.shape, dtype=bool), grid), thin.grid, 2)
