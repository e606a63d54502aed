from __future__ import annotations

import copy
import random
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torchio as tio
from numpy.typing import NDArray
from scipy import ndimage

from data_modules.batches.augmentation import Augmentation, thick_slices
from data_modules.config import AugmentationConfig
from data_modules.scan.geometry import AIR_HU, Grid, Volume
from data_modules.scan.resampling import reimage, resample_image

SPACING = (0.8, 1.0, 2.0)
SHAPE = (24, 20, 12)
NOTHING = AugmentationConfig(
    flip_probability=0,
    affine_probability=0,
    thickness_probability=0,
    noise_probability=0,
    blur_probability=0,
    intensity_probability=0,
)
EVERYTHING = AugmentationConfig(
    flip_probability=1,
    affine_probability=1,
    thickness_probability=1,
    noise_probability=1,
    blur_probability=1,
    intensity_probability=1,
    thickness_range_mm=(3.0, 6.0),
)


def patch(seed: int = 0) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    rng = np.random.default_rng(seed)
    hu = ndimage.gaussian_filter(rng.normal(0, 2000, SHAPE), 1.5).astype(np.float32)
    occupancy = np.zeros(SHAPE, dtype=np.float32)
    occupancy[9:13, 8:11, 4:7] = rng.random((4, 3, 3))
    return hu, occupancy


def only(**changes: Any) -> Augmentation:
    return Augmentation(replace(NOTHING, **changes), SPACING)


@pytest.mark.parametrize("config", [replace(EVERYTHING, enabled=False), NOTHING])
def test_disabled_is_the_identity(config: AugmentationConfig) -> None:
    hu, occupancy = patch()
    augmentation = Augmentation(config, SPACING)
    rng = np.random.default_rng(0)
    moved, label, thickness_mm = augmentation.spatial(hu.copy(), occupancy.copy(), 2.0, rng)
    np.testing.assert_array_equal(augmentation.intensity(moved, rng), hu)
    assert label is not None
    np.testing.assert_array_equal(label, occupancy)
    assert thickness_mm == 2.0


def test_one_generator_one_result_and_no_global_state() -> None:
    hu, occupancy = patch()
    augmentation = Augmentation(EVERYTHING, SPACING)
    states = torch.get_rng_state(), str(np.random.get_state()), random.getstate()  # noqa: NPY002
    results = []
    for seed in (1, 1, 2):
        rng = np.random.default_rng(seed)
        moved, label, thickness_mm = augmentation.spatial(hu.copy(), occupancy.copy(), 2.0, rng)
        assert label is not None
        assert label.min() >= 0
        assert 0.1 < label.max() <= 1
        results.append((augmentation.intensity(moved, rng), label, thickness_mm))
    for a, b, c in zip(*results, strict=True):
        np.testing.assert_array_equal(a, b)
        assert not np.array_equal(a, c)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (str(np.random.get_state()), random.getstate()) == states[1:]  # noqa: NPY002


@pytest.mark.parametrize("name", ["flip", "affine", "thickness"])
def test_probabilities(name: str) -> None:
    hu = np.random.default_rng(0).normal(size=(4, 3, 6)).astype(np.float32)
    augmentation = only(**{f"{name}_probability": 0.3})
    rng = np.random.default_rng(3)
    changed = sum(not np.array_equal(augmentation.spatial(hu, None, 0.0, rng)[0], hu) for _ in range(400))
    assert abs(changed - 120) < 4 * np.sqrt(400 * 0.3 * 0.7)


def test_flip_mirrors_left_and_right() -> None:
    hu, occupancy = patch()
    moved, label, _ = only(flip_probability=1).spatial(hu, occupancy, 2.0, np.random.default_rng(0))
    assert label is not None
    np.testing.assert_array_equal(moved, hu[::-1])
    np.testing.assert_array_equal(label, occupancy[::-1])


class TestAffine:
    SCALES = (1.1, 0.9, 1.05)
    DEGREES = (9.0, -6.0, 12.0)

    def expected(self, array: NDArray[np.float32], fill: float) -> NDArray[np.float32]:
        """SciPy: rotate about the centre (y, then x, then z; ITK's order), then scale, in mm."""
        a, b, c = np.radians(self.DEGREES)
        about_x = [[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]]
        about_y = [[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]]
        about_z = [[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]]
        forward = np.diag(self.SCALES) @ about_z @ about_x @ about_y
        spacing = np.diag(SPACING)
        inverse = np.linalg.inv(spacing) @ np.linalg.inv(forward) @ spacing
        centre = (np.asarray(array.shape) - 1) / 2
        return np.asarray(
            ndimage.affine_transform(array, inverse, centre - inverse @ centre, order=1, cval=fill), dtype=np.float32
        )

    @pytest.mark.parametrize("flipped", [False, True])
    def test_against_scipy(self, flipped: bool) -> None:
        hu, occupancy = patch()
        if flipped:  # views with negative strides come in
            hu, occupancy = hu[::-1], occupancy[::-1]
        moved, label = only().affine(hu, occupancy, self.SCALES, self.DEGREES)
        assert label is not None
        inner = ndimage.binary_erosion(self.expected(np.ones(SHAPE, np.float32), 0) > 0.999)
        assert inner.mean() > 0.4
        np.testing.assert_allclose(moved[inner], self.expected(hu, AIR_HU)[inner], atol=0.05)
        np.testing.assert_allclose(label[inner], self.expected(occupancy, 0)[inner], atol=1e-4)
        assert label.sum() == pytest.approx(occupancy.sum() * np.prod(self.SCALES), rel=0.05)

    @pytest.mark.parametrize(
        "lesions",
        [[(0, 0, 0)], [(23, 19, 11)], [(12, 0, 11), (13, 0, 11)], [(5, 5, 5), (18, 14, 2)], [(0, 0, 0), (23, 19, 11)]],
    )
    def test_the_label_is_what_torchio_makes_of_the_whole_patch(self, lesions: list[tuple[int, int, int]]) -> None:
        hu, occupancy = patch()
        occupancy[:] = 0
        for lesion in lesions:
            occupancy[lesion] = 0.8
        affine = np.diag([*SPACING, 1.0])
        subject = tio.Subject(
            hu=tio.ScalarImage(tensor=torch.from_numpy(hu)[None], affine=affine),
            label=tio.LabelMap(tensor=torch.from_numpy(occupancy)[None], affine=affine),
        )
        for degrees in (self.DEGREES, (-20.0, 15.0, 30.0)):
            transform = tio.Affine(
                self.SCALES, degrees, (0, 0, 0), default_pad_value=-1024, label_interpolation="linear"
            )
            expected = transform.apply_transform(copy.deepcopy(subject))
            moved, label = only().affine(hu, occupancy, self.SCALES, degrees)
            assert label is not None
            np.testing.assert_allclose(label, expected["label"].data[0].numpy(), atol=1e-4)
            np.testing.assert_allclose(moved, expected["hu"].data[0].numpy(), atol=0.05)

    def test_air_comes_in_from_outside(self) -> None:
        moved, label = only().affine(np.full(SHAPE, 40, np.float32), None, (0.5, 0.5, 0.5), (0.0, 0.0, 0.0))
        assert label is None
        assert moved[0, 0, 0] == AIR_HU
        assert moved[12, 10, 6] == 40
        assert set(np.unique(moved)) == {AIR_HU, 40}

    def test_an_empty_label_stays_empty(self) -> None:
        hu, occupancy = patch()
        _, label = only().affine(hu, np.zeros_like(occupancy), self.SCALES, self.DEGREES)
        assert label is not None
        assert not label.any()

    def test_drawn_parameters_keep_to_their_ranges(self, monkeypatch: pytest.MonkeyPatch) -> None:
        drawn: list[Any] = []

        def record(hu: Any, occupancy: Any, *parameters: Any) -> Any:
            drawn.append(parameters)
            return hu, occupancy

        augmentation = only(affine_probability=1, scale=0.2, rotation_deg=7)
        monkeypatch.setattr(augmentation, "affine", record)
        rng = np.random.default_rng(0)
        for _ in range(300):
            augmentation.spatial(np.zeros(SHAPE, np.float32), None, 2.0, rng)
        scales, degrees = np.moveaxis(np.array(drawn), 1, 0)
        assert scales.min() == pytest.approx(0.8, abs=0.01)
        assert scales.max() == pytest.approx(1.2, abs=0.01)
        assert degrees.min() == pytest.approx(-7, abs=0.2)
        assert degrees.max() == pytest.approx(7, abs=0.2)


class TestThickness:
    def test_two_slices_in_one_by_hand(self) -> None:
        """Pairs (a, b) are averaged; back between their centres, a quarter of the neighbour comes in."""
        means = np.array([[0.5, 0.5, 0, 0], [0, 0, 0.5, 0.5]])
        back = np.array([[1, 0], [0.75, 0.25], [0.25, 0.75], [0, 1]])
        np.testing.assert_allclose(thick_slices(4, 1.0, 1.0, 2.0), (back @ means).T, atol=1e-6)

    @pytest.mark.parametrize("thicker_mm", [2.1, 3.7, 5.0, 7.9])
    def test_values_are_averages(self, thicker_mm: float) -> None:
        profile = thick_slices(48, 1.6, 1.6, thicker_mm)
        assert profile.min() >= 0
        np.testing.assert_allclose(profile.sum(axis=0), 1, atol=1e-5)

    def test_image_and_label_equal_resampling_the_slab_there_and_back(self) -> None:
        hu, occupancy = patch()
        augmentation = only(thickness_probability=1, thickness_range_mm=(5.0, 5.0))
        moved, label, thickness_mm = augmentation.spatial(hu, occupancy, 2.5, np.random.default_rng(0))
        assert thickness_mm == 5.0
        grid = Grid(SHAPE, np.diag([*SPACING, 1.0]))
        for array, result in ((hu, moved), (occupancy, label)):
            thick = reimage(Volume(array, grid), 2, 2.5, 5.0, target_spacing_mm=5.0)
            assert thick.grid.spacing_mm[2] == pytest.approx(5.0)
            expected = resample_image(thick, grid, slab_mm=(*SPACING[:2], 5.0)).data
            assert result is not None
            np.testing.assert_allclose(result, expected, atol=2e-3)
        assert label is not None
        assert label.sum() == pytest.approx(occupancy.sum(), rel=0.1)

    def test_a_mirrored_patch(self) -> None:
        hu, _ = patch()
        both = only(flip_probability=1, thickness_probability=1).spatial(hu, None, 2.0, np.random.default_rng(5))
        alone = only(thickness_probability=1).spatial(hu, None, 2.0, np.random.default_rng(5))
        np.testing.assert_allclose(both[0], alone[0][::-1], atol=1e-3)

    @pytest.mark.parametrize(("own_mm", "thicker_mm"), [(5.0, 4.0), (1.0, 1.9)])
    def test_slices_never_grow_thinner_than_scan_or_voxels(self, own_mm: float, thicker_mm: float) -> None:
        hu, _ = patch()
        augmentation = only(thickness_probability=1, thickness_range_mm=(thicker_mm, thicker_mm))
        moved, _, thickness_mm = augmentation.spatial(hu, None, own_mm, np.random.default_rng(0))
        assert moved is hu
        assert thickness_mm == own_mm


class TestIntensity:
    def test_gain_and_offset(self) -> None:
        hu, _ = patch()
        gains, offsets = [], []
        augmentation = only(intensity_probability=1, gain=0.1, offset_hu=30)
        rng = np.random.default_rng(0)
        for _ in range(200):
            result = augmentation.intensity(hu.copy(), rng)
            gain, offset = np.polyfit(hu.ravel(), result.ravel(), 1)
            np.testing.assert_allclose(result, gain * hu + offset, atol=0.01)
            gains.append(gain)
            offsets.append(offset)
        assert (min(gains), max(gains)) == pytest.approx((0.9, 1.1), abs=0.005)
        assert (min(offsets), max(offsets)) == pytest.approx((-30, 30), abs=1.5)

    def test_blur_is_gaussian_in_the_slice_plane(self) -> None:
        hu, _ = patch()
        rng = np.random.default_rng(2)
        result = only(blur_probability=1, blur_mm=1.5).intensity(hu.copy(), rng)
        rng = np.random.default_rng(2)
        rng.random(2)
        sigma_mm = rng.uniform(0, 1.5)
        expected = ndimage.gaussian_filter(hu, (sigma_mm / 0.8, sigma_mm / 1.0, 0))
        np.testing.assert_allclose(result, expected, atol=1e-2)
        assert np.abs(result - hu).max() > 10

    def test_noise_is_torchios(self) -> None:
        hu, _ = patch()
        result = only(noise_probability=1, noise_hu=40).intensity(hu.copy(), np.random.default_rng(2))
        rng = np.random.default_rng(2)
        rng.random(3)
        sigma_hu, seed = rng.uniform(0, 40), int(rng.integers(2**31))
        state = torch.get_rng_state()
        expected = tio.Noise(mean=0, std=sigma_hu, seed=seed)(torch.from_numpy(hu)[None])[0].numpy()
        torch.set_rng_state(state)
        np.testing.assert_allclose(result, expected, atol=1e-3)
        assert np.std(result - hu) == pytest.approx(sigma_hu, rel=0.05)

    def test_a_mirrored_view_is_changed_in_place_safely(self) -> None:
        hu, _ = patch()
        augmentation = Augmentation(EVERYTHING, SPACING)
        view = augmentation.intensity(hu.copy()[::-1], np.random.default_rng(4))
        copy = augmentation.intensity(hu[::-1].copy(), np.random.default_rng(4))
        np.testing.assert_array_equal(view, copy)
