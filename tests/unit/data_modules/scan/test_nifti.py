"""NIfTI files read, refused and written; seen through whole scans where it is the scan that counts."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from data_modules.errors import UserError
from data_modules.scan.geometry import Grid, Volume, place
from data_modules.scan.nifti import read_mask, write_nifti
from data_modules.scan.reading import read_scan
from data_modules.scan.scan import canonical_scan
from tests.nifti_files import AFFINE, head, remarks, save


def test_units(tmp_path: Path) -> None:
    assert "no spatial unit" in remarks(read_scan(save(tmp_path / "a.nii", head(), units=None)))
    tiny = AFFINE.copy()
    tiny[:3, :3] /= 1000
    with pytest.raises(UserError, match="not plausible in mm"):
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
    image.set_qform(np.diag([-1.0, 1.0, 1.0, 1.0]) @ AFFINE, 1)
    nib.save(image, tmp_path / "mirrored.nii")
    assert "mirror images of each other, so that left and right may be swapped" in remarks(
        read_scan(tmp_path / "mirrored.nii")
    )


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
    with pytest.raises(UserError, match="a FreeSurfer image"):
        read_scan(tmp_path / "other.mgz")


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


def test_a_sheared_grid_has_no_qform(tmp_path: Path) -> None:
    affine = AFFINE.copy()
    affine[:3, 2] = (0, 0.9, 2.8)
    write_nifti(Volume(head(), Grid((12, 10, 8), affine)), tmp_path / "a.nii.gz")
    header = nib.load(tmp_path / "a.nii.gz").header
    assert (header["sform_code"], header["qform_code"]) == (1, 0)
    with pytest.raises(RuntimeError, match="orthonormal"):
        sitk.ReadImage(str(tmp_path / "a.nii.gz"))


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
