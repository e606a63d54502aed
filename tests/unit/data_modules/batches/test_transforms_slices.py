from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from data_modules.batches.transforms_slices import SliceOperators, along_z, bright_on_thick, slice_operators
from data_modules.scan.geometry import Grid, Volume
from data_modules.scan.resampling import reimage, resample_image


def operators(n: int, spacing_mm: float, own_mm: float, thicker_mm: float, *shape: float) -> SliceOperators:
    roundness, widening = shape or (0.0, 1.0)
    return slice_operators(n, spacing_mm, *(np.array([x]) for x in (own_mm, thicker_mm, roundness, widening)))


def by_resampling(n: int, spacing_mm: float, own_mm: float, thicker_mm: float) -> tuple[NDArray[np.float32], ...]:
    """`[K, n]` and `[n, n]`: impulses re-imaged as thick slices, and these brought back as any scan is."""
    grid = Grid((1, n, n), np.diag([1.0, 1.0, spacing_mm, 1.0]))
    impulses = Volume(np.eye(n, dtype=np.float32)[None], grid)
    thick = reimage(impulses, 2, own_mm, thicker_mm, target_spacing_mm=thicker_mm)
    back = resample_image(thick, grid, slab_mm=(1.0, 1.0, thicker_mm))
    return thick.data[0].T, back.data[0].T


class TestBox:
    def test_two_slices_in_one_by_hand(self) -> None:
        """Pairs (a, b) are averaged; back between their centres, a quarter of the neighbour comes in."""
        means = np.array([[0.5, 0.5, 0, 0], [0, 0, 0.5, 0.5]])
        back = np.array([[1, 0], [0.75, 0.25], [0.25, 0.75], [0, 1]])
        result = operators(4, 1.0, 1.0, 2.0)
        np.testing.assert_allclose(result.to_thick[0], means)
        np.testing.assert_allclose(result.to_thin[0], back)
        np.testing.assert_allclose(result.overlap[0], [[1, 0], [1, 0], [0, 1], [0, 1]])
        np.testing.assert_allclose(result.there_and_back[0], back @ means)

    @pytest.mark.parametrize(
        ("n", "spacing_mm", "own_mm", "thicker_mm"),
        [
            (48, 1.6, 1.6, 2.1),
            (48, 1.6, 1.6, 3.7),
            (48, 1.6, 2.5, 5.0),
            (33, 0.8, 1.0, 7.9),
            (24, 2.0, 2.0, 6.0),
            (2, 1.6, 1.6, 5.0),
            (1, 1.6, 1.6, 5.0),
        ],
    )
    def test_equals_resampling_the_slab_there_and_back(
        self, n: int, spacing_mm: float, own_mm: float, thicker_mm: float
    ) -> None:
        result = operators(n, spacing_mm, own_mm, thicker_mm)
        thick, back = by_resampling(n, spacing_mm, own_mm, thicker_mm)
        np.testing.assert_allclose(result.to_thick[0], thick, atol=1e-5)
        np.testing.assert_allclose(result.there_and_back[0], back, atol=1e-5)

    def test_patches_of_a_batch_do_not_mix(self) -> None:
        own_mm, thicker_mm = np.array([1.6, 2.0, 1.6]), np.array([2.1, 6.0, 3.3])
        shape = np.array([0.0, 0.4, 1.0]), np.array([1.0, 1.3, 1.1])
        together = slice_operators(30, 1.6, own_mm, thicker_mm, *shape)
        for row in range(3):
            alone = operators(30, 1.6, own_mm[row], thicker_mm[row], shape[0][row], shape[1][row])
            n_thick = alone.to_thick.shape[1]
            np.testing.assert_array_equal(together.to_thick[row, :n_thick], alone.to_thick[0])
            assert not together.to_thick[row, n_thick:].any()
            np.testing.assert_allclose(together.there_and_back[row], alone.there_and_back[0], atol=1e-12)
            np.testing.assert_array_equal(together.overlap[row, :, :n_thick], alone.overlap[0])


SHAPES = [(0.0, 1.0), (0.3, 1.0), (0.7, 1.2), (1.0, 1.0), (1.0, 1.4)]


class TestTrapezium:
    N, SPACING_MM = 600, 0.05  # fine slices show the profile itself

    def profile(self, thicker_mm: float, roundness: float, widening: float) -> NDArray[np.float64]:
        """Of a middle slice."""
        to_thick = operators(self.N, self.SPACING_MM, self.SPACING_MM, thicker_mm, roundness, widening).to_thick[0]
        profile: NDArray[np.float64] = to_thick[len(to_thick) // 2]
        return profile

    @pytest.mark.parametrize(("roundness", "widening"), SHAPES)
    def test_full_width_at_half_maximum(self, roundness: float, widening: float) -> None:
        profile = self.profile(5.0, roundness, widening)
        width_mm = (profile > profile.max() / 2).sum() * self.SPACING_MM
        assert width_mm == pytest.approx(5.0 * widening, abs=2 * self.SPACING_MM)

    @pytest.mark.parametrize(("roundness", "widening"), SHAPES)
    def test_from_box_to_triangle(self, roundness: float, widening: float) -> None:
        profile = self.profile(5.0, roundness, widening)
        fwhm_mm = 5.0 * widening
        top_mm = (profile > profile.max() * 0.999).sum() * self.SPACING_MM
        base_mm = (profile > 0).sum() * self.SPACING_MM
        assert top_mm == pytest.approx(fwhm_mm * (1 - roundness), abs=3 * self.SPACING_MM)
        assert base_mm == pytest.approx(fwhm_mm * (1 + roundness), abs=3 * self.SPACING_MM)

    @pytest.mark.parametrize(("roundness", "widening"), SHAPES)
    @pytest.mark.parametrize("own_mm", [0.05, 2.0])
    def test_variances_add(self, roundness: float, widening: float, own_mm: float) -> None:
        """Whatever the slices have averaged over before, the profile's variance comes out."""
        to_thick = operators(self.N, self.SPACING_MM, own_mm, 5.0, roundness, widening).to_thick[0]
        profile = to_thick[len(to_thick) // 2]
        place_mm = self.SPACING_MM * np.arange(self.N)
        variance = profile @ place_mm**2 - (profile @ place_mm) ** 2 + own_mm**2 / 12
        assert variance == pytest.approx((5.0 * widening) ** 2 * (1 + roundness**2) / 12, rel=1e-3)

    @pytest.mark.parametrize(("roundness", "widening"), SHAPES)
    @pytest.mark.parametrize("thicker_mm", [1.7, 3.7, 7.9, 100.0])
    def test_values_are_averages(self, roundness: float, widening: float, thicker_mm: float) -> None:
        result = operators(48, 1.6, 1.6, thicker_mm, roundness, widening)
        for weights in (result.to_thick, result.to_thin, result.overlap, result.there_and_back):
            assert weights.min() >= 0
            np.testing.assert_allclose(weights.sum(axis=-1), 1)


class TestBrightOnThick:
    RESULT = operators(20, 1.6, 1.6, 5.0, 0.5, 1.2)
    TO_THICK, OVERLAP = (torch.from_numpy(x).to(torch.float32) for x in (RESULT.to_thick, RESULT.overlap))

    def bright(self, peak: torch.Tensor) -> torch.Tensor:
        return bright_on_thick(peak, 100.0, self.TO_THICK, self.OVERLAP)

    def test_slice_by_slice(self) -> None:
        peak = torch.randint(-200, 400, (1, 1, 3, 2, 20), generator=torch.Generator().manual_seed(0)).to(torch.int16)
        thick = np.einsum("kz,xyz->xyk", self.RESULT.to_thick[0], peak[0, 0].numpy()) >= 100
        expected = np.zeros((3, 2, 20), dtype=bool)
        for z in range(20):
            for k in np.flatnonzero(self.RESULT.overlap[0, z] > 1e-4):
                expected[..., z] |= thick[..., k]
        np.testing.assert_array_equal(self.bright(peak)[0, 0].numpy(), expected)
        assert 0.1 < expected.mean() < 0.9

    def test_nothing_bright_on_the_thick_slices_is_left_out(self) -> None:
        """Whatever voxels of the thin-sliced scan lie below the largest of each."""
        generator = torch.Generator().manual_seed(1)
        native = 300 * torch.randn(1, 4, 3, 3, 20, generator=generator)  # four native voxels in each
        region = self.bright(native.amax(dim=1, keepdim=True))
        thick = along_z(native.transpose(0, 1), self.TO_THICK.expand(4, -1, -1)).amax(dim=0)[0]  # [3, 3, K]
        for z in range(20):
            overlapping = self.RESULT.overlap[0, z] > 1e-4
            seen = (thick[..., overlapping] >= 100).any(dim=-1)
            assert (region[0, 0, ..., z] | ~seen).all()
