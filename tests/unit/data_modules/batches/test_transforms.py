from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor

from data_modules.batches import philox, thick_labels, transforms, transforms_affine
from data_modules.batches.plan import PatchPlan
from data_modules.batches.transforms import augment
from data_modules.batches.transforms_affine import moved, source_matrices
from data_modules.batches.transforms_slices import bright_on_thick, slice_operators
from data_modules.config import DataConfig
from tests.unit.data_modules.batches.plans import (
    SHAPE,
    SPACING,
    WINDOW,
    data_config,
    lesions,
    plan_of,
    smooth_hu,
    to_hu,
)

WIDE = {"window_hu": (-9000.0, 9000.0)}
ALL = {
    "affine": True,
    "scales": (1.1, 0.95, 1.0),
    "degrees": (8.0, -5.0, 3.0),
    "thicker_mm": 4.6,
    "roundness": 0.4,
    "widening": 1.2,
    "gain": 1.04,
    "offset_hu": -7.0,
    "blur_mm": 0.9,
    "noise_hu": 15.0,
    "gamma": 1.3,
}


def changed_hu(hu: Tensor, plan: PatchPlan, config: DataConfig | None = None) -> Tensor:
    """HU after augmentation, of a plan with a window that clips nothing."""
    image, _, _ = augment(hu.clone(), None, None, plan, config or data_config())
    return (image + 1) * 9000 - 9000


def mixed(n: int) -> PatchPlan:
    """Every sample changed in another way, the last in all."""
    columns: dict[str, list[Any]] = {name: [] for name in ALL}
    for row in range(n):
        for place, (name, value) in enumerate(ALL.items()):
            still = getattr(plan_of(1), name)[0]
            columns[name].append(value if row == n - 1 or (row >> (place % 3)) & 1 else still)
    return plan_of(n, **columns)


class TestNothing:
    def test_clipped_to_the_window_and_scaled(self) -> None:
        hu = torch.tensor([-1024.0, -200, 400, 1000, 3000]).view(1, 1, 5, 1, 1).to(torch.int16)
        image, label, region = augment(hu, None, None, plan_of(1), data_config())
        torch.testing.assert_close(image.ravel(), torch.tensor([-1.0, -1, 0, 1, 1]))
        assert label is None
        assert region is None

    def test_each_sample_has_its_own_window(self) -> None:
        hu = torch.full((2, 1, 1, 1, 1), 100.0)
        image, _, _ = augment(hu, None, None, plan_of(2, window_hu=[(0, 200), (100, 400)]), data_config())
        torch.testing.assert_close(image.ravel(), torch.tensor([0.0, -1.0]))

    def test_labels_of_either_kind(self) -> None:
        occupancy = torch.tensor([0, 51, 255], dtype=torch.uint8).view(1, 1, 3, 1, 1)
        for given in (occupancy, occupancy / 255):
            _, label, _ = augment(torch.zeros(1, 1, 3, 1, 1), given, None, plan_of(1), data_config())
            assert label is not None
            torch.testing.assert_close(label.ravel(), torch.tensor([0, 0.2, 1]))

    def test_no_samples(self) -> None:
        empty = torch.zeros(0, 1, *SHAPE)
        image, label, region = augment(empty, empty, None, plan_of(0), data_config(), 100.0)
        assert label is not None
        assert region is not None
        assert image.shape == label.shape == region.shape == empty.shape


class TestIntensity:
    def test_gain_and_offset(self) -> None:
        hu = smooth_hu(2)
        result = changed_hu(hu, plan_of(2, gain=[1.1, 0.9], offset_hu=[-20, 30], **WIDE))
        torch.testing.assert_close(result[0], hu[0] * 1.1 - 20, rtol=1e-4, atol=0.01)
        torch.testing.assert_close(result[1], hu[1] * 0.9 + 30, rtol=1e-4, atol=0.01)

    @pytest.mark.parametrize("sigma_mm", [0.05, 0.3, 0.8, 1.5, 8.0])
    def test_blur_is_gaussian_in_the_slice_plane(self, sigma_mm: float) -> None:
        hu = smooth_hu(1)
        result = changed_hu(hu, plan_of(1, blur_mm=sigma_mm, **WIDE))
        expected = ndimage.gaussian_filter(hu[0, 0].numpy(), (sigma_mm / SPACING[0], sigma_mm / SPACING[1], 0))
        np.testing.assert_allclose(result[0, 0].numpy(), expected, rtol=1e-4, atol=0.02)

    def test_each_sample_has_its_own_blur(self) -> None:
        """As on a GPU, where the samples of a batch are blurred together."""
        hu = smooth_hu(3)
        sigma_mm = np.array([0.3, 1.5, 0.8])
        together = transforms._blurred(hu, sigma_mm, SPACING)
        for row in range(3):
            alone = transforms._blurred(hu[row : row + 1], sigma_mm[row : row + 1], SPACING)
            torch.testing.assert_close(together[row], alone[0], rtol=1e-5, atol=1e-3)

    def test_noise_is_that_of_seed_epoch_and_index(self) -> None:
        hu = smooth_hu(3)
        plan = plan_of(3, noise_hu=[0, 10, 40], **WIDE)
        noise = changed_hu(hu, plan) - hu
        drawn = philox.normal(plan.seed, philox.NOISE, plan.epoch, torch.from_numpy(plan.index), hu[0].numel())
        for row, sigma_hu in enumerate((0, 10, 40)):
            torch.testing.assert_close(noise[row].ravel(), drawn[row] * sigma_hu, rtol=1e-4, atol=0.01)
        assert noise[2].std().item() == pytest.approx(40, rel=0.03)

    def test_gamma_bends_brightness_within_the_window(self) -> None:
        hu = smooth_hu(2)
        image, _, _ = augment(hu.clone(), None, None, plan_of(2, gamma=[1, 0.7]), data_config())
        share = (hu[1].clamp(*WINDOW) - WINDOW[0]) / (WINDOW[1] - WINDOW[0])
        torch.testing.assert_close(image[1], 2 * share**0.7 - 1, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(to_hu(image[0]), hu[0].clamp(*WINDOW), rtol=1e-4, atol=0.01)

    def test_blur_comes_before_noise_and_noise_before_the_window(self) -> None:
        hu = smooth_hu(1)
        blurred = changed_hu(hu, plan_of(1, blur_mm=1.0, **WIDE))
        noise = changed_hu(hu, plan_of(1, noise_hu=30.0, **WIDE)) - hu
        image, _, _ = augment(hu, None, None, plan_of(1, blur_mm=1.0, noise_hu=30.0), data_config())
        torch.testing.assert_close(to_hu(image), (blurred + noise).clamp(*WINDOW), rtol=1e-3, atol=0.05)


class TestMovement:
    def test_image_and_label_move_together(self) -> None:
        hu, occupancy = smooth_hu(3), lesions(3)
        plan = plan_of(3, affine=[True, False, True], scales=1.1, degrees=[(9, 0, 0), (0, 0, 0), (0, 5, 5)], **WIDE)
        image, label, _ = augment(hu.clone(), occupancy.clone(), None, plan, data_config())
        assert label is not None
        expected = moved(hu, occupancy, None, source_matrices(plan.scales, plan.degrees, SPACING))
        torch.testing.assert_close(image[1], hu[1] / 9000, rtol=1e-4, atol=1e-5)
        assert torch.equal(label[1], occupancy[1])
        for row in (0, 2):
            torch.testing.assert_close(image[row], expected[0][row] / 9000, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(label[row], expected[1][row], rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize("kind", ["occupancy", "protocol"])
    def test_thicker_slices(self, kind: str) -> None:
        hu, occupancy = smooth_hu(3) + 150, lesions(3)
        plan = plan_of(3, thicker_mm=[5.0, np.nan, 7.0], own_mm=2.5, roundness=0.4, widening=1.2, **WIDE)
        config = data_config(thickness_label=kind)
        image, label, _ = augment(hu.clone(), occupancy.clone(), None, plan, config)
        assert label is not None
        torch.testing.assert_close(image[1], hu[1] / 9000, rtol=1e-4, atol=1e-5)
        assert torch.equal(label[1], occupancy[1])
        for row in (0, 2):
            operators = slice_operators(SHAPE[2], SPACING[2], *(getattr(plan, name)[row : row + 1] for name in SLICES))
            there_and_back, to_thick, overlap = (
                torch.from_numpy(x).float() for x in (operators.there_and_back, operators.to_thick, operators.overlap)
            )
            expected = torch.einsum("xyz,kz->xyk", hu[row, 0], there_and_back[0])
            torch.testing.assert_close(image[row, 0] * 9000, expected, rtol=1e-4, atol=0.02)
            if kind == "occupancy":
                smeared = torch.einsum("xyz,kz->xyk", occupancy[row, 0], there_and_back[0])
                torch.testing.assert_close(label[row, 0], smeared, rtol=1e-4, atol=1e-5)
            else:
                one = slice(row, row + 1)
                drawn = thick_labels.protocol_label(hu[one], occupancy[one], to_thick, overlap)
                torch.testing.assert_close(label[one], drawn, rtol=1e-4, atol=1e-5)
                assert not torch.equal(drawn, occupancy[one]) or row == 2

    def test_a_mirrored_patch_gives_mirrored_thick_slices(self) -> None:
        hu = smooth_hu(1)
        plan = plan_of(1, thicker_mm=5.0, **WIDE)
        torch.testing.assert_close(changed_hu(hu.flip(2), plan), changed_hu(hu, plan).flip(2))


SLICES = ("own_mm", "thicker_mm", "roundness", "widening")


class TestLossRegion:
    def region(self, peak_hu: Tensor | None, plan: PatchPlan, restrict_hu: float | None, **given: Any) -> Tensor:
        hu, occupancy = smooth_hu(len(plan)), lesions(len(plan))
        _, label, region = augment(hu, occupancy, peak_hu, plan, data_config(), restrict_hu, **given)
        assert label is not None
        assert region is not None
        assert (region | (label == 0)).all()  # what is labelled always counts
        return region

    def test_everywhere(self) -> None:
        for peak_hu in (None, smooth_hu(2)):
            assert self.region(peak_hu, mixed(2), None).all()

    def test_from_hu_before_what_changes_hu_alone(self) -> None:
        intensity = {"gain": 0.5, "offset_hu": 200, "noise_hu": 50, "blur_mm": 2, "gamma": 2}
        expected = (smooth_hu(3) >= 100.0) | (lesions(3) > 0)
        for changes in ({}, intensity):
            assert torch.equal(self.region(None, plan_of(3, **changes), 100.0), expected)

    def test_from_hu_where_it_has_moved(self) -> None:
        plan = plan_of(3, affine=True, degrees=(0, 0, 9), thicker_mm=5.0, **WIDE)
        image, label, _ = augment(smooth_hu(3), lesions(3), None, plan, data_config())
        assert label is not None
        differs = self.region(None, plan, 100.0) != ((image * 9000 >= 100) | (label > 0))
        assert differs.float().mean() < 1e-3  # of rounding

    @pytest.mark.parametrize("kind", [torch.int16, torch.float32])
    def test_from_the_brightest_native_voxel(self, kind: torch.dtype) -> None:
        peak = (smooth_hu(3, seed=5) + 200).to(kind)
        expected = (peak >= 100.5) | (lesions(3) > 0)
        assert torch.equal(self.region(peak.clone(), plan_of(3, noise_hu=20), 100.5), expected)

    def test_the_brightest_native_voxel_moves_along(self) -> None:
        peak = (smooth_hu(1, seed=5) + 200).to(torch.int16)
        plan = plan_of(1, affine=True, degrees=(0, 5, 9), scales=1.1)
        matrices = source_matrices(plan.scales, plan.degrees, SPACING)
        hu_moved, label, peak_moved = moved(smooth_hu(1), lesions(1), peak, matrices)
        only_interpolated = (hu_moved.ceil() >= 100) & (peak_moved < 100)
        assert only_interpolated.any()
        expected = (peak_moved >= 100) | only_interpolated | (label > 0)
        assert torch.equal(self.region(peak.clone(), plan, 100.0), expected)

    def test_from_the_brightest_voxel_of_thick_slices(self) -> None:
        peak = smooth_hu(2, seed=5) + 50
        plan = plan_of(2, thicker_mm=[np.nan, 6.0], roundness=0.5)
        operators = slice_operators(SHAPE[2], SPACING[2], *(getattr(plan, name)[1:] for name in SLICES))
        to_thick, overlap = (torch.from_numpy(x).float() for x in (operators.to_thick, operators.overlap))
        expected = torch.cat([peak[:1] >= 100, bright_on_thick(peak[1:], 100.0, to_thick, overlap)])
        region = self.region(peak.clone(), plan, 100.0)
        unlabelled = augment(smooth_hu(2), lesions(2), None, plan, data_config())[1] == 0
        assert torch.equal(region & unlabelled, expected & unlabelled)

    def test_told_where_the_label_is(self) -> None:
        labelled = (lesions(9).ravel() > 0).nonzero()[:, 0]
        plan = mixed(9)
        assert torch.equal(self.region(None, plan, 100.0, labelled=labelled), self.region(None, plan, 100.0))


class TestBatches:
    @pytest.mark.parametrize("kind", ["occupancy", "protocol"])
    def test_a_sample_does_not_depend_on_its_batch(self, kind: str) -> None:
        """To the last bit, on the CPU."""
        n = 8
        plan, config = mixed(n), data_config(thickness_label=kind)
        hu, occupancy, peak = smooth_hu(n), lesions(n), (smooth_hu(n, seed=4) + 100).to(torch.int16)
        together = augment(hu.clone(), occupancy.clone(), peak.clone(), plan, config, 100.0)
        for rows in ([3], [7], [6, 0], [1, 2, 7, 5]):
            some = augment(
                hu[rows].clone(), occupancy[rows].clone(), peak[rows].clone(), plan.rows(rows), config, 100.0
            )
            for whole, part in zip(together, some, strict=True):
                assert whole is not None
                assert part is not None
                assert torch.equal(whole[rows], part)

    @pytest.mark.parametrize("kind", ["occupancy", "protocol"])
    def test_whole_batches_as_on_a_gpu(self, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """The ways of a GPU, on the CPU: all rows at once, `grid_sample`, products of batches."""
        n = 8
        plan, config = mixed(n), data_config(thickness_label=kind)
        arrays = smooth_hu(n) + 100, lesions(n), (smooth_hu(n, seed=4) + 100).to(torch.int16)
        by_row = augment(*(x.clone() for x in arrays), plan, config, 100.0)
        batch = transforms._Patches(*(x.clone() for x in arrays), torch.empty(arrays[0].shape, dtype=torch.bool), None)
        monkeypatch.setattr(transforms, "moved", transforms_affine._moved_by_grid)
        transforms._move(batch, plan, config, 100.0)
        transforms._change_intensity(batch.image, plan, SPACING)
        for a, b, tolerance in zip(by_row, (batch.image, batch.label, batch.region), (1e-3, 1e-4, 0), strict=True):
            assert a is not None
            assert b is not None
            assert ((a.float() - b.float()).abs() > tolerance).float().mean() < 1e-3

    @pytest.mark.gpu
    @pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
    @pytest.mark.parametrize("precision", ["highest", "high"])
    def test_a_gpu_makes_what_the_cpu_makes_without_being_waited_for(self, precision: str) -> None:
        n = 8
        plan, config = mixed(n), data_config(thickness_label="protocol")
        arrays = smooth_hu(n) + 100, lesions(n), (smooth_hu(n, seed=4) + 100).to(torch.int16)
        expected = augment(*(x.clone() for x in arrays), plan, config, 100.0)
        augment(*(x.cuda() for x in arrays), plan, config, 100.0)  # libraries are loaded and kernels built once
        on_gpu = [x.cuda() for x in arrays]
        torch.cuda.synchronize()
        torch.set_float32_matmul_precision(precision)
        torch.cuda.set_sync_debug_mode("error")
        try:
            result = augment(*on_gpu, plan, config, 100.0)
        finally:
            torch.cuda.set_sync_debug_mode("default")
            torch.set_float32_matmul_precision("highest")
        for a, b, tolerance in zip(expected, result, (1e-3, 1e-4, 0), strict=True):
            assert a is not None
            assert b is not None
            assert ((a.float() - b.float().cpu()).abs() > tolerance).float().mean() < 1e-3


@pytest.mark.parametrize("chosen", ["highest", "high"])
def test_products_are_exact_whatever_a_training_has_chosen(chosen: str) -> None:
    torch.set_float32_matmul_precision(chosen)
    try:
        with transforms._exact_products(torch.device("cuda")):
            assert torch.get_float32_matmul_precision() == "highest"
        assert torch.get_float32_matmul_precision() == chosen
    finally:
        torch.set_float32_matmul_precision("highest")


class Elsewhere(torch.Tensor):
    """Says that it lies on a GPU."""

    device = torch.device("cuda")  # type: ignore[assignment]


@pytest.mark.parametrize("kind", [torch.Tensor, Elsewhere])
def test_a_threshold_that_no_hu_reaches(kind: type[torch.Tensor]) -> None:
    hu, out = (
        torch.tensor([-1024, 99, 100, 3000], dtype=torch.int16).as_subclass(kind),
        torch.empty(4, dtype=torch.bool),
    )
    for threshold, n in ((99.5, 2), (40_000, 0), (-40_000, 4)):
        transforms._at_least(hu, threshold, out)
        assert int(out.sum()) == n
