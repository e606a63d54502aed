"""A region on the common grid, on scans whose values are known by hand."""

from __future__ import annotations

import numpy as np
import pytest

from data_modules.config import GridConfig
from data_modules.prepare.common_grid import on_common_grid, surroundings
from data_modules.prepare.roi import region_of_interest
from data_modules.scan.geometry import Grid, Volume
from data_modules.scan.hounsfield import to_int16
from data_modules.scan.scan import Scan


def scan_of(shape: tuple[int, int, int], spacing: tuple[float, float, float], thickness_mm: float) -> Scan:
    """HU rise by 10 a millimetre along z and by 1 along x."""
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = -np.asarray(spacing) * (np.asarray(shape) - 1) / 2
    grid = Grid(shape, affine)
    index = np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij"), axis=-1)
    hu = grid.to_ras_mm(index) @ (1.0, 0.0, 10.0)
    return Scan(hu=np.rint(2 * hu).astype(np.int16), grid=grid, slice_thickness_mm=thickness_mm)


@pytest.mark.parametrize(("thick_mm", "n_slices"), [(4.0, 6), (1.5, 16)])
@pytest.mark.parametrize("profile", ["overlap", "linear", "gaussian"])
def test_a_ramp_stays_where_it_is_on_every_grid(profile: str, thick_mm: float, n_slices: int) -> None:
    scan = scan_of((40, 40, 30), (1.0, 1.0, 2.0), 2.0)
    grid = GridConfig(spacing_mm=(2.0, 2.0, thick_mm), roi_mm=(24.0, 20.0, 24.0), profile=profile)
    region = region_of_interest(scan, grid)
    image = on_common_grid(scan, region, grid)
    assert image.data.dtype == np.int16
    assert image.data.shape == (12, 10, n_slices)
    assert image.grid.spacing_mm == pytest.approx((2.0, 2.0, thick_mm))
    np.testing.assert_allclose(image.grid.center_ras_mm, region.grid.center_ras_mm, atol=1e-9)
    index = np.stack(np.meshgrid(*[np.arange(n) for n in image.data.shape], indexing="ij"), axis=-1)
    expected = image.grid.to_ras_mm(index) @ (2.0, 0.0, 20.0)
    np.testing.assert_allclose(image.data, expected, atol=1.0)  # also at the region's edges


def test_thick_slices_are_not_blurred_again() -> None:
    """A step of HU between two slices of 4 mm: on a grid of 4 mm it stays a step."""
    scan = scan_of((30, 30, 12), (1.0, 1.0, 4.0), 4.0)
    hu = np.where(np.arange(12) < 6, 0, 1000).astype(np.int16) * np.ones((30, 30, 1), np.int16)
    scan = Scan(hu=hu, grid=scan.grid, slice_thickness_mm=4.0)
    grid = GridConfig(spacing_mm=(1.0, 1.0, 4.0), roi_mm=(20.0, 20.0, 24.0))
    image = on_common_grid(scan, region_of_interest(scan, grid), grid)
    assert image.data[10, 10].tolist() == [0, 0, 0, 1000, 1000, 1000]


def test_surroundings_are_the_region_and_a_margin_as_far_as_the_scan_goes() -> None:
    volume = Volume(np.arange(20**3, dtype=np.int16).reshape(20, 20, 20), Grid((20, 20, 20), np.eye(4)))
    region = volume.grid.crop((6, 0, 15), (5, 5, 5))
    common = Grid((3, 3, 2), np.diag([2.0, 2.0, 3.0, 1.0]))
    around = surroundings(volume, region, common)
    # 2 mm voxels: 2 + 1 voxels more; 3 mm: 3 + 1; y begins and z ends with the scan
    assert around.data.shape == (3 + 5 + 3, 5 + 3, 4 + 5)
    np.testing.assert_array_equal(around.data, volume.data[3:14, 0:8, 11:20])
    np.testing.assert_allclose(around.grid.affine[:3, 3], [3, 0, 11])


def test_whole_hu_within_the_range_of_int16() -> None:
    hu = to_int16(np.array([-40000.0, -0.6, 0.4, 1.5, 40000.0]))
    assert hu.dtype == np.int16
    assert hu.tolist() == [-32768, -1, 0, 2, 32767]
