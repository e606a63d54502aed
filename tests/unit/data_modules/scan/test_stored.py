"""Files as the field writes them, damaged ones, and other kinds: read as others read them, or named."""

from __future__ import annotations

import gzip
import json
import zipfile
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from data_modules.errors import UserError
from data_modules.scan.nifti import read_mask, read_probability
from data_modules.scan.reading import read_scan
from data_modules.scan.stored import image_files, read_header, read_stored
from tests.dicom_series import START, field, stepping, write_series
from tests.nifti_files import AFFINE, head, remarks, save, with_header

TURNED = np.array([[-0.49, 0.11, 0.05, 30], [0.09, 0.59, -0.1, -20], [0.03, 0.1, 3.0, 5], [0, 0, 0, 1.0]])


def itk_grid(path: Path) -> np.ndarray:
    """Affine (RAS+) of a file by SimpleITK."""
    image = sitk.ReadImage(str(path))
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine


def rotated() -> np.ndarray:
    u, _, vt = np.linalg.svd(TURNED[:3, :3] / np.linalg.norm(TURNED[:3, :3], axis=0))
    affine = TURNED.copy()
    affine[:3, :3] = (u @ vt) * (0.5, 0.6, 3.0)
    return affine


def stored_or_error(path: Path) -> np.ndarray | None:
    """What a file holds; None where it is refused, by its name."""
    try:
        return read_stored(path)[1]
    except UserError as error:
        if path.name not in str(error):
            raise
        return None


@pytest.mark.parametrize(
    "change",
    [
        {"quatern_b": 0.0, "quatern_c": 0.0, "quatern_d": 1.0000003},  # beside a good sform
        {"scl_slope": 0.0, "scl_inter": 7.0},
        {"scl_slope": np.nan, "scl_inter": np.nan},
        {"xyzt_units": 0},
        {"xyzt_units": 255},
        {"pixdim": [-1.0, 0.5, 0.6, 3.0, 0, 0, 0, 0]},
        {"dim": [4, 12, 10, 8, 1, 1, 1, 1]},
        {"dim": [5, 12, 10, 8, 1, 1, 1, 1]},
        {"dim": [4, 12, 10, 8, 0, 0, 0, 0]},
        {"sform_code": 0},
    ],
)
@pytest.mark.parametrize("version", [1, 2])
def test_headers_that_others_accept_are_read_as_they_do(tmp_path: Path, change: dict[str, Any], version: int) -> None:
    data = head()
    path = with_header(tmp_path / "a.nii", data, rotated(), version=version, **change)
    scan = read_scan(path, slice_thickness_mm=3)
    np.testing.assert_array_equal(scan.hu, data)
    np.testing.assert_allclose(scan.grid.affine, rotated(), atol=1e-4)
    if "quatern_b" not in change and change.get("xyzt_units") != 255 and version == 1:
        np.testing.assert_allclose(scan.grid.affine, itk_grid(path), atol=1e-4)


def test_a_quaternion_too_long_is_brought_to_length_one(tmp_path: Path) -> None:
    turn = np.diag([-0.5, -0.6, 3.0, 1.0])  # half a turn about z
    path = with_header(tmp_path / "a.nii", head(), turn, sform_code=0, quatern_b=0, quatern_c=0, quatern_d=1.0000003)
    scan = read_scan(path, slice_thickness_mm=3)
    np.testing.assert_allclose(scan.grid.affine, turn, atol=1e-5)
    np.testing.assert_allclose(scan.grid.affine, itk_grid(path), atol=1e-5)
    with pytest.raises(UserError, match="not invertible"):
        read_scan(with_header(tmp_path / "nan.nii", head(), turn, sform_code=0, quatern_b=np.nan))


def test_an_sform_of_nothing_gives_way_to_a_good_qform(tmp_path: Path) -> None:
    for name, row in {"zero": 0.0, "nan": np.nan}.items():
        rows = {f"srow_{k}": [row] * 4 for k in "xyz"}
        path = with_header(tmp_path / f"{name}.nii", head(), rotated(), **rows)
        scan = read_scan(path, slice_thickness_mm=3)
        np.testing.assert_allclose(scan.grid.affine, rotated(), atol=1e-4)
        assert "the qform was followed" in remarks(scan)
        if name == "zero":
            np.testing.assert_allclose(scan.grid.affine, itk_grid(path), atol=1e-4)
        with pytest.raises(UserError, match="not invertible"):
            read_scan(with_header(tmp_path / "neither.nii", head(), rotated(), qform_code=0, **rows))


def test_big_endian_and_a_pair_of_files(tmp_path: Path) -> None:
    data = head()
    swapped = nib.Nifti1Image(data, AFFINE, nib.Nifti1Header(endianness=">"))
    nib.save(swapped, tmp_path / "big.nii")
    assert (tmp_path / "big.nii").read_bytes()[:4] == b"\0\0\x01\x5c"
    np.testing.assert_array_equal(read_scan(tmp_path / "big.nii").hu, data)
    nib.save(nib.Nifti1Pair(data, AFFINE), tmp_path / "pair.img")
    for name in ("pair.img", "pair.hdr"):
        np.testing.assert_array_equal(read_scan(tmp_path / name).hu, data)
    (tmp_path / "pair.img").unlink()
    with pytest.raises(UserError, match=r"pair\.img: no such file"):
        read_scan(tmp_path / "pair.hdr")
    analyze = nib.AnalyzeImage(data, np.diag([0.5, 0.6, 3.0, 1.0]))
    nib.save(analyze, tmp_path / "old.img")
    with pytest.raises(UserError, match=r"Analyze 7\.5"):
        read_scan(tmp_path / "old.img")


@pytest.mark.parametrize("spacing", [0.001, 0.05, 25.0, 1e20])
@pytest.mark.parametrize("units", ["mm", None])
def test_a_spacing_that_no_ct_has(tmp_path: Path, spacing: float, units: str | None) -> None:
    affine = np.diag([0.5, 0.5, spacing, 1.0])
    with pytest.raises(UserError, match="not plausible in mm"):
        read_scan(save(tmp_path / "a.nii.gz", head(), affine, units))


def test_claims_are_judged_before_memory_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("memory was asked for")

    huge = with_header(tmp_path / "huge.nii", head(), AFFINE, dim=[3, 30000, 30000, 30000, 1, 1, 1, 1])
    large = with_header(tmp_path / "large.nii", head(), AFFINE, dim=[3, 1000, 1000, 1000, 1, 1, 1, 1])
    packed = tmp_path / "large.nii.gz"
    packed.write_bytes(gzip.compress(large.read_bytes()))
    monkeypatch.setattr(np, "empty", refuse)
    for path, match in ((huge, "more than any CT has"), (large, "truncated"), (packed, "truncated")):
        with pytest.raises(UserError, match=match):
            read_stored(path)
    (tmp_path / "h.nrrd").write_bytes(
        b"NRRD0004\ntype: short\ndimension: 3\nspace: RAS\nsizes: 30000 30000 30000\n"
        b"space directions: (1,0,0) (0,1,0) (0,0,1)\nendian: little\nencoding: raw\nspace origin: (0,0,0)\n\n1234"
    )
    with pytest.raises(UserError, match="more than any CT has"):
        read_stored(tmp_path / "h.nrrd")


def test_garbage_in_headers_is_always_named(tmp_path: Path) -> None:
    whole = [with_header(tmp_path / f"{v}.nii", head((3, 3, 3)), AFFINE, version=v).read_bytes() for v in (1, 2)]
    random = np.random.default_rng(0)
    refused = 0
    for k in range(300):
        content = bytearray(whole[k % 2])
        for place in random.integers(400, size=4):
            content[place] = random.choice([0, 127, 128, 255])
        (tmp_path / "a.nii").write_bytes(content[: random.integers(300, 600)] if k % 5 == 0 else content)
        with np.errstate(over="raise", invalid="raise"):
            refused += stored_or_error(tmp_path / "a.nii") is None
    assert 80 < refused < 300


def test_a_negative_number_of_voxels(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no voxels"):
        read_header(with_header(tmp_path / "neg.nii", head(), AFFINE, dim=[3, 12, -10, 8, 1, 1, 1, 1]))


def test_thickness_is_plausible_wherever_it_comes_from(tmp_path: Path) -> None:
    for thickness in (0.005, 50, 1e9):
        with pytest.raises(UserError, match=r"a\.json: SliceThickness is .*from 0\.1 to 20"):
            read_scan(save(tmp_path / "a.nii", head(), SliceThickness=thickness))
        (tmp_path / "a.json").unlink()
        with pytest.raises(UserError, match=r"slice_thickness_mm is .* from 0\.1 to 20"):
            read_scan(tmp_path / "a.nii", slice_thickness_mm=thickness)


def test_a_stale_name_of_the_slice_axis_is_not_followed(tmp_path: Path) -> None:
    path = with_header(tmp_path / "a.nii", head(), AFFINE, dim_info=1 << 4)  # axis 0, the spacing says axis 2
    scan = read_scan(path, slice_thickness_mm=5)
    assert scan.slice_axis == 2
    assert "names axis 0 as that across the slices" in remarks(scan)
    agrees = read_scan(with_header(tmp_path / "b.nii", head(), AFFINE, dim_info=3 << 4), slice_thickness_mm=5)
    assert (agrees.slice_axis, agrees.warnings) == (2, ())


def test_flipped_bits_and_cuts_of_a_packed_file_is_noticed(tmp_path: Path) -> None:
    data = (head((6, 5, 4)) > 0).astype(np.uint8)
    whole = save(tmp_path / "a.nii.gz", data).read_bytes()
    before = read_stored(tmp_path / "a.nii.gz")[1]
    damaged = tmp_path / "damaged.nii.gz"
    refused = 0
    for bit in range(80, 8 * len(whole), 5):  # behind the packer's own header, which holds a time
        content = bytearray(whole)
        content[bit // 8] ^= 1 << (bit % 8)
        damaged.write_bytes(content)
        after = stored_or_error(damaged)
        refused += after is None
        if after is not None:  # a bit of the name of the file inside
            np.testing.assert_array_equal(after, before)
    assert refused > 8 * (len(whole) - 40) / 5
    for n in range(1, len(whole), 7):
        damaged.write_bytes(whole[:-n])
        for read in (read_mask, read_probability, read_scan):
            with pytest.raises(UserError, match="damaged"):
                read(damaged)
    damaged.write_bytes(whole + b"garbage")
    with pytest.raises(UserError, match="damaged"):
        read_stored(damaged)


def test_a_file_packed_in_parts_and_bytes_behind_the_voxels(tmp_path: Path) -> None:
    data = head()
    plain = save(tmp_path / "a.nii", data).read_bytes()
    (tmp_path / "parts.nii.gz").write_bytes(gzip.compress(plain[:900]) + gzip.compress(plain[900:]))
    np.testing.assert_array_equal(read_scan(tmp_path / "parts.nii.gz").hu, data)
    for name, content in {"more.nii": plain + b"12345", "more.nii.gz": gzip.compress(plain + b"12345")}.items():
        (tmp_path / name).write_bytes(content)
        scan = read_scan(tmp_path / name)
        np.testing.assert_array_equal(scan.hu, data)
        assert "5 bytes follow the last voxel" in remarks(scan)


def test_suffixes_in_any_case_and_wrong_ones(tmp_path: Path) -> None:
    data = head()
    plain = save(tmp_path / "a.nii", data).read_bytes()
    (tmp_path / "S.json").write_text(json.dumps({"SliceThickness": 5.0}))
    for name in ("S.NII.GZ", "S.Nii.gz", "S.nii", "S.NII"):
        (tmp_path / name).write_bytes(gzip.compress(plain))  # packed, whatever the name
        scan = read_scan(tmp_path / name)
        np.testing.assert_array_equal(scan.hu, data)
        assert (scan.slice_thickness_mm, scan.thickness_from, scan.warnings) == (5.0, "file", ())
        (tmp_path / name).unlink()
    (tmp_path / "S.nii.gz").write_bytes(plain)  # and the other way round
    np.testing.assert_array_equal(read_scan(tmp_path / "S.nii.gz").hu, data)


@pytest.mark.parametrize("suffix", [".nrrd", ".mha", ".mhd", ".NRRD", ".nhdr"])
@pytest.mark.parametrize("compress", [False, True])
def test_nrrd_and_metaimage(tmp_path: Path, suffix: str, compress: bool) -> None:
    data = head()
    image = sitk.GetImageFromArray(data.T)
    image.SetSpacing((0.5, 0.6, 3.0))
    image.SetOrigin((1.0, 2.0, 3.0))
    image.SetDirection((0, -1, 0, 1, 0, 0, 0, 0, 1))
    sitk.WriteImage(image, str(tmp_path / f"a{suffix.lower()}"), useCompression=compress)
    path = (tmp_path / f"a{suffix.lower()}").rename(tmp_path / f"a{suffix}")
    (tmp_path / "a.json").write_text(json.dumps({"SliceThickness": 5.0}))
    scan = read_scan(path)
    np.testing.assert_array_equal(scan.hu, data)
    # x of the array runs along +y of LPS (posterior), its y along −x (right), from LPS (1, 2, 3)
    expected = [[0, 0.6, 0, -1], [-0.5, 0, 0, -2], [0, 0, 3, 3], [0, 0, 0, 1]]
    np.testing.assert_allclose(scan.grid.affine, expected, atol=1e-6)
    assert (scan.slice_thickness_mm, scan.slice_axis, scan.warnings) == (5.0, 2, ())


@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
def test_damaged_nrrd_and_metaimage(tmp_path: Path, suffix: str) -> None:
    image = sitk.GetImageFromArray(head().T)
    path = tmp_path / f"a{suffix}"
    sitk.WriteImage(image, str(path), useCompression=True)
    whole = path.read_bytes()
    for place in range(400 if suffix == ".nrrd" else 420, len(whole), 97):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        with pytest.raises(UserError, match="damaged"):
            read_scan(path)
    for n in (1, 4, 8, 200):
        path.write_bytes(whole[:-n])
        with pytest.raises(UserError, match=r"not a whole file|damaged"):
            read_scan(path)
    sitk.WriteImage(image, str(path), useCompression=False)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match="damaged"):
        read_scan(path)
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((4, 4, 4, 3), np.uint8), isVector=True), str(path))
    with pytest.raises(UserError, match="expected one grey value a voxel"):
        read_scan(path)


def test_all_files_of_an_image_are_known(tmp_path: Path) -> None:
    image = sitk.GetImageFromArray(head().T)
    sitk.WriteImage(image, str(tmp_path / "a.mhd"))
    sitk.WriteImage(image, str(tmp_path / "b.nhdr"), useCompression=True)
    nib.save(nib.Nifti1Pair(head(), AFFINE), tmp_path / "c.img")
    for name, other in {"a.mhd": "a.raw", "b.nhdr": "b.raw.gz", "c.img": "c.hdr", "c.hdr": "c.img"}.items():
        assert image_files(tmp_path / name) == [tmp_path / name, tmp_path / other]
    assert image_files(tmp_path / "d.nii.gz") == [tmp_path / "d.nii.gz"]


def test_other_kinds_are_named_with_what_to_do(tmp_path: Path) -> None:
    write_series(tmp_path / "scan", stepping(START, np.arange(3) * 3.0), scene=field)
    slice_file = sorted((tmp_path / "scan").iterdir())[0]
    with pytest.raises(UserError, match=r"one DICOM file, a single slice.*give .*/scan"):
        read_scan(slice_file)
    (tmp_path / "s.dcm.gz").write_bytes(gzip.compress(slice_file.read_bytes()))
    with pytest.raises(UserError, match="one DICOM file"):
        read_scan(tmp_path / "s.dcm.gz")
    with zipfile.ZipFile(tmp_path / "scan.zip", "w") as archive:
        archive.write(slice_file, "a.dcm")
    for name, content, what in (
        ("scan.zip", None, "a ZIP archive.*Unpack it"),
        ("scan.tar.gz", gzip.compress(b"\0" * 257 + b"ustar" + b"\0" * 300), "a TAR archive.*Unpack it"),
        ("scan.7z", b"7z\xbc\xaf\x27\x1c" + b"\0" * 50, "a 7z archive.*Unpack it"),
        ("a.png", b"\x89PNG\r\n", "a picture"),
        ("a.npy", b"\x93NUMPY", "NumPy"),
        ("empty.nii", b"", "is empty"),
        ("text.nii", b"hello", "not NIfTI"),
    ):
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=f"{name}: .*{what}"):
            read_scan(tmp_path / name)


def test_a_multi_frame_file_is_told_from_a_slice(tmp_path: Path) -> None:
    write_series(tmp_path / "scan", stepping(START, [0.0]), scene=field, NumberOfFrames=3)
    with pytest.raises(UserError, match=r"multi-frame DICOM file \(3 frames\).*dcm2niix"):
        read_scan(next((tmp_path / "scan").iterdir()))
