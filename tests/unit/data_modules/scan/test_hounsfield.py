"""Whether values are HU: what is refused with which finding, what is remarked on, and that ordinary CT passes."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from numpy.typing import NDArray

from data_modules.errors import UserError
from data_modules.phantom.anatomy import Anatomy, build_anatomy
from data_modules.phantom.cohort import _THICKNESS_MM
from data_modules.phantom.cohort import KERNELS as PHANTOM_KERNELS
from data_modules.phantom.imaging import Acquisition, image_series
from data_modules.scan.geometry import Grid
from data_modules.scan.histogram import histogram_of
from data_modules.scan.hounsfield import check_hu, indicators, to_int16, whole_hu
from data_modules.scan.reading import read_scan
from tests.dicom_series import START, stepping, write_series
from tests.nifti_files import remarks, save

DATA = Path(__file__).parents[5] / "shared" / "data"
PATH = Path("scan.nii.gz")
KERNELS = [kernel for kernels in PHANTOM_KERNELS.values() for kernel in kernels]
THICKNESSES_MM = sorted({t for choices, _ in _THICKNESS_MM.values() for t in choices} | {10.0})

Image = NDArray[np.int16]


def drawn(noise: float = 0.0, shape: tuple[int, int, int] = (60, 56, 24)) -> Image:
    """A head of ellipsoids: air, skull, brain and three spheres of calcium, with noise where asked for."""
    places = np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij")
    radius = np.sqrt(sum(p**2 for p in places))
    hu = np.select([radius < 0.8, radius < 0.9], [35.0, 1200.0], -1000.0)
    for k, value in enumerate((700.0, 900.0, 1100.0)):
        hu[28 + 3 * k : 30 + 3 * k, 28:30, 11:13] = value
    return to_int16(hu + np.random.default_rng([1]).normal(0, noise, shape)) if noise else to_int16(hu)


@cache
def anatomy() -> Anatomy:
    return build_anatomy(np.random.default_rng([3]), 200.0, (40.0, 36.0, 30.0))


@cache
def phantom(kernel: int, thickness_mm: float) -> Image:
    """A region of interest as a kernel and slices of a thickness show it."""
    step = max(0.6, thickness_mm)
    shape = (64, 52, max(4, round(40 / step)))
    affine = np.diag([1.0, 1.0, step, 1.0])
    affine[:3, 3] = -(np.asarray(shape) - 1) / 2 * (1.0, 1.0, step)
    acquisition = Acquisition(grid=Grid(shape, affine), slice_thickness_mm=thickness_mm, kernel=KERNELS[kernel])
    return image_series(anatomy(), acquisition, np.random.default_rng([kernel]), labelled=False)[0]


def region() -> Image:
    return phantom(1, 1.25)


def padded(hu: Image, value: float) -> NDArray[np.float64]:
    """The outer columns filled in."""
    out = hu.astype(np.float64)
    out[:8] = out[-8:] = value
    return out


def refused(hu: NDArray[np.generic], match: str) -> None:
    with pytest.raises(UserError, match=match) as caught:
        check_hu(hu, PATH, 2)
    assert "scan.nii.gz: " in str(caught.value)
    assert "Give the original CT in Hounsfield units" in str(caught.value)


BOTH = pytest.mark.parametrize("head", [drawn, lambda: drawn(5.0), region], ids=["drawn", "noise", "phantom"])
Head = Callable[[], Image]


class TestOrdinary:
    @pytest.mark.parametrize("kernel", range(len(KERNELS)), ids=[kernel.name for kernel in KERNELS])
    def test_phantoms_pass_by_far(self, kernel: int) -> None:
        self.judge(phantom(kernel, THICKNESSES_MM[kernel % len(THICKNESSES_MM)]))

    @pytest.mark.slow
    @pytest.mark.parametrize("thickness_mm", THICKNESSES_MM)
    @pytest.mark.parametrize("kernel", range(len(KERNELS)), ids=[kernel.name for kernel in KERNELS])
    def test_phantoms_of_every_kernel_and_thickness_pass_by_far(self, kernel: int, thickness_mm: float) -> None:
        self.judge(phantom(kernel, thickness_mm))

    @pytest.mark.parametrize("name", ["cranium_ct.nii.gz", "ge_head_dicom", "scct_template_hu.nii.gz"])
    def test_real_heads_and_their_crops_pass(self, name: str) -> None:
        if not (DATA / name).exists():
            pytest.skip(f"real CT not there: {DATA / name}")
        scan = read_scan(DATA / name)
        self.judge(scan.hu)
        size = np.ceil(np.array([100.0, 80.0, 48.0]) / scan.grid.spacing_mm).astype(int)
        for place in np.random.default_rng([4]).uniform(0.2, 0.8, (12, 3)):
            first = np.maximum(0, (place * (np.asarray(scan.hu.shape) - size)).astype(int))
            crop = scan.hu[tuple(slice(a, a + n) for a, n in zip(first.tolist(), size.tolist(), strict=True))]
            if (crop > -300).mean() > 0.5:
                self.judge(crop)

    def judge(self, hu: NDArray[np.generic]) -> None:
        """Nothing refused, nothing odd, and every indicator far from its threshold."""
        found = check_hu(hu, PATH, 2)
        assert [remark for remark in found if not remark.startswith(("no air", "no bone"))] == []
        shown = indicators(histogram_of(list(hu)))
        assert 22 <= shown.tissue_hu <= 56  # of 18 to 70
        assert shown.tissue >= 0.4  # of 0.25
        assert shown.tissue_above <= 0.09  # of 0.12
        top = shown.rest.pile(shown.rest.highest, -1)
        assert top <= 5  # of 20

    @pytest.mark.parametrize("noise", [0.0, 3.0, 30.0])
    def test_drawn_heads_pass_whole_and_as_crops(self, noise: float) -> None:
        hu = drawn(noise)
        assert check_hu(hu, PATH, 2) == []
        crop = hu[20:40, 20:36, 9:15]
        assert (crop < -500).sum() == 0
        assert crop.max() > 1000
        assert all(remark.startswith("no air in the image") for remark in check_hu(crop, PATH, 2))

    def test_most_of_the_image_may_be_padding(self) -> None:
        hu = np.full((100, 100, *region().shape[2:]), -2000, dtype=np.int16)
        hu[20:84, 20:72] = region()
        assert (hu == -2000).mean() > 0.6
        assert check_hu(hu, PATH, 2) == []
        for value in (-1024, -3024, -1000):
            assert check_hu(np.where(hu == -2000, value, hu), PATH, 2) == []

    def test_metal_that_saturates_and_fractions_pass(self) -> None:
        hu = region().copy()
        hu[20:24, 20:24, 5:9] = 3071
        assert check_hu(hu, PATH, 2) == []
        assert check_hu((hu + np.float32(0.25)).astype(np.float32), PATH, 2) == []

    def test_soft_tissue_alone_is_remarked_on(self) -> None:
        hu = to_int16(np.random.default_rng([6]).normal(38, 12, (30, 30, 10)))
        found = check_hu(hu, PATH, 2)
        assert [remark.partition(":")[0] for remark in found] == ["no air in the image", "no bone in the image"]


class TestRefused:
    @BOTH
    @pytest.mark.parametrize("offset", [1024, 1000, 500, 200])
    def test_an_offset(self, head: Head, offset: int) -> None:
        refused(head() + offset, rf"soft tissue peak at {(offset + 35) // 10}\d HU.* stored with an offset")
        refused(head() + 8192, "lie above 4095 HU")

    def test_an_offset_of_air_with_as_much_noise_as_tissue(self) -> None:
        """Air then looks like soft tissue, and the peak of tissue is as wide as noise makes it."""
        noise = np.random.default_rng([8]).normal(0, 55, (60, 56, 24))
        assert check_hu(to_int16(drawn() + noise), PATH, 2) == []
        refused(to_int16(drawn() + noise) + 1024, "stored with an offset")

    @pytest.mark.parametrize("low", [-100, -150])
    def test_a_window_that_makes_air_as_bright_as_tissue(self, low: int) -> None:
        refused(np.clip(region(), low, 3000), f"at the lowest value, {low} HU: looks windowed")

    @BOTH
    @pytest.mark.parametrize("offset", [-1024, -500, -200])
    def test_a_negative_offset(self, head: Head, offset: int) -> None:
        refused(head() + offset, "stored with an offset")
        refused(np.maximum(head() + offset, -1024), "stored with an offset")  # as DICOM is read

    @BOTH
    @pytest.mark.parametrize("padding", [-2000, -3024, -1000, -500, 0])
    def test_an_offset_behind_padding(self, head: Head, padding: int) -> None:
        refused(padded(head() + 1024, padding), "soft tissue peak at 10[56]\\d HU")

    def test_an_offset_in_some_slices(self) -> None:
        hu = drawn(5.0)
        hu[..., ::4] += 1024
        refused(hu, "in all or some of the slices")

    @BOTH
    def test_inverted_grey(self, head: Head) -> None:
        refused(-head(), "soft tissue peak at -3[345] HU.*inverted")
        refused(padded(-head(), -2000), "soft tissue peak at -3[345] HU.*inverted")
        refused(1000 - head(), "not HU")

    @BOTH
    @pytest.mark.parametrize(("low", "high"), [(-1000, 200), (-200, 300), (0, 80), (-150, 250), (-1024, 400)])
    def test_a_window(self, head: Head, low: int, high: int) -> None:
        refused(np.clip(head(), low, high), "looks windowed|windowed to grey")

    @pytest.mark.parametrize(("low", "high"), [(-1024, 600), (-450, 1000), (-200, 3071), (-1024, 1000)])
    def test_a_window_of_bone_or_of_one_side(self, low: int, high: int) -> None:
        refused(np.clip(region(), low, high), "voxels .* looks windowed")
        refused(padded(np.clip(region(), low, high), -2000), "voxels .* looks windowed")

    @BOTH
    @pytest.mark.parametrize(("low", "high"), [(0, 80), (-100, 300), (-1024, 3071)])
    def test_eight_bit_grey(self, head: Head, low: int, high: int) -> None:
        grey = np.rint((np.clip(head(), low, high) - low) / (high - low) * 255.0)
        refused(grey.astype(np.uint8).astype(np.int16), "not HU")

    def test_eight_bit_grey_in_which_brain_comes_out_at_a_value_of_brain(self) -> None:
        grey = np.clip(np.rint(np.random.default_rng(0).normal(45, 4, (40, 40, 20))), 12, 80)
        assert check_hu(grey.astype(np.int16), Path("scan.nii.gz"))  # warned: neither air nor bone
        grey[10:14, 10:30, 5:15] = 255 - np.arange(20)[None, :, None]
        refused(grey.astype(np.int16), "windowed to grey values")

    @pytest.mark.parametrize("offset", [1024, -1024])
    @pytest.mark.parametrize("moved", [slice(9, 10), slice(0, 5), slice(2, None, 4)])
    def test_an_offset_of_some_slices(self, offset: int, moved: slice) -> None:
        hu = region().copy()
        hu[:, :, moved] += offset
        refused(hu, "offset.*not HU")

    @BOTH
    @pytest.mark.parametrize("scale", [0.001, 0.1, 10.0, 1e30])
    def test_scaled_values(self, head: Head, scale: float) -> None:
        refused(whole_hu(head() * scale, lowest=-32768), "not HU")

    def test_half_of_hu_and_attenuation(self) -> None:
        refused(drawn(5.0) * 0.5, "a peak at -50\\d HU where air would lie .* scaled")
        refused(0.19 * (1 + drawn(5.0) / 1000), "scaled")

    @pytest.mark.parametrize("value", [-1024, -1000, 0, 40])
    def test_nothing_but_one_value(self, value: int) -> None:
        refused(np.full((8, 8, 4), value, dtype=np.int16), f"every voxel holds {value} HU: no image")

    def test_masks_and_air(self) -> None:
        refused((drawn() > 100).astype(np.int16), "only the values 0 and 1")
        refused(to_int16(np.random.default_rng([2]).normal(-1000, 10, (20, 20, 8))), "soft tissue .* nowhere")


class TestRemarks:
    def test_slices_of_one_value_are_named(self) -> None:
        hu = drawn()
        hu[..., 5:7] = 0
        hu[..., 12] = -1000
        (remark,) = check_hu(hu, PATH, 2)
        assert remark.startswith("3 slices hold one value only (-1000, 0 HU)")
        assert remark.endswith("6–7, 13 of 24")

    def test_empty_slices_at_the_ends_are_nothing(self) -> None:
        hu = drawn()
        hu[..., :3] = hu[..., -2:] = -1024
        assert check_hu(hu, PATH, 2) == []

    def test_slices_of_dicom_are_named(self, tmp_path: Path) -> None:
        planes = iter(drawn(5.0, (40, 30, 10)).transpose(2, 1, 0))
        lost = {3, 4}
        write_series(
            tmp_path,
            stepping(START, np.arange(10) * 3.0),
            scene=lambda p: next(planes) * (0.0 if len(list(tmp_path.iterdir())) in lost else 1.0),
        )
        assert "2 slices hold one value only (0 HU)" in remarks(read_scan(tmp_path))

    def test_values_beyond_int16_are_counted(self, tmp_path: Path) -> None:
        hu = drawn(5.0).astype(np.float32)
        hu[30, 28, 10:13] = 1e6
        scan = read_scan(save(tmp_path / "a.nii.gz", hu))
        assert "3 voxels beyond 32767 HU set to 32767" in remarks(scan)

    def test_filled_with_water(self) -> None:
        (remark,) = check_hu(padded(region(), 0), PATH, 2)
        assert "of the voxels hold exactly 0 HU: filled in" in remark

    def test_tissue_of_another_brightness(self) -> None:
        (remark,) = check_hu(region() - 120, PATH, 2)
        assert remark == "the soft tissue peak lies at -86 HU, usually at 18 to 70"


def test_the_file_is_judged_before_padding_becomes_air(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a peak at -20.. HU"):
        read_scan(save(tmp_path / "a.nii.gz", drawn(5.0) * 2))


def test_dicom_without_rescale_tags_behind_padding(tmp_path: Path) -> None:
    planes = iter(padded(drawn(0.0, (40, 30, 10)) + 1024, -2000).transpose(2, 1, 0))
    write_series(
        tmp_path,
        stepping(START, np.arange(10) * 3.0),
        scene=lambda p: next(planes),
        RescaleIntercept=0,
        PixelPaddingValue=-2000,
    )
    with pytest.raises(UserError, match="soft tissue peak at 1059 HU"):
        read_scan(tmp_path)


def test_values_are_stored_as_before(tmp_path: Path) -> None:
    hu = drawn(5.0)
    hu[0] = -3024
    scan = read_scan(save(tmp_path / "a.nii.gz", hu))
    np.testing.assert_array_equal(scan.hu, np.maximum(hu, -1024))
    assert scan.hu.dtype == np.int16
    fractions = hu.astype(np.float64)
    fractions[0] = -3024.4
    nib.save(nib.Nifti1Image(fractions, np.diag([1.0, 1.0, 2.0, 1.0])), tmp_path / "b.nii.gz")
    assert read_scan(tmp_path / "b.nii.gz").hu.dtype == np.int16
