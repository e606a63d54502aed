"""Arteries with contrast agent are seen in the region, plain scans are not remarked on."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from data_modules.config import GridConfig
from data_modules.phantom.anatomy import Anatomy, build_anatomy
from data_modules.phantom.cohort import KERNELS
from data_modules.phantom.imaging import Acquisition, image_series
from data_modules.prepare.contrast import bright_share, contrast_remarks
from data_modules.prepare.roi import region_of_interest
from data_modules.scan.geometry import Grid
from data_modules.scan.scan import Scan

SHARP = KERNELS["Vendor C"][2]
SOFT = KERNELS["Vendor A"][0]


@pytest.fixture(scope="module")
def plain() -> Anatomy:
    return build_anatomy(np.random.default_rng([8]), 400.0, (36.0, 31.0, 26.0))


def enhanced(anatomy: Anatomy, hu: float) -> Anatomy:
    """The same patient with contrast agent in every artery."""
    data = anatomy.hu.copy()
    axes = [anatomy.grid.affine[k, 3] + 0.5 * np.arange(n) for k, n in enumerate(anatomy.grid.shape)]
    for vessel in anatomy.vessels:
        for point, radius in zip(vessel.center_mm, vessel.radius_mm, strict=True):
            inside = [np.flatnonzero(np.abs(axis - c) <= radius) for axis, c in zip(axes, point, strict=True)]
            if min(len(i) for i in inside) == 0:
                continue
            box = np.ix_(*inside)
            distance = sum(
                (axes[k][inside[k]].reshape([-1 if k == j else 1 for j in range(3)]) - point[k]) ** 2 for k in range(3)
            )
            data[box] = np.where((distance <= radius**2) & (data[box] < 100), np.float32(hu), data[box])
    return replace(anatomy, hu=data)


def region(anatomy: Anatomy, thickness_mm: float, kernel: object = SOFT, dose_noise: float = 1.0) -> Scan:
    spacing = np.array([0.6, 0.6, max(0.8, thickness_mm)])
    shape = tuple(int(n) for n in np.ceil(np.array([60.0, 50.0, 36.0]) / spacing))
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = -spacing * (np.asarray(shape) - 1) / 2
    grid = Grid((shape[0], shape[1], shape[2]), affine)
    acquisition = Acquisition(grid=grid, slice_thickness_mm=thickness_mm, kernel=kernel, dose_noise=dose_noise)  # type: ignore[arg-type]
    hu, _ = image_series(anatomy, acquisition, np.random.default_rng([9]), labelled=False)
    return Scan(hu=hu, grid=grid, slice_thickness_mm=thickness_mm)


@pytest.mark.parametrize(("thickness_mm", "kernel", "noise"), [(0.8, SHARP, 1.6), (1.5, SOFT, 1.0), (3.0, SOFT, 1.0)])
def test_arteries_of_300_hu_are_seen_and_plain_ones_are_not(
    plain: Anatomy, thickness_mm: float, kernel: object, noise: float
) -> None:
    before, after = (region(a, thickness_mm, kernel, noise) for a in (plain, enhanced(plain, 300.0)))
    assert bright_share(before) < 0.0011
    assert bright_share(after) > 0.002
    assert contrast_remarks(before) == []
    (remark,) = contrast_remarks(after)
    assert remark.startswith("arteries look bright with contrast agent: ")


def test_the_remark_travels_with_the_region(plain: Anatomy) -> None:
    found = region_of_interest(region(enhanced(plain, 350.0), 1.5), GridConfig())
    assert any("contrast agent" in warning for warning in found.warnings)


def test_thick_slices_and_noise_everywhere_are_not_judged(plain: Anatomy) -> None:
    assert contrast_remarks(region(enhanced(plain, 400.0), 4.0)) == []
    noise = np.random.default_rng([1]).integers(-1000, 1500, (40, 36, 20)).astype(np.int16)
    assert contrast_remarks(Scan(hu=noise, grid=Grid(noise.shape, np.eye(4)), slice_thickness_mm=1.0)) == []
