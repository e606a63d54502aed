from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import torchio as tio
from numpy.typing import NDArray
from scipy import ndimage

from data_modules.batches import transforms_affine
from data_modules.batches.transforms_affine import moved, source_matrices
from data_modules.scan.geometry import AIR_HU
from tests.unit.data_modules.batches.plans import SHAPE, SPACING, lesions, smooth_hu

SCALES = np.array([[1.1, 0.9, 1.05], [0.9, 1.1, 1.0], [1.0, 1.0, 1.0]])
DEGREES = np.array([[9.0, -6.0, 12.0], [-20.0, 15.0, 30.0], [0.0, 0.0, 0.0]])
MATRICES = source_matrices(SCALES, DEGREES, SPACING)


def by_scipy(array: NDArray[np.float32], row: int, fill: float) -> NDArray[np.float32]:
    """Rotate about the centre (y, then x, then z; ITK's order), then scale, in mm."""
    a, b, c = np.radians(DEGREES[row])
    about_x = [[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]]
    about_y = [[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]]
    about_z = [[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]]
    forward = np.diag(SCALES[row]) @ about_z @ about_x @ about_y
    spacing = np.diag(SPACING)
    inverse = np.linalg.inv(spacing) @ np.linalg.inv(forward) @ spacing
    centre = (np.asarray(array.shape) - 1) / 2
    return np.asarray(
        ndimage.affine_transform(array, inverse, centre - inverse @ centre, order=1, cval=fill), dtype=np.float32
    )


def by_torchio(array: torch.Tensor, row: int, fill: float, interpolation: str) -> NDArray[np.float32]:
    transform = tio.Affine(
        SCALES[row].tolist(),
        DEGREES[row].tolist(),
        (0, 0, 0),
        default_pad_value=fill,
        image_interpolation=interpolation,
    )
    image = tio.ScalarImage(tensor=copy.deepcopy(array), affine=np.diag([*SPACING, 1.0]))
    values: NDArray[np.float32] = transform.apply_transform(tio.Subject(image=image))["image"].data[0].numpy()
    return values


def test_against_scipy() -> None:
    hu, label = smooth_hu(3), lesions(3)
    hu_moved, label_moved = moved(hu, label, None, MATRICES)
    for row in range(3):
        inner = ndimage.binary_erosion(by_scipy(np.ones(SHAPE, np.float32), row, 0) > 0.999)
        assert inner.mean() > 0.25
        for values, result, fill in ((hu, hu_moved, AIR_HU), (label, label_moved, 0)):
            expected = by_scipy(values[row, 0].numpy(), row, fill)
            np.testing.assert_allclose(result[row, 0].numpy()[inner], expected[inner], rtol=1e-4, atol=0.02)


@pytest.mark.parametrize("way", [moved, transforms_affine._moved_by_grid])
def test_the_whole_patch_is_what_torchio_makes_of_it(way: object) -> None:
    """Borders included: half a voxel beyond the outermost centres, air begins."""
    assert callable(way)
    hu, label = smooth_hu(3), lesions(3)
    peak = hu + 300 * torch.rand(hu.shape, generator=torch.Generator().manual_seed(0))
    hu_moved, label_moved, peak_moved = way(hu, label, peak, MATRICES)
    for row in range(3):
        expected = by_torchio(hu[row], row, AIR_HU, "linear")
        assert row == 2 or (expected == AIR_HU).mean() > 0.05
        np.testing.assert_allclose(hu_moved[row, 0].numpy(), expected, rtol=1e-4, atol=0.05)
        np.testing.assert_allclose(label_moved[row, 0].numpy(), by_torchio(label[row], row, 0, "linear"), atol=1e-4)
        nearest = by_torchio(peak[row], row, AIR_HU, "nearest")
        assert (peak_moved[row, 0].numpy() != nearest).mean() < 1e-3  # half way between two voxels either is


def test_gathering_and_grid_sample_agree() -> None:
    """Of a CPU and of a GPU, on voxels with sharp edges."""
    generator = torch.Generator().manual_seed(0)
    hu = torch.randint(-1000, 2000, (3, 1, *SHAPE), generator=generator).to(torch.float32)
    label = torch.rand(3, 1, *SHAPE, generator=generator)
    peak = (hu + 5).to(torch.int16)
    gathered, sampled = (way(hu, label, peak, MATRICES) for way in (moved, transforms_affine._moved_by_grid))
    for a, b, tolerance in zip(gathered, sampled, (0.05, 1e-5, 0), strict=True):
        assert a.dtype == b.dtype
        assert ((a.float() - b.float()).abs() > tolerance).float().mean() < 1e-3


def test_nothing_given_changes() -> None:
    hu, label = smooth_hu(3), lesions(3)
    before = hu.clone(), label.clone()
    moved(hu, label, hu, MATRICES)
    assert torch.equal(hu, before[0])
    assert torch.equal(label, before[1])


def test_no_change_is_no_change() -> None:
    hu, label = smooth_hu(1), lesions(1)
    for result, given in zip(moved(hu, label, hu, MATRICES[2:]), (hu, label, hu), strict=True):
        torch.testing.assert_close(result, given, rtol=1e-4, atol=0.02)


def test_air_comes_in_from_outside() -> None:
    half = source_matrices(np.full((1, 3), 0.5), np.zeros((1, 3)), SPACING)
    (result,) = moved(torch.full((1, 1, *SHAPE), 40.0), None, None, half)
    assert result[0, 0, 0, 0, 0] == AIR_HU
    assert result[0, 0, 12, 10, 6] == 40
    assert set(result.unique().tolist()) == {AIR_HU, 40}


@pytest.mark.parametrize("shape", [(1, 5, 4), (5, 1, 4), (5, 4, 1), (1, 1, 1)])
def test_patches_of_one_voxel(shape: tuple[int, int, int]) -> None:
    hu = torch.rand(1, 1, *shape, generator=torch.Generator().manual_seed(0))
    for way in (moved, transforms_affine._moved_by_grid):
        torch.testing.assert_close(way(hu, None, None, MATRICES[2:])[0], hu, rtol=1e-4, atol=1e-4)
    gathered, sampled = (
        way(hu.expand(2, 1, *shape), None, None, MATRICES[:2])[0] for way in (moved, transforms_affine._moved_by_grid)
    )
    torch.testing.assert_close(sampled, gathered, rtol=1e-4, atol=1e-3)


def test_a_large_patch_counts_its_voxels_right() -> None:
    """More than float32 tells apart."""
    shape = torch.Size((300, 300, 300))
    last = torch.tensor([[float(n - 1)] for n in shape])
    assert transforms_affine._position(last, shape).item() == 300**3 - 1


class TestSmallLabels:
    @pytest.mark.parametrize(
        "voxels",
        [
            [],
            [(0, 0, 0)],
            [(23, 19, 11)],
            [(12, 0, 11), (13, 0, 11)],
            [(5, 5, 5), (18, 14, 2)],
            [(0, 0, 0), (23, 19, 11)],
        ],
    )
    @pytest.mark.parametrize("row", range(3))
    def test_are_what_torchio_makes_of_the_whole_patch(self, voxels: list[tuple[int, int, int]], row: int) -> None:
        label = torch.zeros(1, 1, *SHAPE)
        for voxel in voxels:
            label[0, 0][voxel] = 0.8
        _, result = moved(label, label, None, MATRICES[row : row + 1])
        np.testing.assert_allclose(result[0, 0].numpy(), by_torchio(label[0], row, 0, "linear"), atol=1e-4)

    def test_grow_and_shrink(self) -> None:
        label = torch.zeros(1, 1, *SHAPE)
        label[0, 0, 12, 10, 6] = label[0, 0, 15, 4, 2] = 1
        for factor in (0.3, 3.0):
            matrices = source_matrices(np.full((1, 3), factor), DEGREES[:1], SPACING)
            torch.testing.assert_close(
                moved(label, label, None, matrices)[1],
                transforms_affine._moved_by_grid(label, label, None, matrices)[1],
                rtol=1e-4,
                atol=1e-4,
            )

    def test_may_leave_the_patch(self) -> None:
        label = torch.zeros(1, 1, *SHAPE)
        label[0, 0, 0, 0, 0] = 1
        double = source_matrices(np.full((1, 3), 2.0), np.zeros((1, 3)), SPACING)
        assert not moved(label, label, None, double)[1].any()
