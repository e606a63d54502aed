from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from data_modules.errors import UserError
from data_modules.scan.geometry import Grid
from data_modules.scan.reading import read_scan
from data_modules.scan.scan import Scan, canonical_scan
from tests.dicom_series import START, field, stepping, write_series
from tests.nifti_files import AFFINE, head, remarks, save

CRANIUM = Path(__file__).parents[5] / "shared" / "data" / "cranium_ct.nii.gz"


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_values_grid_and_sidecar(tmp_path: Path, suffix: str) -> None:
    data = head()
    path = save(
        tmp_path / f"a{suffix}",
        data,
        SliceThickness=5,
        ConvolutionKernel="J40s",
        Manufacturer="Siemens",
        GantryDetectorTilt=-7.5,
    )
    scan = read_scan(path)
    assert scan.hu.dtype == np.int16
    np.testing.assert_array_equal(scan.hu, data)
    np.testing.assert_allclose(scan.grid.affine, AFFINE, atol=1e-6)
    assert (scan.slice_thickness_mm, scan.slice_axis) == (5.0, 2)
    assert (scan.kernel, scan.manufacturer, scan.gantry_tilt_deg) == ("J40s", "Siemens", -7.5)
    assert scan.warnings == ()
    assert scan.thickness_from == "file"
    assert read_scan(path, slice_thickness_mm=2.5).slice_thickness_mm == 5.0  # the file knows better
    bare = read_scan(save(tmp_path / f"bare{suffix}", data), slice_thickness_mm=2.5)
    assert (bare.slice_thickness_mm, bare.thickness_from, bare.warnings) == (2.5, "given", ())


def test_thickness_without_sidecar_is_the_spacing_and_said_so(tmp_path: Path) -> None:
    scan = read_scan(save(tmp_path / "a.nii", head()))
    assert (scan.slice_thickness_mm, scan.thickness_from) == (pytest.approx(3.0), "spacing")
    assert "slice thickness unknown" in remarks(scan)


def test_slice_axis(tmp_path: Path) -> None:
    isotropic = np.diag([1.0, 1.0, 1.1, 1.0])
    path = save(tmp_path / "a.nii", head(), isotropic[:, [2, 0, 1, 3]])  # first array axis is foot–head
    assert read_scan(path).slice_axis == 0
    coronal = np.diag([1.0, 1.5, 1.0, 1.0])
    assert read_scan(save(tmp_path / "b.nii", head(), coronal)).slice_axis == 1
    image = nib.load(path)
    image.header.set_dim_info(slice=2)
    nib.save(image, tmp_path / "c.nii")
    assert read_scan(tmp_path / "c.nii").slice_axis == 2


def test_scaling_clipping_and_float_types(tmp_path: Path) -> None:
    stored = np.arange(0, 12 * 10 * 8, dtype=np.int16).reshape(12, 10, 8)
    image = nib.Nifti1Image(stored, AFFINE)
    image.header.set_slope_inter(2, -1024)
    image.header.set_xyzt_units("mm")
    nib.save(image, tmp_path / "slope.nii")
    scan = read_scan(tmp_path / "slope.nii")
    assert scan.hu.dtype == np.int16
    np.testing.assert_array_equal(scan.hu, stored * 2 - 1024)

    whole = head().astype(np.float32)
    whole[0, 0, 0], whole[1, 0, 0], whole[2, 0, 0] = -3024, 70000, 1e9
    scan = read_scan(save(tmp_path / "float.nii", whole))
    assert scan.hu.dtype == np.int16
    assert scan.hu[:3, 0, 0].tolist() == [-1024, 32767, 32767]
    np.testing.assert_array_equal(scan.hu[3:], whole[3:])
    assert "1 voxels below −1024 HU" in remarks(scan)

    fractional = head().astype(np.float64)
    fractional[5, 5, 6] += 0.25  # late: the slices before it were whole numbers
    scan = read_scan(save(tmp_path / "fraction.nii", fractional))
    assert scan.hu.dtype == np.float32
    np.testing.assert_array_equal(scan.hu, fractional)


def test_trailing_axis_of_one_is_dropped(tmp_path: Path) -> None:
    data = head()
    np.testing.assert_array_equal(read_scan(save(tmp_path / "a.nii", data[..., None])).hu, data)


def test_wrong_contents_are_refused(tmp_path: Path) -> None:
    def refused(data: np.ndarray, match: str) -> None:
        with pytest.raises(UserError, match=match) as caught:
            read_scan(save(tmp_path / "wrong.nii.gz", data))
        assert "wrong.nii.gz" in str(caught.value)

    refused(head((6, 5, 4, 3)), "4D image of shape")
    refused(head((6, 5)), "2D image of shape")
    for bad in (np.nan, np.inf):
        broken = head().astype(np.float32)
        broken[1, 2, 3] = bad
        refused(broken, "1 voxels of slice 3 are NaN or infinite")
    refused((head() % 256).astype(np.uint8), "windowed to grey values or a mask")
    refused(np.clip(head() + 1024, 0, 4000).astype(np.int16), "stored with an offset")
    refused(np.clip(head(), -150, 250), "looks windowed")
    refused(head().astype(np.complex64), "an image of type complex64")
    colour = np.zeros((4, 4, 4), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    refused(colour, "an RGB image")
    doubtful = read_scan(save(tmp_path / "crop.nii", np.maximum(head() % 1650 - 150, -149)))
    assert "no air in the image" in remarks(doubtful)


def test_wrong_arguments(tmp_path: Path) -> None:
    path = save(tmp_path / "a.nii", head())
    with pytest.raises(UserError, match="slice_thickness_mm is 0"):
        read_scan(path, slice_thickness_mm=0)
    with pytest.raises(UserError, match="folders of DICOM only"):
        read_scan(path, series="1")


@pytest.mark.parametrize("slice_axis", [2, 0])
def test_sheared_nifti_becomes_right_angled(tmp_path: Path, slice_axis: int) -> None:
    sheared = AFFINE.copy()
    sheared[:3, 2] = (0, 0.9, 2.8)  # slices slide along y
    index = np.stack(np.meshgrid(*[np.arange(n) for n in (12, 30, 8)], indexing="ij"), axis=-1)
    world = index @ sheared[:3, :3].T + sheared[:3, 3]
    scene = np.rint(-400 + world @ (9.0, 11.0, 13.0)).astype(np.int16)
    order = [0, 1, 2] if slice_axis == 2 else [2, 1, 0]
    path = save(tmp_path / "a.nii", scene.transpose(order), sheared[:, [*order, 3]], SliceThickness=3)
    scan = read_scan(path)
    assert scan.grid.is_orthogonal
    rows = 30 + int(np.ceil(7 * 0.9 / 0.6))
    assert scan.hu.shape == ((12, rows, 8) if slice_axis == 2 else (rows, 12, 8))  # slices come last
    assert scan.slice_axis == 2
    assert scan.grid.spacing_mm == pytest.approx((0.5, 0.6, 2.8) if slice_axis == 2 else (0.6, 0.5, 2.8), abs=1e-5)
    assert scan.gantry_tilt_deg == pytest.approx(np.degrees(np.arctan(0.9 / 2.8)), abs=0.01)
    assert "gantry tilt" in remarks(scan)
    assert scan.slice_thickness_mm == 3.0
    assert scan.file_grid is not None
    np.testing.assert_allclose(scan.file_grid.affine, sheared[:, [*order, 3]], atol=1e-6)
    (tmp_path / "a.json").unlink()
    guessed = read_scan(path)  # along the normal of the slices, not along their slanted step
    assert (guessed.slice_thickness_mm, guessed.thickness_from) == (pytest.approx(2.8), "spacing")
    assert "slice thickness unknown" in remarks(guessed)
    place = np.stack(np.meshgrid(*[np.arange(n) for n in scan.hu.shape], indexing="ij"), axis=-1)
    expected = -400 + scan.grid.to_ras_mm(place) @ (9.0, 11.0, 13.0)
    errors = np.abs(scan.hu - expected)[scan.hu > -1024]
    assert errors.size >= scene.size
    assert np.sort(errors)[: 12 * 8 * 29].max() <= 1.01  # but for the rows that a part of a pixel blends with air


def test_wholly_sheared_nifti_is_refused(tmp_path: Path) -> None:
    affine = np.eye(4)
    affine[:3, :3] = np.array([[1, 0.3, 0.3], [0, 1, 0.3], [0, 0, 1]])
    with pytest.raises(UserError, match="no two axes of the grid stand at right angles"):
        read_scan(save(tmp_path / "a.nii", head(), affine))


def test_canonical_scan_takes_slice_axis_and_thicknesses_along() -> None:
    # array axes: I (slices), A, L
    affine = np.array([[0, 0, -1.0, 0], [0, 2.0, 0, 0], [-3.0, 0, 0, 0], [0, 0, 0, 1]])
    hu = head((3, 4, 5))
    scan = Scan(
        hu=hu,
        grid=Grid(hu.shape, affine),
        slice_thickness_mm=2.0,
        slice_axis=0,
        slice_thicknesses_mm=(1.0, 2.0, 3.0),
    )
    turned = canonical_scan(scan)
    assert turned.grid.axis_codes == "RAS"
    assert (turned.slice_axis, turned.slice_thicknesses_mm) == (2, (3.0, 2.0, 1.0))
    np.testing.assert_array_equal(turned.hu, hu[::-1, :, ::-1].transpose(2, 1, 0))
    point = scan.grid.to_ras_mm((2, 1, 4))
    assert turned.hu[tuple(np.rint(turned.grid.to_index(point)).astype(int))] == hu[2, 1, 4]
    unchanged = canonical_scan(Scan(hu=hu, grid=Grid(hu.shape, np.eye(4)), slice_thickness_mm=1.0))
    assert (unchanged.slice_axis, unchanged.slice_thicknesses_mm) == (2, None)


def test_crop_pads_with_air_and_keeps_the_rest() -> None:
    hu = head((10, 10, 6))
    scan = Scan(hu=hu, grid=Grid(hu.shape, AFFINE), slice_thickness_mm=3.0, kernel="k")
    box = scan.crop(scan.grid.to_ras_mm((0, 4, 4)), (2.5, 3.0, 15.0))  # 5 × 5 × 5 voxels
    assert box.hu.shape == (5, 5, 5)
    assert (box.hu[:2] == -1024).all()
    assert (box.hu[..., 4] == -1024).all()
    np.testing.assert_array_equal(box.hu[2:, :, :4], hu[:3, 2:7, 2:6])
    assert (box.kernel, box.slice_thickness_mm, box.slice_thicknesses_mm) == ("k", 3.0, None)


def test_scan_checks_its_parts() -> None:
    hu = head((3, 4, 5))
    with pytest.raises(ValueError, match="on a grid of shape"):
        Scan(hu=hu, grid=Grid((3, 4, 6), AFFINE), slice_thickness_mm=1.0)
    with pytest.raises(ValueError, match="2 thicknesses for 5 slices"):
        Scan(hu=hu, grid=Grid(hu.shape, AFFINE), slice_thickness_mm=1.0, slice_thicknesses_mm=(1.0, 2.0))


def test_real_thin_scan() -> None:
    if not CRANIUM.is_file():
        pytest.skip(f"real CT not there: {CRANIUM}")
    scan = read_scan(CRANIUM)
    image = nib.load(CRANIUM)
    assert scan.hu.dtype == np.int16
    np.testing.assert_array_equal(scan.hu, np.asanyarray(image.dataobj))
    np.testing.assert_array_equal(scan.grid.affine, image.affine)
    assert scan.grid.axis_codes == "LAS"
    assert scan.slice_axis == 2
    assert scan.slice_thickness_mm == 1.5


def test_crop_takes_its_own_slices_thicknesses(tmp_path: Path) -> None:
    heights = [*(np.arange(6) * 2.0), *(10.0 + np.arange(1, 6) * 4.0)]
    write_series(tmp_path, stepping(START, heights), SliceThickness=[2.0] * 6 + [4.0] * 5)
    scan = read_scan(tmp_path)
    low = scan.crop(scan.grid.to_ras_mm((20, 15, 1)), (7.0, 9.0, 10.0))  # slices −1 … 3
    assert low.hu.shape == (10, 10, 5)
    assert low.slice_thicknesses_mm == (2.0,) * 5
    assert low.slice_thickness_mm == 2.0
    assert (low.hu[..., 0] == -1024).all()
    mixed = canonical_scan(scan).crop(scan.grid.to_ras_mm((20, 15, 6)), (7.0, 9.0, 10.0))  # slices 4 … 8
    assert mixed.slice_thicknesses_mm == scan.slice_thicknesses_mm[4:9]  # type: ignore[index]


def test_values_that_are_no_hu_are_refused(tmp_path: Path) -> None:
    write_series(tmp_path, stepping(START, np.arange(3) * 3.0), scene=lambda p: field(p) + 2000)
    with pytest.raises(UserError, match="stored with an offset"):
        read_scan(tmp_path)
