from __future__ import annotations

import itertools

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from nibabel.affines import apply_affine
from scipy.spatial.transform import Rotation

from data_modules.scan.geometry import Grid, Volume, canonical, crop_box, from_sitk, lps_from_ras, place, to_sitk

AFFINE = np.array([[-0.5, 0, 0, 30], [0, 0.6, 0, -20], [0, 0, 3.0, 5], [0, 0, 0, 1.0]])


def oblique(spacing: tuple[float, float, float] = (0.5, 0.7, 3.0)) -> np.ndarray:
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", (10, -20, 30), degrees=True).as_matrix() * spacing
    affine[:3, 3] = (-40, 12, 7)
    return affine


def numbered(shape: tuple[int, int, int] = (4, 5, 6), affine: np.ndarray = AFFINE) -> Volume:
    return Volume(np.arange(np.prod(shape), dtype=np.int32).reshape(shape), Grid(shape, affine))


def test_hand_worked_grid() -> None:
    grid = Grid((4, 5, 6), AFFINE)
    assert grid.spacing_mm == pytest.approx((0.5, 0.6, 3.0))
    assert grid.size_mm == pytest.approx((2.0, 3.0, 18.0))
    assert grid.voxel_volume_mm3 == pytest.approx(0.9)
    assert grid.axis_codes == "LAS"
    np.testing.assert_allclose(grid.center_ras_mm, (30 - 0.75, -20 + 1.2, 5 + 7.5))
    np.testing.assert_allclose(grid.to_ras_mm((2, 1, 3)), (29, -19.4, 14))
    np.testing.assert_allclose(grid.to_index((29, -19.4, 14)), (2, 1, 3))
    np.testing.assert_allclose(grid.directions, np.diag([-1.0, 1, 1]))


def test_index_and_world_agree_with_nibabel_on_arrays_of_points() -> None:
    grid = Grid((4, 5, 6), oblique())
    points = np.random.default_rng([1]).uniform(-10, 10, (7, 2, 3))
    np.testing.assert_allclose(grid.to_ras_mm(points), apply_affine(grid.affine, points))
    np.testing.assert_allclose(grid.to_index(grid.to_ras_mm(points)), points, atol=1e-9)
    assert grid.is_orthogonal


def test_grid_refuses_wrong_affine_and_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match=r"affine has shape \(3, 3\)"):
        Grid((1, 1, 1), np.eye(3))
    source = AFFINE.copy()
    grid = Grid((4, 5, 6), source)
    source[0, 0] = 99
    assert grid.affine[0, 0] == -0.5
    with pytest.raises(ValueError, match="read-only"):
        grid.affine[0, 0] = 1
    with pytest.raises(ValueError, match="on a grid of shape"):
        Volume(np.zeros((4, 5, 7)), grid)


def test_sheared_grid_is_seen_and_refused_by_sitk() -> None:
    sheared = AFFINE.copy()
    sheared[1, 2] = 1.0
    volume = numbered(affine=sheared)
    assert not volume.grid.is_orthogonal
    with pytest.raises(ValueError, match="sheared"):
        to_sitk(volume)


def test_crop_keeps_places() -> None:
    grid = Grid((4, 5, 6), oblique())
    cropped = grid.crop((-1, 2, 3), (3, 3, 3))
    np.testing.assert_allclose(cropped.to_ras_mm((1, 0, 2)), grid.to_ras_mm((0, 2, 5)))


def test_with_spacing_keeps_centre_and_directions() -> None:
    grid = Grid((40, 50, 60), oblique())
    other = grid.with_spacing((0.8, 0.8, 1.6), (80.0, 64.1, 48.0))
    assert other.shape == (100, 81, 30)
    assert other.spacing_mm == pytest.approx((0.8, 0.8, 1.6))
    np.testing.assert_allclose(other.center_ras_mm, grid.center_ras_mm)
    np.testing.assert_allclose(other.directions, grid.directions, atol=1e-12)


def test_same_as() -> None:
    grid = Grid((40, 50, 60), AFFINE)
    moved, scaled = AFFINE.copy(), AFFINE.copy()
    moved[2, 3] += 0.02
    scaled[2, 2] += 0.001  # 0.059 mm at the far end
    assert grid.same_as(Grid((40, 50, 60), AFFINE + 0))
    assert not grid.same_as(Grid((40, 50, 61), AFFINE))
    for affine in (moved, scaled):
        assert not grid.same_as(Grid((40, 50, 60), affine))
        assert grid.same_as(Grid((40, 50, 60), affine), tolerance_mm=0.06)


def test_dictionary_round_trip() -> None:
    grid = Grid((4, 5, 6), oblique())
    again = Grid.from_dict(grid.to_dict())
    assert again.shape == grid.shape
    np.testing.assert_array_equal(again.affine, grid.affine)


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_canonical_moves_no_voxel(order: tuple[int, int, int]) -> None:
    affine = oblique()[:, [*order, 3]] * (1, -1, 1, 1)
    volume = numbered(affine=affine)
    turned = canonical(volume)
    assert turned.grid.axis_codes == "RAS"
    reference = nib.as_closest_canonical(nib.Nifti1Image(volume.data, affine))
    np.testing.assert_array_equal(turned.data, np.asarray(reference.dataobj))
    np.testing.assert_allclose(turned.grid.affine, reference.affine)
    index = np.argwhere(turned.data >= 0)
    source = np.rint(volume.grid.to_index(turned.grid.to_ras_mm(index))).astype(int)
    np.testing.assert_array_equal(turned.data[tuple(index.T)], volume.data[tuple(source.T)])
    back = place(turned, volume.grid, fill=-1)
    np.testing.assert_array_equal(back.data, volume.data)


def test_crop_box_by_hand() -> None:
    volume = numbered((10, 10, 10), np.diag([1.0, 1, 2, 1]))
    box = crop_box(volume, (4.0, 5.0, 6.0), (3.0, 5.0, 6.0), fill=-7)
    assert box.data.shape == (3, 5, 3)
    np.testing.assert_array_equal(box.data, volume.data[3:6, 3:8, 2:5])
    edge = crop_box(volume, (0.0, 9.0, 18.0), (3.0, 3.0, 6.0), fill=-7)
    assert (edge.data[0] == -7).all()
    assert (edge.data[:, 2] == -7).all()
    assert (edge.data[..., 2] == -7).all()
    np.testing.assert_array_equal(edge.data[1:, :2, :2], volume.data[:2, 8:, 8:])
    assert (crop_box(volume, (100.0, 0.0, 0.0), (3.0, 3.0, 6.0), fill=-7).data == -7).all()
    assert crop_box(volume, (0.0, 0.0, 0.0), (0.1, 0.1, 0.1), fill=-7).data.shape == (1, 1, 1)


@pytest.mark.parametrize("seed", range(6))
def test_place_copies_each_voxel_to_its_place(seed: int) -> None:
    """Random flips, permutation, crop and padding; every voxel is checked by its world position."""
    rng = np.random.default_rng([seed])
    volume = numbered((5, 6, 7), oblique())
    order, signs = rng.permutation(3), rng.choice([-1, 1], 3)
    matrix = np.zeros((4, 4))
    matrix[order, range(3)] = signs
    matrix[:3, 3], matrix[3, 3] = rng.integers(-2, 7, 3), 1
    target = Grid(tuple(rng.integers(3, 9, 3)), volume.grid.affine @ matrix)
    placed = place(volume, target, fill=-1)
    index = np.argwhere(np.ones(target.shape, dtype=bool))
    source = np.rint(volume.grid.to_index(target.to_ras_mm(index))).astype(int)
    inside = ((source >= 0) & (source < volume.grid.shape)).all(axis=1)
    expected = np.where(inside, volume.data[tuple(np.clip(source, 0, np.array(volume.grid.shape) - 1).T)], -1)
    np.testing.assert_array_equal(placed.data.ravel(), expected)


def test_place_refuses_other_voxels() -> None:
    volume = numbered((10, 10, 10))
    for change in (np.diag([1.0, 1, 1.02, 1]), Rotation.from_euler("z", 1, degrees=True).as_matrix()):
        matrix = np.eye(4)
        matrix[: len(change), : len(change)] = change
        with pytest.raises(ValueError, match="do not coincide"):
            place(volume, Grid((10, 10, 10), volume.grid.affine @ matrix), fill=0)
    half = volume.grid.affine.copy()
    half[2, 3] += 1.5
    with pytest.raises(ValueError, match="do not coincide"):
        place(volume, Grid((10, 10, 10), half), fill=0)


@pytest.mark.parametrize("affine", [AFFINE, oblique(), oblique()[:, [2, 0, 1, 3]]])
def test_sitk_puts_voxels_at_the_same_place(affine: np.ndarray) -> None:
    volume = numbered(affine=affine)
    image = to_sitk(volume)
    assert image.GetSize() == (4, 5, 6)
    for index in ((0, 0, 0), (3, 1, 5), (2, 4, 0)):
        assert image.GetPixel(*index) == volume.data[index]
        point = image.TransformIndexToPhysicalPoint(index)
        np.testing.assert_allclose(point, lps_from_ras(volume.grid.to_ras_mm(index)), atol=1e-5)
    again = from_sitk(image)
    np.testing.assert_array_equal(again.data, volume.data)
    assert again.grid.same_as(volume.grid, tolerance_mm=1e-5)


def test_masks_become_bytes_for_sitk() -> None:
    mask = numbered().with_data(numbered().data % 2 == 0)
    assert to_sitk(mask).GetPixelID() == sitk.sitkUInt8


def test_lps_is_its_own_inverse() -> None:
    assert lps_from_ras((1, -2, 3)) == (-1.0, 2.0, 3.0)
    assert lps_from_ras(lps_from_ras((1, -2, 3))) == (1.0, -2.0, 3.0)
