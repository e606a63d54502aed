"""Labels of thicker slices: by hand, and against what preparation makes of phantoms that were scanned so."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from data_modules.batches import thick_labels
from data_modules.batches.thick_labels import protocol_label
from data_modules.batches.transforms_slices import along_z, bright_on_thick, slice_operators
from data_modules.phantom.anatomy import build_anatomy
from data_modules.phantom.imaging import Acquisition, Kernel, image_series
from data_modules.scan.geometry import Grid, Volume
from data_modules.scan.resampling import reimage, resample_image, resample_occupancy, resample_peak

PAIRS = torch.tensor([[[0.5, 0.5, 0, 0, 0, 0], [0, 0, 0.5, 0.5, 0, 0], [0, 0, 0, 0, 0.5, 0.5]]])
"""Six slices to three of twice the thickness."""
BACK = (PAIRS > 0).float().transpose(1, 2)


def centred(shape: tuple[int, int, int], spacing: tuple[float, float, float]) -> Grid:
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = -np.asarray(spacing) * (np.asarray(shape) - 1) / 2
    return Grid(shape, affine)


def operators(n: int, spacing_mm: float, thicker_mm: float) -> tuple[Tensor, Tensor, Tensor]:
    """`[1, K, n]` to contiguous slices of a box profile, `[1, n, K]` back by overlap, `[1, n, n]` there and back."""
    one = np.ones(1)
    found = slice_operators(n, spacing_mm, spacing_mm * one, thicker_mm * one, 0 * one, one)
    matrices = (found.to_thick, found.overlap, found.there_and_back)
    to_thick, overlap, there_and_back = (torch.from_numpy(m).to(torch.float32) for m in matrices)
    return to_thick, overlap, there_and_back


class TestByHand:
    HU = torch.full((1, 1, 6, 6, 6), 40.0)

    def of(self, lesion_hu: float, other_hu: float = 40.0) -> Tensor:
        """The label where a lesion fills 2 × 2 pixels of the third slice, and something else those of the fourth."""
        hu, occupancy = self.HU.clone(), torch.zeros_like(self.HU)
        hu[..., 2:4, 2:4, 2], hu[..., 2:4, 2:4, 3] = lesion_hu, other_hu
        occupancy[..., 2:4, 2:4, 2] = 1
        return protocol_label(hu, occupancy, PAIRS, BACK)

    def test_whole_thick_voxels_are_labelled(self) -> None:
        expected = torch.zeros_like(self.HU)
        expected[..., 2:4, 2:4, 2:4] = 1
        torch.testing.assert_close(self.of(400), expected)

    def test_what_the_thick_slice_dilutes_below_130_hu_is_not(self) -> None:
        assert not self.of(200).any()

    def test_bone_that_is_the_brighter_part_is_not_labelled(self) -> None:
        assert not self.of(200, other_hu=600).any()  # 360 HU, of which a fifth is the lesion's
        assert self.of(600, other_hu=300)[..., 2:4, 2:4, 2:4].all()

    def test_no_lesion_no_label(self) -> None:
        assert not protocol_label(self.HU + 500, torch.zeros_like(self.HU), PAIRS, BACK).any()

    def test_shares_stay_soft_in_plane(self) -> None:
        """A dim lesion: 130 HU is crossed between the pixels' middles and their edges."""
        label = self.of(330)[0, 0, :, :, 2]  # 185 HU, at the halves 40 + 145 · (9/16, 3/4 … ) = 122 at the corners
        torch.testing.assert_close(label[2:4, 2:4], torch.full((2, 2), 0.75))
        assert label.sum() == 3

    def test_a_single_voxel_is_dropped(self) -> None:
        """Half a pixel is about the scanner's voxel."""
        hu = torch.zeros(1, 1, 6, 6, 6)
        hu[..., 2:4, 2:4, 2:4] = 100.0
        hu[..., 2, 2, 2:4] = 156.0  # at one half 156 · 9/16 + 100 · 7/16 = 131.5, at all others below 130
        ones = torch.ones_like(hu)
        assert not protocol_label(hu, ones, PAIRS, BACK).any()
        hu[..., 2, 2, 4:] = 156.0  # the same in the slice above
        hu[..., 2:4, 2:4, 4:] = hu[..., 2:4, 2:4, 2:4]
        label = protocol_label(hu, ones, PAIRS, BACK)[0, 0]
        torch.testing.assert_close(label[2, 2, 2:], torch.full((4,), 0.25))
        assert label.sum() == 1

    def test_a_slice_that_is_not_there_changes_nothing(self) -> None:
        hu = self.HU.clone()
        hu[..., 2:4, 2:4, 4:] = 400
        occupancy = (hu > 300).float()
        padded = torch.cat([PAIRS, torch.zeros(1, 2, 6)], dim=1), torch.cat([BACK, torch.zeros(1, 6, 2)], dim=2)
        label = protocol_label(hu, occupancy, *padded)
        assert label.any()
        torch.testing.assert_close(label, protocol_label(hu, occupancy, PAIRS, BACK), rtol=0, atol=0)


def random_batch() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of smooth heads with lesions anywhere, at the borders too; the last without any."""
    random = torch.Generator().manual_seed(0)
    smooth = torch.nn.functional.interpolate(
        torch.randn(4, 1, 6, 5, 4, generator=random), size=(24, 20, 16), mode="trilinear"
    )
    hu = 400 * smooth
    occupancy = ((hu > 150) & (torch.rand(hu.shape, generator=random) > 0.5)).float()
    occupancy[1, :, 8:] = 0
    occupancy[3] = 0
    to_thick, to_grid, _ = operators(16, 1.6, 4.0)
    return hu, occupancy, to_thick.repeat(4, 1, 1), to_grid.repeat(4, 1, 1)


def test_each_row_by_itself_and_only_the_box_around_its_label_is_the_same() -> None:
    batch = random_batch()
    label = protocol_label(*batch)
    assert [bool(row.any()) for row in label] == [True, True, True, False]
    whole = thick_labels._label(*batch)  # as on other devices, which do not look where the label lies
    torch.testing.assert_close(label, whole, rtol=0, atol=1e-6)
    alone = torch.cat([protocol_label(*(x[row : row + 1] for x in batch)) for row in range(4)])
    torch.testing.assert_close(label, alone, rtol=0, atol=0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_devices_agree() -> None:
    batch = random_batch()
    on_gpu = protocol_label(*(x.cuda() for x in batch)).cpu()
    assert ((protocol_label(*batch) - on_gpu).abs() > 1e-5).float().mean() < 1e-3  # a threshold met by rounding


@pytest.mark.parametrize("thicker_mm", [2.5, 3.0, 5.0, 7.5])
def test_the_loss_sees_all_that_inference_would_let_through_on_the_thick_slices(thicker_mm: float) -> None:
    rng = np.random.default_rng(0)
    shape = (24, 22, 40)
    hu = np.where(rng.random(shape) < 0.03, rng.uniform(100, 2000, shape), 40).astype(np.float32)
    native = Volume(hu, centred(shape, (0.5, 0.5, 1.0)))
    common = native.grid.with_spacing((0.8, 0.8, 2.0), native.grid.size_mm)
    peak = torch.tensor(resample_peak(native, common).data)[None, None]
    thick = reimage(native, 2, 1.0, thicker_mm, target_spacing_mm=thicker_mm)
    brightest = resample_peak(thick, common).data
    to_thick, overlap, _ = operators(20, 2.0, thicker_mm)
    for threshold in (100.0, 400.0):
        region = bright_on_thick(peak, threshold, to_thick, overlap)[0, 0].numpy()
        assert region[brightest >= threshold + 0.01].all()
        assert not region.all()


class TestAgainstThickScans:
    """A head scanned with slices of 1 mm, its label changed to thicker ones; and scanned with those, and labelled."""

    SIZE_MM = (60.0, 52.0, 48.0)

    @pytest.fixture(scope="class")
    def prepared(self) -> dict[float, tuple[Tensor, Tensor]]:
        """HU and occupancy on the common grid, by slice thickness."""
        anatomy = build_anatomy(np.random.default_rng([77, 5]), 300.0, (36.0, 32.0, 32.0))
        kernel = Kernel(name="STANDARD", kind="medium", fwhm_mm=1.05)
        origin = Grid((1, 1, 1), np.eye(4))
        common = origin.with_spacing((0.8, 0.8, 1.6), self.SIZE_MM)
        found = {}
        for thickness_mm in (1.0, 3.0, 5.0):
            grid = origin.with_spacing((0.45, 0.45, thickness_mm), self.SIZE_MM)
            scan = Acquisition(grid=grid, slice_thickness_mm=thickness_mm, kernel=kernel)
            hu, label = image_series(anatomy, scan, np.random.default_rng(0), labelled=True)
            assert label is not None
            volumes = resample_image(Volume(hu, grid), common), resample_occupancy(Volume(label, grid), common)
            found[thickness_mm] = torch.tensor(volumes[0].data)[None, None], torch.tensor(volumes[1].data)[None, None]
        return found

    @pytest.mark.parametrize("thicker_mm", [3.0, 5.0])
    def test_as_much_is_labelled_as_on_thick_scans_and_in_the_same_places(
        self, prepared: dict[float, tuple[Tensor, Tensor]], thicker_mm: float
    ) -> None:
        hu, occupancy = prepared[1.0]
        to_thick, to_grid, there_and_back = operators(30, 1.6, thicker_mm)
        truth = prepared[thicker_mm][1]

        def overlap(label: Tensor) -> float:
            return float(2 * torch.minimum(label, truth).sum() / (label.sum() + truth.sum()))

        label = protocol_label(hu, occupancy, to_thick, to_grid)
        assert float(label.sum() / truth.sum()) == pytest.approx(1, abs=0.1)
        assert int((label >= 0.5).sum()) == pytest.approx(int((truth >= 0.5).sum()), rel=0.15)
        smeared = along_z(occupancy, there_and_back)
        assert int((smeared >= 0.5).sum()) < 0.65 * int((truth >= 0.5).sum())
        assert overlap(label) > 0.8 > overlap(smeared) + 0.05
