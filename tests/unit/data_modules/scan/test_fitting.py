"""Masks onto the voxels of their scan: turned, of a sheared file, and of dcm2niix's straightened volume."""

from __future__ import annotations

from itertools import permutations
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from data_modules.errors import UserError
from data_modules.scan.fitting import fit_to_scan, move_slices, same_voxels, to_file_grid
from data_modules.scan.geometry import Grid, Volume
from data_modules.scan.nifti import mask_remarks, read_mask, read_probability
from data_modules.scan.reading import read_scan
from data_modules.scan.scan import Scan
from tests.dicom_series import COLUMNS, PIXEL, ROWS, pixel_positions, stepping, tilted, write_series
from tests.nifti_files import AFFINE, head, save


def center_mm(mask: np.ndarray, affine: np.ndarray) -> np.ndarray:
    return np.asarray(nib.affines.apply_affine(affine, np.argwhere(mask).mean(axis=0)))


@pytest.mark.parametrize("order", list(permutations(range(3))))
@pytest.mark.parametrize("flips", [(1, 1, 1), (-1, 1, 1), (1, -1, -1), (-1, -1, -1)])
def test_the_same_voxels_in_another_order_are_taken_exactly(
    tmp_path: Path, order: tuple[int, int, int], flips: tuple[int, int, int]
) -> None:
    mask = head() > 700
    image = nib.Nifti1Image(mask.astype(np.uint8), AFFINE)
    turned = image.as_reoriented(np.column_stack([order, flips]))
    nib.save(turned, tmp_path / "mask.nii.gz")
    scan = read_scan(save(tmp_path / "scan.nii", head(), SliceThickness=3))
    np.testing.assert_array_equal(read_mask(tmp_path / "mask.nii.gz", like=scan).data, mask)
    np.testing.assert_array_equal(read_mask(tmp_path / "mask.nii.gz", like=scan.grid).data, mask)
    np.testing.assert_array_equal(read_probability(tmp_path / "mask.nii.gz", like=scan.grid).data, mask)
    assert mask_remarks(tmp_path / "mask.nii.gz", scan) == []


def test_other_voxels_are_refused_in_any_order() -> None:
    grid = Grid((12, 10, 8), AFFINE)
    flipped = np.diag([-1.0, 1, 1, 1])
    flipped[0, 3] = 11
    assert same_voxels(Grid((12, 10, 8), AFFINE @ flipped), grid)
    for shape, affine in (
        ((11, 10, 8), AFFINE),  # a crop
        ((10, 12, 8), AFFINE),
        ((12, 10, 8), AFFINE @ np.diag([-1.0, 1, 1, 1])),  # mirrored about the first voxel, not in its place
        ((12, 10, 8), AFFINE + np.outer([0, 0.1, 0, 0], [0, 0, 0, 1])),  # a sixth of a voxel off
        ((12, 10, 8), AFFINE @ np.diag([1.01, 1, 1, 1])),
        ((12, 10, 8), np.eye(4)),
    ):
        other = Grid(shape, affine)
        assert not same_voxels(other, grid)
        assert fit_to_scan(Volume(np.zeros(shape, dtype=bool), other), grid) is None


def sheared_scan(folder: Path, order: list[int]) -> tuple[Scan, np.ndarray, np.ndarray]:
    """A sheared file with a block of bone, its mask and its affine, the axes in any order."""
    sheared = AFFINE.copy()
    sheared[:3, 2] = (0.2, 0.9, 2.8)
    data = np.full((12, 30, 8), -1000, dtype=np.int16)
    data[3:9, 8:20, 2:6] = 40
    data[5:8, 10:14, 3:5] = 900
    data, sheared = data.transpose(order), sheared[:, [*order, 3]]
    scan = read_scan(save(folder / "scan.nii", data, sheared, SliceThickness=3))
    return scan, data > 500, sheared


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 1, 0], [1, 2, 0]])
def test_a_mask_of_a_sheared_file_goes_its_slices_way_and_back(tmp_path: Path, order: list[int]) -> None:
    scan, drawn, affine = sheared_scan(tmp_path, order)
    assert scan.grid.is_orthogonal
    save(tmp_path / "mask.nii", drawn.astype(np.uint8), affine)
    mask = read_mask(tmp_path / "mask.nii", like=scan)
    assert mask.grid is scan.grid
    assert mask.data.sum() == drawn.sum()  # the volume is kept to the voxel
    np.testing.assert_allclose(center_mm(mask.data, mask.grid.affine), center_mm(drawn, affine), atol=0.3)
    assert (
        scan.hu[mask.data].min() > 250
    )  # a quarter of a pixel of bone at least: none lies farther off than half of one
    back = to_file_grid(mask, scan)
    np.testing.assert_array_equal(back.data, drawn)
    np.testing.assert_allclose(back.grid.affine, affine, atol=1e-6)
    flipped = nib.load(tmp_path / "mask.nii").as_reoriented(np.array([[0, -1], [2, 1], [1, -1]]))
    nib.save(flipped, tmp_path / "flipped.nii")
    np.testing.assert_array_equal(read_mask(tmp_path / "flipped.nii", like=scan).data, mask.data)
    elsewhere = affine + np.outer([0.1, 0, 0, 0], [0, 0, 0, 1])
    with pytest.raises(UserError, match=r"another grid than its scan.*Or name the NIfTI"):
        read_mask(save(tmp_path / "off.nii", drawn.astype(np.uint8), elsewhere), like=scan)


def test_slices_that_differ_are_not_moved() -> None:
    grid = Grid((4, 4, 4), np.eye(4))
    volume = Volume(np.ones((4, 4, 4), dtype=bool), grid)
    assert to_file_grid(volume, Scan(hu=np.zeros((4, 4, 4)), grid=grid, slice_thickness_mm=1.0)) is volume
    for affine in (np.diag([1, 1, 2.0, 1]), np.diag([2.0, 2.0, 1, 1])):
        with pytest.raises(ValueError, match="slices of the two grids differ"):
            move_slices(volume, Grid((4, 4, 4), affine))


N_SLICES, STEP_MM = 10, 3.0


def metal(lps: np.ndarray) -> np.ndarray:
    distance = np.linalg.norm((lps - (0.3, 2.2, 22.7)) / (1, 1, 2), axis=-1)
    return 40 + 2460 * np.clip(4.5 - distance, 0, 1)


def straightened_by_dcm2niix(degrees: float) -> tuple[np.ndarray, np.ndarray]:
    """HU and affine of the `_Tilt` volume that dcm2niix (v1.0.20220720 and later) makes of `tilted_scan`.

    After nii_saveNII3Dtilt: rows first turned (LAS), then moved by whole and part pixels against the first slice, or,
    where they move down, against the last; the origin then follows by a row of the affine instead of a column.
    """
    planes = [
        np.rint(metal(pixel_positions((-14.0, -13.0, 10.0 + STEP_MM * k), tilted(degrees)))) for k in range(N_SLICES)
    ]
    volume = np.stack(planes, axis=-1).transpose(1, 0, 2)[:, ::-1]  # x, y turned, z
    radians = np.radians(degrees)
    y_lps = np.array([0.0, np.cos(radians), -np.sin(radians)])
    normal = np.array([0.0, np.sin(radians), np.cos(radians)])
    spacing = STEP_MM * np.cos(radians)
    affine = np.eye(4)
    to_ras = np.array([-1.0, -1.0, 1.0])
    affine[:3, 0] = to_ras * (PIXEL[1], 0, 0)
    affine[:3, 1] = -to_ras * y_lps * PIXEL[0]
    affine[:3, 2] = to_ras * normal * spacing
    affine[:3, 3] = to_ras * (np.array([-14.0, -13.0, 10.0]) + y_lps * PIXEL[0] * (ROWS - 1))
    slope = np.tan(radians) / PIXEL[0]  # rows a mm of height
    highest = spacing * (N_SLICES - 1)
    n_more = int(np.ceil(abs(slope * highest)))
    if slope < 0:
        affine[:3, 3] -= n_more * affine[1, :3]
    out = np.full((COLUMNS, ROWS + n_more, N_SLICES), -1000.0)
    for k in range(N_SLICES):
        offset = slope * (k * spacing - (highest if slope < 0 else 0))
        for row in range(ROWS + n_more):
            low = int(np.floor(row - offset))
            if 0 <= row - offset < ROWS:
                part = (row - offset) - low
                out[:, row, k] = volume[:, low, k] * (1 - part) + volume[:, min(low + 1, ROWS - 1), k] * part
    return np.rint(out), affine


@pytest.mark.parametrize("degrees", [17.0, -17.0, 8.0, -12.2, -23.5])
def test_a_mask_on_dcm2niixs_corrected_volume_fits_the_tilted_dicom(tmp_path: Path, degrees: float) -> None:
    write_series(
        tmp_path / "scan",
        stepping((-14.0, -13.0, 10.0), STEP_MM * np.arange(N_SLICES)),
        tilted(degrees),
        scene=metal,
        GantryDetectorTilt=degrees,
    )
    scan = read_scan(tmp_path / "scan")
    hu, affine = straightened_by_dcm2niix(degrees)
    drawn = hu > 1270
    path = save(tmp_path / "mask.nii.gz", drawn.astype(np.uint8), affine)
    mask = read_mask(path, like=scan)
    expected = scan.hu > 1270
    assert mask.data.sum() == drawn.sum()
    assert 2 * (mask.data & expected).sum() > 0.93 * (mask.data.sum() + expected.sum())
    np.testing.assert_allclose(
        center_mm(mask.data, scan.grid.affine), center_mm(expected, scan.grid.affine), atol=0.5 * PIXEL[0]
    )
    if degrees < 0:
        assert "slices moved by another program" in mask_remarks(path, scan)[0]
    between = affine.copy()
    between[:3, 3] += affine[:3, 2] / 2  # of other slices
    far = affine.copy()
    far[:3, 3] += affine[:3, 0] * 12
    for name, wrong in {"between": between, "far": far}.items():
        with pytest.raises(UserError, match=r"another grid than its scan"):
            read_mask(save(tmp_path / f"{name}.nii.gz", drawn.astype(np.uint8), wrong), like=scan)


def test_a_scan_of_straight_slices_takes_no_mask_that_is_a_part_of_a_voxel_off(tmp_path: Path) -> None:
    write_series(tmp_path / "scan", stepping((-14.0, -13.0, 10.0), STEP_MM * np.arange(N_SLICES)), scene=metal)
    scan = read_scan(tmp_path / "scan")
    affine = scan.grid.affine.copy()
    affine[0, 3] += 0.3
    with pytest.raises(UserError, match="another grid than its scan"):
        read_mask(save(tmp_path / "m.nii", (scan.hu > 1270).astype(np.uint8), affine), like=scan)
