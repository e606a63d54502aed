from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk

from data_modules.errors import UserError
from data_modules.scan.reading import read_scan
from tests.dicom_series import (
    COLUMNS,
    ROWS,
    START,
    field,
    field_errors,
    remarks,
    stepping,
    write_series,
)


def test_duplicates_and_conflicts_at_one_position(tmp_path: Path) -> None:
    positions = stepping(START, np.arange(5) * 3.0)
    write_series(tmp_path, positions)
    write_series(tmp_path, positions[1:2], prefix="copy", InstanceNumber=9)
    write_series(tmp_path, positions[3:4], prefix="aa_other", InstanceNumber=8, scene=lambda p: field(p) + 100)
    scan = read_scan(tmp_path)
    assert scan.hu.shape[2] == 5
    assert field_errors(scan).max() <= 0.51  # the first acquired was kept
    assert "1 duplicated slices left out" in remarks(scan)
    assert "1 slices left out that differ from another at the same position" in remarks(scan)


def test_rescale_and_padding_are_per_slice(tmp_path: Path) -> None:
    def scene(p: np.ndarray) -> np.ndarray:
        hu = np.full(p.shape[:2], -100.0)
        hu[:, 10:] = 60.0
        hu[:4] = -1500.0  # padding
        hu[4, 0] = -1300.0  # no padding value, but no HU either
        return hu

    write_series(
        tmp_path,
        stepping(START, np.arange(4) * 3.0),
        scene=scene,
        RescaleSlope=[1, 2, 1, 4],
        RescaleIntercept=[0, -1024, -1500, -100],
        PixelPaddingValue=[-1500, -238, 0, -350],
    )
    scan = read_scan(tmp_path)
    assert scan.hu.dtype == np.int16
    assert "RescaleSlope or RescaleIntercept changes within the series" in remarks(scan)
    for k in range(4):
        plane = scan.hu[..., k].T
        assert (plane[:4] == -1024).all()
        assert plane[4, 0] == -1024
        assert (plane[5:, :10] == -100).all()
        assert (plane[4:, 10:] == 60).all()


def test_fractional_hu_become_float32(tmp_path: Path) -> None:
    write_series(
        tmp_path, stepping(START, np.arange(3) * 3.0), scene=lambda p: field(p), RescaleSlope=0.25, RescaleIntercept=0
    )
    scan = read_scan(tmp_path)
    assert scan.hu.dtype == np.float32
    assert field_errors(scan).max() <= 0.126


def test_several_series_are_listed_and_chosen(tmp_path: Path) -> None:
    write_series(tmp_path, stepping(START, np.arange(4) * 3.0), prefix="a", SeriesInstanceUID="1.2.3.77")
    write_series(
        tmp_path,
        stepping(START, np.arange(6) * 5.0),
        prefix="b",
        SeriesInstanceUID="1.2.3.88",
        SeriesNumber=3,
        SliceThickness=5.0,
        ConvolutionKernel=["BONE"] * 6,
    )
    with pytest.raises(UserError, match="2 CT series, expected one") as caught:
        read_scan(tmp_path)
    message = str(caught.value)
    assert "1: 4 slices, axial, 3 mm, kernel H31s" in message
    assert "2: 6 slices, axial, 5 mm, kernel BONE" in message
    assert "Secret" not in message
    assert read_scan(tmp_path, series="1").hu.shape[2] == 4
    assert read_scan(tmp_path, series="2").kernel == "BONE"
    assert read_scan(tmp_path, series=".88").hu.shape[2] == 6
    with pytest.raises(UserError, match="series '3' fits 0 CT series"):
        read_scan(tmp_path, series="3")


def test_two_orientations_in_one_series_are_two_choices(tmp_path: Path) -> None:
    write_series(tmp_path, stepping(START, np.arange(4) * 3.0), prefix="a")
    write_series(
        tmp_path, [np.array([-14.0, 5.0 + 3 * i, 20.0]) for i in range(5)], (1, 0, 0, 0, 0, -1), prefix="coronal"
    )
    with pytest.raises(UserError, match="5 slices, coronal") as caught:
        read_scan(tmp_path)
    assert "4 slices, axial" in str(caught.value)
    assert field_errors(read_scan(tmp_path, series="1")).max() <= 0.51
    assert field_errors(read_scan(tmp_path, series="2")).max() <= 0.51


def test_kernels_and_header_tilt_that_do_not_fit_are_remarked(tmp_path: Path) -> None:
    write_series(
        tmp_path,
        stepping(START, np.arange(5) * 3.0),
        ConvolutionKernel=["A", "A", "A", "B", "B"],
        GantryDetectorTilt=12.0,
        SliceThickness=None,
    )
    scan = read_scan(tmp_path)
    assert scan.kernel == "A"
    assert "several kernels in one series: A, B" in remarks(scan)
    assert "gantry tilt of 12°, the slice positions 0.0°" in remarks(scan)
    assert "slice thickness unknown" in remarks(scan)
    assert scan.slice_thickness_mm == pytest.approx(3.0)
    assert read_scan(tmp_path, slice_thickness_mm=4.5).slice_thickness_mm == 4.5


def test_single_slice_is_as_thick_as_its_header_says(tmp_path: Path) -> None:
    write_series(tmp_path, stepping(START, [0.0]))
    scan = read_scan(tmp_path)
    assert scan.hu.shape == (COLUMNS, ROWS, 1)
    assert scan.grid.spacing_mm[2] == pytest.approx(3.0)
    assert "only one slice" in remarks(scan)


@pytest.mark.parametrize("compressor", ["JPEG2000", "JPEG"])
def test_compression_that_pydicom_cannot_decode(
    tmp_path: Path, compressor: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cannot(dataset: pydicom.Dataset) -> None:
        raise RuntimeError("no decoder for this compression")

    write_series(tmp_path, stepping(START, np.arange(3) * 3.0))
    for path in tmp_path.glob("*.dcm"):
        plain = pydicom.dcmread(path)
        writer = sitk.ImageFileWriter()
        writer.SetUseCompression(True)
        writer.SetCompressor(compressor)
        writer.SetFileName(str(path))
        writer.Execute(sitk.Cast(sitk.ReadImage(str(path)) + 1024, sitk.sitkUInt16))
        packed = pydicom.dcmread(path)
        assert packed.file_meta.TransferSyntaxUID.is_compressed
        geometry = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing")
        for key in ("SOPClassUID", "Modality", "SeriesInstanceUID", *geometry):
            setattr(packed, key, plain[key].value)
        packed.RescaleSlope, packed.RescaleIntercept = 1, -1024
        packed.add_new("PixelPaddingValue", "US", 0)
        packed.save_as(path)
    monkeypatch.setattr(pydicom.Dataset, "pixel_array", property(cannot))
    scan = read_scan(tmp_path)
    assert scan.hu.shape == (COLUMNS, ROWS, 3)
    assert field_errors(scan).max() <= 0.51


def test_truncated_pixels_are_named(tmp_path: Path) -> None:
    write_series(tmp_path, stepping(START, np.arange(3) * 3.0))
    victim = sorted(tmp_path.glob("*.dcm"))[1]
    victim.write_bytes(victim.read_bytes()[:-900])
    with pytest.raises(UserError, match=rf"{victim.name}: the pixels cannot be decoded"):
        read_scan(tmp_path)


def test_folders_without_a_ct_series(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no file at all"):
        read_scan(tmp_path)
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(UserError, match="1 × not readable as DICOM"):
        read_scan(tmp_path)
    write_series(tmp_path, stepping(START, np.arange(3) * 3.0), Modality="MR")
    with pytest.raises(UserError, match=r"3 × modality MR \(expected CT\)"):
        read_scan(tmp_path)


def test_impossible_position_is_refused(tmp_path: Path) -> None:
    write_series(tmp_path, stepping(START, [0, 3, 6, 1e6]))
    with pytest.raises(UserError, match="span 1000000 mm"):
        read_scan(tmp_path)
