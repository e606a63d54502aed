from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from data_modules.phantom.anatomy import Anatomy
from data_modules.phantom.canvas import FINE_MM, random_frame
from data_modules.phantom.imaging import (
    Acquisition,
    Kernel,
    half_extent_mm,
    image_field,
    image_noise,
    read_label,
    tilt_deg,
)
from data_modules.scan.geometry import Grid

SOFT = Kernel(name="soft", kind="soft", fwhm_mm=1.2)


def fine_grid(shape: tuple[int, int, int]) -> Grid:
    """Cells of FINE_MM whose edges meet in the world's origin."""
    affine = np.diag([FINE_MM, FINE_MM, FINE_MM, 1.0])
    affine[:3, 3] = [-(n - 1) / 2 * FINE_MM for n in shape]
    return Grid(shape, affine)


def acquire(
    shape: tuple[int, int, int] = (41, 41, 9),
    pixel: float = 0.5,
    step: float = 1.0,
    thickness: float | None = None,
    tilt: float = 0.0,
    flip: bool = False,
    kernel: Kernel = SOFT,
    center: tuple[float, float, float] = (0, 0, 0),
) -> Acquisition:
    angle = np.deg2rad(tilt)
    affine = np.eye(4)
    affine[1:3, 1:3] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    affine[0, 0] = -1 if flip else 1
    affine[:3, :3] *= [pixel, pixel, step]
    affine[:3, 3] = np.asarray(center) - affine[:3, :3] @ ((np.asarray(shape) - 1) / 2)
    return Acquisition(grid=Grid(shape, affine), slice_thickness_mm=thickness or step, kernel=kernel)


@pytest.mark.parametrize(
    ("step", "thickness", "expected"),
    [
        (3.0, 4.0, [0, 0, 25, 0, 0]),  # overlap: [−2, 2] holds all of [0, 1]; [1, 5] nothing
        (3.0, 2.0, [0, 0, 50, 0, 0]),  # gap
        (0.8, 1.5, [0, 0, 50, 95 / 1.5, 10]),  # [−0.75, 0.75], [0.05, 1.55], [0.85, 2.35]
    ],
)
def test_slice_averages_its_slab(step: float, thickness: float, expected: list[float]) -> None:
    grid = fine_grid((80, 80, 40))
    field = np.zeros(grid.shape, np.float32)
    field[:, :, 20:22] = 100  # 0 mm < z < 1 mm
    image = image_field(field, grid, acquire((5, 5, 5), step=step, thickness=thickness))
    np.testing.assert_allclose(image[2, 2], expected, atol=0.01)


@pytest.mark.parametrize("edge", [0.0, 0.3])
def test_point_spread_has_the_kernels_width(edge: float) -> None:
    grid = fine_grid((80, 80, 8))
    field = np.zeros(grid.shape, np.float32)
    field[40] = 100  # a plate, centre at x = 0.25 mm
    acquisition = acquire((101, 3, 1), pixel=0.2, kernel=Kernel(name="k", kind="sharp", fwhm_mm=1.0, edge=edge))
    line = image_field(field, grid, acquisition)[:, 1, 0].astype(float)
    x = acquisition.grid.to_ras_mm(np.stack([np.arange(101), 0 * np.arange(101), 0 * np.arange(101)], axis=1))[:, 0]
    assert line.sum() * 0.2 == pytest.approx(100 * FINE_MM, rel=1e-3)  # the mean of an image is kept
    center = (line * x).sum() / line.sum()
    variance = (line * (x - center) ** 2).sum() / line.sum()
    gaussian = (1.0 / 2.3548) ** 2
    # Variances add: (1 + e) · σ² − e · (2 σ)², and the plate's own width.
    assert center == pytest.approx(0.25, abs=1e-3)
    assert variance == pytest.approx((1 + edge) * gaussian - edge * 4 * gaussian + FINE_MM**2 / 12, abs=2e-3)
    assert (line.min() < -0.5) == (edge > 0)


@pytest.mark.parametrize(("tilt", "flip"), [(0.0, False), (18.5, False), (-20.0, True)])
def test_affine_says_where_things_are(tilt: float, flip: bool) -> None:
    grid = fine_grid((80, 80, 80))
    place = np.array([6.0, -5.0, 7.5])
    world = grid.to_ras_mm(np.stack(np.meshgrid(*[np.arange(80)] * 3, indexing="ij"), axis=-1))
    ball = (np.linalg.norm(world - place, axis=-1) < 2).astype(np.float32)
    acquisition = acquire((70, 60, 25), step=1.5, tilt=tilt, flip=flip, center=(0.5, -1.0, 0.7))
    image = image_field(ball, grid, acquisition)
    assert image.sum() * acquisition.grid.voxel_volume_mm3 == pytest.approx(ball.sum() * FINE_MM**3, rel=0.02)
    np.testing.assert_allclose(acquisition.grid.to_ras_mm(ndimage.center_of_mass(image)), place, atol=0.06)
    assert tilt_deg(acquisition.grid) == pytest.approx(tilt)
    assert acquisition.grid.is_orthogonal


def test_noise_falls_with_thickness_and_smoothing() -> None:
    def deviation(thickness: float, kernel: Kernel = SOFT) -> float:
        return float(image_noise(acquire((90, 90, 30), step=thickness, kernel=kernel), np.random.default_rng(0)).std())

    assert deviation(1.25) / deviation(5.0) == pytest.approx(2.0, rel=0.04)
    assert deviation(0.6) / deviation(2.4) == pytest.approx(2.0, rel=0.04)
    assert 3 < deviation(5.0) < 5  # an everyday head scan
    assert deviation(1.25, Kernel(name="sharp", kind="sharp", fwhm_mm=0.7)) > 1.4 * deviation(1.25)


def test_overlapping_slices_share_noise() -> None:
    def correlation(step: float) -> float:
        noise = image_noise(acquire((60, 60, 30), step=step, thickness=4.0), np.random.default_rng(1))
        return float(np.corrcoef(noise[:, :, :-1].ravel(), noise[:, :, 1:].ravel())[0, 1])

    assert correlation(2.0) == pytest.approx(0.5, abs=0.04)  # half of each slab is the neighbour's too
    assert correlation(4.0) == pytest.approx(0.0, abs=0.04)


def by_hand(plaque: NDArray[np.float32], bone: NDArray[np.float32]) -> Anatomy:
    """Plaque of 840 HU and bone of 1,040 HU in blood of 40 HU."""
    return Anatomy(
        frame=random_frame(np.random.default_rng(0)),
        grid=fine_grid((64, 64, 24)),
        hu=40 + 800 * plaque + 1000 * bone,
        plaque=plaque,
        plaque_signal=800 * plaque,
        other_signal=1000 * bone,
        vessels=(),
        plaques=(),
        true_volume_mm3=float(plaque.sum()) * FINE_MM**3,
    )


def test_reader_leaves_bone_and_blur() -> None:
    plaque, bone = np.zeros((2, 64, 64, 24), np.float32)
    plaque[28:34, 28:34, 8:16] = 1  # −2 … 1 mm in x and y, −2 … 2 mm in z
    bone[34:50, 10:54] = 1  # touches it on the right
    anatomy = by_hand(plaque, bone)
    acquisition = acquire((63, 63, 9), kernel=Kernel(name="sharp", kind="sharp", fwhm_mm=0.6))
    hu = np.rint(image_field(anatomy.hu, anatomy.grid, acquisition)).astype(np.int16)
    label = read_label(anatomy, acquisition, hu)
    where = acquisition.grid.to_ras_mm(np.argwhere(label))
    # Voxels lie every 0.5 mm. Edge voxels are half plaque and ≥ 130 HU even in the corners (1/8 · 800 + 40), save
    # at x = 1 mm, where the other half is the brighter bone; half a millimetre outside blur adds 2.5 %, 20 HU.
    np.testing.assert_array_equal(where.min(0), [-2, -2, -2])
    np.testing.assert_array_equal(where.max(0), [0.5, 1, 2])
    assert label.sum() == 6 * 7 * 5


def test_reader_circles_one_millimetre_around() -> None:
    plaque = np.zeros((64, 64, 24), np.float32)
    plaque[28:34, 28:34, 8:16] = 1
    anatomy = by_hand(plaque, np.zeros_like(plaque))
    acquisition = acquire((63, 63, 9))
    label = read_label(anatomy, acquisition, np.full((63, 63, 9), 200, np.int16))
    # The footprint is −2 … 1 mm in plane (7 x 7 voxels) on five slices; the circle adds a disc of radius 1 mm.
    expected = np.zeros((63, 63), bool)
    expected[27:34, 27:34] = True
    x, y = np.mgrid[-2:3, -2:3]
    expected = ndimage.binary_dilation(expected, x**2 + y**2 <= 4)
    np.testing.assert_array_equal(label[:, :, 2:7], np.repeat(expected[:, :, None], 5, axis=2))
    assert label.sum() == 5 * expected.sum()


def test_no_plaque_no_label() -> None:
    empty = np.zeros((64, 64, 24), np.float32)
    assert not read_label(by_hand(empty, empty), acquire(), np.full((41, 41, 9), 500, np.int16)).any()
    outside = empty.copy()
    outside[:2, :2, :2] = 1
    assert not read_label(by_hand(outside, empty), acquire(), np.full((41, 41, 9), 500, np.int16)).any()


def test_single_voxels_are_discarded() -> None:
    plaque = np.zeros((64, 64, 24), np.float32)
    plaque[32, 32, 12] = 1
    anatomy = by_hand(plaque, np.zeros_like(plaque))
    acquisition = acquire((31, 31, 9), pixel=1.0, center=(0.25, 0.25, 0.25))
    hu = np.full((31, 31, 9), 40, np.int16)
    hu[15, 15, 4] = 300
    assert read_label(anatomy, acquisition, hu).sum() == 0
    hu[16, 15, 4] = 300
    assert read_label(anatomy, acquisition, hu).sum() == 2


def test_labels_of_a_patient_follow_the_protocol(painted: Anatomy) -> None:
    acquisition = acquire((110, 100, 18), step=2.0, thickness=2.0, tilt=10.0)
    image = image_field(painted.hu, painted.grid, acquisition) + image_noise(acquisition, np.random.default_rng(2))
    hu = np.rint(image).astype(np.int16)
    label = read_label(painted, acquisition, hu)
    assert label.sum() > 20
    assert hu[label].min() >= 130
    neighbours = ndimage.convolve(label.astype(int), np.ones((3, 3, 3), int), mode="constant") - 1
    assert neighbours[label].min() >= 1
    away = ndimage.distance_transform_edt(painted.plaque == 0) * FINE_MM
    index = painted.grid.to_index(acquisition.grid.to_ras_mm(np.argwhere(label))).round().astype(int)
    # Circle, half a slice and the corner of a voxel.
    assert away[tuple(index.T)].max() <= np.hypot(1.0 + 0.75, 1.0) + 0.5
    assert np.count_nonzero((hu >= 130) & ~label) > 50 * label.sum()  # bone is as bright, and much more


def test_field_holds_all_that_is_imaged() -> None:
    acquisition = acquire((180, 140, 10), step=6.0, thickness=8.0, tilt=20.0, center=(1.0, -3.0, 1.0))
    half = half_extent_mm(acquisition)
    shape = tuple(int(np.ceil(2 * h / FINE_MM)) for h in half)
    grid = fine_grid((shape[0], shape[1], shape[2]))
    image = image_field(np.full(shape, 100, np.float32), grid, acquisition)
    np.testing.assert_allclose(image, 100, atol=0.01)
