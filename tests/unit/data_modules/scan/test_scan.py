from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from data_modules.errors import UserError
from data_modules.scan.geometry import Grid, Volume, place
from data_modules.scan.scan import Scan, canonical_scan, read_mask, read_scan, write_nifti

CRANIUM = Path(__file__).parents[5] / "shared" / "data" / "cranium_ct.nii.gz"
AFFINE = np.array([[-0.5, 0, 0, 30], [0, 0.6, 0, -20], [0, 0, 3.0, 5], [0, 0, 0, 1.0]])


def head(shape: tuple[int, ...] = (12, 10, 8), seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed]).integers(-1000, 1500, shape).astype(np.int16)


def save(path: Path, data: np.ndarray, affine: np.ndarray = AFFINE, units: str | None = "mm", **sidecar: Any) -> Path:
    """A NIfTI file, written by nibabel and not by the code under test."""
    image = nib.Nifti1Image(data, affine)
    image.set_sform(affine, code=1)
    if units:
        image.header.set_xyzt_units(units)
    nib.save(image, path)
    if sidecar:
        path.with_name(path.name.split(".")[0] + ".json").write_text(json.dumps(sidecar))
    return path


def remarks(scan: Scan) -> str:
    return "\n".join(scan.warnings)


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
    doubtful = read_scan(save(tmp_path / "crop.nii", np.clip(head(), -150, 1500)))
    assert "no air in the image" in remarks(doubtful)


def test_units(tmp_path: Path) -> None:
    assert "no spatial unit" in remarks(read_scan(save(tmp_path / "a.nii", head(), units=None)))
    tiny = AFFINE.copy()
    tiny[:3, :3] /= 1000
    with pytest.raises(UserError, match="without a unit, and not plausible in mm"):
        read_scan(save(tmp_path / "b.nii", head(), tiny, units=None))
    with pytest.raises(UserError, match="in meter, expected mm"):
        read_scan(save(tmp_path / "c.nii", head(), tiny, units="meter"))


def test_affines(tmp_path: Path) -> None:
    for name, affine in {
        "zero": np.diag([1.0, 0.0, 1.0, 1.0]),
        "parallel": np.array([[1.0, 1, 0, 0], [0, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]),
        "nan": np.diag([1.0, np.nan, 1.0, 1.0]),
    }.items():
        image = nib.Nifti1Image(head(), np.eye(4))
        image.header["sform_code"] = 1
        for axis in range(3):
            image.header[f"srow_{'xyz'[axis]}"] = affine[axis]
        raw = tmp_path / f"{name}.nii"
        raw.write_bytes(image.header.binaryblock + b"\0" * 4 + head().tobytes(order="F"))
        with pytest.raises(UserError, match=rf"{name}\.nii: the affine .* is not invertible"):
            read_scan(raw)
    image = nib.Nifti1Image(head(), None)
    image.header.set_xyzt_units("mm")
    nib.save(image, tmp_path / "nowhere.nii")
    assert "left and right are a guess" in remarks(read_scan(tmp_path / "nowhere.nii"))
    image = nib.Nifti1Image(head(), AFFINE)
    image.header.set_xyzt_units("mm")
    image.set_sform(AFFINE, 1)
    other = AFFINE.copy()
    other[0, 3] += 4
    image.set_qform(other, 1)
    nib.save(image, tmp_path / "two.nii")
    scan = read_scan(tmp_path / "two.nii")
    assert "differ by more than 1 mm" in remarks(scan)
    np.testing.assert_allclose(scan.grid.affine, AFFINE, atol=1e-6)


def test_damaged_and_missing_files(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file or folder"):
        read_scan(tmp_path / "none.nii")
    packed = save(tmp_path / "cut.nii.gz", head((40, 40, 20)))
    packed.write_bytes(packed.read_bytes()[:-2000])
    with pytest.raises(UserError, match=r"cut\.nii\.gz: .*(truncated|not a whole)"):
        read_scan(packed)
    plain = save(tmp_path / "cut.nii", head())
    plain.write_bytes(plain.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"cut\.nii: .*(truncated|not a whole)"):
        read_scan(plain)
    for name, content in {"text.nii": b"hello", "empty.nii.gz": b"", "plain.nii.gz": b"x" * 400}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=name):
            read_scan(tmp_path / name)
    nib.save(nib.MGHImage(head().astype(np.float32), AFFINE), tmp_path / "other.mgz")
    with pytest.raises(UserError, match="not NIfTI but MGHImage"):
        read_scan(tmp_path / "other.mgz")


def test_wrong_arguments_and_sidecars(tmp_path: Path) -> None:
    path = save(tmp_path / "a.nii", head())
    with pytest.raises(UserError, match="slice_thickness_mm is 0"):
        read_scan(path, slice_thickness_mm=0)
    with pytest.raises(UserError, match="folders of DICOM only"):
        read_scan(path, series="1")
    for content, match in {
        "{": "not valid JSON",
        "[1]": "expected a JSON object",
        '{"Modality": "MR"}': "Modality is 'MR'",
        '{"SliceThickness": "5"}': "SliceThickness is '5', expected a number",
        '{"SliceThickness": 0}': "expected a positive number",
        '{"GantryDetectorTilt": NaN}': "GantryDetectorTilt is nan",
    }.items():
        (tmp_path / "a.json").write_text(content)
        with pytest.raises(UserError, match=match):
            read_scan(path)


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


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize(
    ("dtype", "stored"), [(bool, np.uint8), (np.int16, np.int16), (np.float64, np.float32), (np.float16, np.float32)]
)
def test_written_files_read_back(tmp_path: Path, suffix: str, dtype: Any, stored: Any) -> None:
    data = (head() > 0).astype(dtype) if dtype is bool else (head() % 7).astype(dtype)
    angle = np.radians(17)
    affine = AFFINE.copy()
    affine[:3, :3] = [[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]] @ AFFINE[:3, :3]
    path = tmp_path / "new" / f"a{suffix}"
    write_nifti(Volume(data, Grid(data.shape, affine)), path)
    image = nib.load(path)
    assert image.get_data_dtype() == stored
    np.testing.assert_array_equal(np.asanyarray(image.dataobj), data)
    for coded in (image.header.get_sform(coded=True), image.header.get_qform(coded=True)):
        assert coded[1] == 1
        np.testing.assert_allclose(coded[0], affine, atol=1e-5)
    assert image.header.get_xyzt_units()[0] == "mm"
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    first = path.read_bytes()
    write_nifti(Volume(data, Grid(data.shape, affine)), path)
    assert path.read_bytes() == first


def test_writing_is_all_or_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    volume = Volume(head(), Grid((12, 10, 8), AFFINE))
    path = tmp_path / "a.nii.gz"
    write_nifti(volume, path)
    before = path.read_bytes()

    def fails(self: gzip.GzipFile, data: bytes) -> int:
        raise OSError("disk full")

    monkeypatch.setattr(gzip.GzipFile, "write", fails)
    with pytest.raises(OSError, match="disk full"):
        write_nifti(volume.with_data(volume.data + 1), path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.nii.gz"]
    with pytest.raises(UserError, match=r"ends in \.nii or"):
        write_nifti(volume, tmp_path / "a.mha")


def test_mask_of_any_number_type(tmp_path: Path) -> None:
    mask = head() > 700
    grid = Grid(mask.shape, AFFINE)
    for dtype, value in ((np.uint8, 3), (np.int16, 1), (np.float32, 1)):
        data = np.where(mask, value, 0).astype(dtype)
        volume = read_mask(save(tmp_path / f"{np.dtype(dtype).name}.nii.gz", data), like=grid)
        assert volume.data.dtype == bool
        np.testing.assert_array_equal(volume.data, mask)
        assert volume.grid is grid
    scaled = nib.Nifti1Image(mask.astype(np.uint8) * 255, AFFINE)
    scaled.header.set_slope_inter(1 / 255, 0)
    nib.save(scaled, tmp_path / "scaled.nii")
    np.testing.assert_array_equal(read_mask(tmp_path / "scaled.nii").data, mask)
    assert not read_mask(save(tmp_path / "none.nii", np.zeros((4, 4, 4), np.uint8))).data.any()


def test_what_is_no_mask_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "m.nii", (head() > 0).astype(np.uint8))
    with pytest.raises(UserError, match="another grid than its scan"):
        read_mask(
            path, like=Grid((12, 10, 8), np.diag([1.0, 1, 1, 1]) @ AFFINE + np.outer([0, 0.1, 0, 0], [0, 0, 0, 1]))
        )
    with pytest.raises(UserError, match=r"Mask: shape \(12, 10, 8\).* Scan: shape \(12, 10, 9\)"):
        read_mask(path, like=Grid((12, 10, 9), AFFINE))
    with pytest.raises(UserError, match="no such file"):
        read_mask(tmp_path / "none.nii")
    probability = np.full((4, 4, 4), 0.5, dtype=np.float32)
    for data in (probability, probability * np.nan, -np.ones((4, 4, 4), np.int16)):
        with pytest.raises(UserError, match="not the whole numbers"):
            read_mask(save(tmp_path / "p.nii", data))


def test_mask_goes_back_onto_the_file_it_came_from(tmp_path: Path) -> None:
    scan = read_scan(save(tmp_path / "a.nii.gz", head()))
    turned = canonical_scan(scan)
    back = place(Volume(turned.hu > 300, turned.grid), scan.grid, fill=0)
    write_nifti(back, tmp_path / "mask.nii.gz")
    image = nib.load(tmp_path / "mask.nii.gz")
    np.testing.assert_array_equal(image.affine, nib.load(tmp_path / "a.nii.gz").affine)
    np.testing.assert_array_equal(read_mask(tmp_path / "mask.nii.gz", like=scan.grid).data, head() > 300)


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
