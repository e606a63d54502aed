from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, ImplicitVRLittleEndian, generate_uid
from scipy.ndimage import center_of_mass, map_coordinates

from data_modules.errors import UserError
from data_modules.scan.dicom import read_dicom
from data_modules.scan.scan import Scan, canonical_scan, read_scan

GE_SERIES = Path(__file__).parents[5] / "shared" / "data" / "ge_head_dicom"
ROWS, COLUMNS = 30, 40
PIXEL = (0.9, 0.7)  # DICOM's order: between rows (y), between columns (x)
AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
UID = "1.2.3.4.5"


def tilted(degrees: float) -> tuple[float, ...]:
    angle = np.radians(degrees)
    return (1.0, 0.0, 0.0, 0.0, float(np.cos(angle)), float(-np.sin(angle)))


def field(lps: np.ndarray) -> np.ndarray:
    """HU that linear interpolation restores exactly, different along each axis."""
    return 9.0 * lps[..., 0] - 7.0 * lps[..., 1] + 5.0 * lps[..., 2] - 250.0


def ball(lps: np.ndarray, center: tuple[float, float, float], radius: float) -> np.ndarray:
    """A ball with a soft edge, 1000 HU in water-like surroundings of −500."""
    distance = np.linalg.norm(lps - np.asarray(center), axis=-1)
    return -500.0 + 1500.0 * np.clip(radius + 0.5 - distance, 0.0, 1.0)


def pixel_positions(position: Any, orientation: Any) -> np.ndarray:
    """`[rows, columns, 3]` LPS of the pixel centres (DICOM PS3.3 C.7.6.2.1.1)."""
    row, column = np.meshgrid(np.arange(ROWS), np.arange(COLUMNS), indexing="ij")
    x, y = np.asarray(orientation[:3]), np.asarray(orientation[3:])
    return np.asarray(position) + column[..., None] * PIXEL[1] * x + row[..., None] * PIXEL[0] * y


def write_slice(path: Path, hu: np.ndarray, position: Any, orientation: Any = AXIAL, **tags: Any) -> None:
    """One CT file; `tags` override header elements, None removes them."""
    slope, intercept = tags.get("RescaleSlope", 1), tags.get("RescaleIntercept", -1024)
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    header = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    values = {
        "SOPClassUID": CTImageStorage,
        "SOPInstanceUID": meta.MediaStorageSOPInstanceUID,
        "PatientName": "Secret^Person",
        "Modality": "CT",
        "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
        "SeriesInstanceUID": UID,
        "SeriesNumber": 2,
        "InstanceNumber": 1,
        "ImagePositionPatient": [round(float(v), 6) for v in position],
        "ImageOrientationPatient": [round(float(v), 7) for v in orientation],
        "PixelSpacing": list(PIXEL),
        "Rows": hu.shape[0],
        "Columns": hu.shape[1],
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "BitsAllocated": 16,
        "BitsStored": 16,
        "HighBit": 15,
        "PixelRepresentation": 1,
        "RescaleSlope": slope,
        "RescaleIntercept": intercept,
        "SliceThickness": 3.0,
        "ConvolutionKernel": "H31s",
        "Manufacturer": "SIEMENS",
    }
    values.update(tags)
    for key, value in values.items():
        if value is not None:
            setattr(header, key, value)
    header.PixelData = np.rint((hu - intercept) / slope).astype("<i2").tobytes()
    header.save_as(path, enforce_file_format=True)


def write_series(
    folder: Path, positions: Any, orientation: Any = AXIAL, scene: Any = field, prefix: str = "s", **tags: Any
) -> None:
    """One file a position, names in shuffled order; a list among `tags` (of that length) gives a value a slice."""
    folder.mkdir(exist_ok=True)
    names = np.random.default_rng([7, len(positions)]).permutation(len(positions))
    for i, position in enumerate(positions):
        own = {key: value[i] if isinstance(value, list) else value for key, value in tags.items()}
        own.setdefault("InstanceNumber", i + 1)
        hu = scene(pixel_positions(position, orientation))
        write_slice(folder / f"{prefix}{names[i]:03d}.dcm", hu, position, orientation, **own)


def stepping(start: Any, heights: Any) -> list[np.ndarray]:
    """Positions above each other (along z), whatever the slices' orientation."""
    return [np.add(start, (0.0, 0.0, float(h))) for h in heights]


def lps_of(scan: Scan, index: Any) -> np.ndarray:
    return scan.grid.to_ras_mm(index) * (-1, -1, 1)


def field_errors(scan: Scan) -> np.ndarray:
    """|HU − field| of all voxels that are not air."""
    index = np.stack(np.meshgrid(*[np.arange(n) for n in scan.hu.shape], indexing="ij"), axis=-1)
    expected = field(lps_of(scan, index))
    return np.abs(scan.hu - expected)[scan.hu > -1024]


def remarks(scan: Scan) -> str:
    return "\n".join(scan.warnings)


START = (-14.0, -13.0, 10.0)


def test_regular_series_is_only_put_in_order(tmp_path: Path) -> None:
    write_series(tmp_path, stepping(START, np.arange(6) * 3.0))
    scan = read_scan(tmp_path)
    assert scan.hu.shape == (COLUMNS, ROWS, 6)
    assert scan.hu.dtype == np.int16
    np.testing.assert_allclose(
        scan.grid.affine, np.array([[-0.7, 0, 0, 14], [0, -0.9, 0, 13], [0, 0, 3, 10], [0, 0, 0, 1]]), atol=1e-6
    )
    assert field_errors(scan).max() <= 0.51
    assert field_errors(scan).size == scan.hu.size
    assert (scan.kernel, scan.manufacturer, scan.slice_thickness_mm) == ("H31s", "SIEMENS", 3.0)
    assert scan.slice_axis == 2
    assert scan.slice_thicknesses_mm is None
    assert scan.warnings == ()


def test_oblique_coronal_series_keeps_its_directions(tmp_path: Path) -> None:
    orientation = (0.0, 1.0, 0.0, 0.0, 0.0, -1.0)  # sagittal: rows run backwards, columns down; normal is −x
    positions = [np.array([20.0 - 2.0 * i, -15.0, 12.0]) for i in range(5)]
    write_series(tmp_path, positions, orientation)
    scan = read_scan(tmp_path)
    assert scan.hu.shape == (COLUMNS, ROWS, 5)
    assert scan.grid.axis_codes == "PIR"
    assert field_errors(scan).max() <= 0.51
    assert canonical_scan(scan).slice_axis == 0


@pytest.mark.parametrize("degrees", [18.5, -25.0])
def test_gantry_tilt_is_straightened(tmp_path: Path, degrees: float) -> None:
    orientation = tilted(degrees)
    write_series(tmp_path, stepping(START, np.arange(12) * 3.0), orientation, GantryDetectorTilt=degrees)
    scan = read_scan(tmp_path)
    perpendicular = 3.0 * np.cos(np.radians(degrees))
    assert scan.grid.is_orthogonal
    assert scan.grid.spacing_mm == pytest.approx((0.7, 0.9, perpendicular), abs=1e-5)
    slide = 11 * 3.0 * abs(np.sin(np.radians(degrees)))
    assert scan.hu.shape == (COLUMNS, ROWS + int(np.ceil(slide / 0.9)), 12)
    inside = scan.hu > -1024
    # each slice covers its own pixels, less the one that a shift by part of a pixel blends with air
    assert inside.sum(axis=(0, 1)).min() >= COLUMNS * (ROWS - 1)
    assert np.sort(field_errors(scan))[: COLUMNS * 12 * (ROWS - 2)].max() <= 1.01
    assert scan.gantry_tilt_deg == pytest.approx(degrees)
    assert "gantry tilt" in remarks(scan)
    assert scan.slice_thicknesses_mm is None


def test_ball_in_a_tilted_series_stays_at_its_place(tmp_path: Path) -> None:
    center, orientation = (1.0, 2.5, 27.0), tilted(20.0)
    write_series(
        tmp_path, stepping((-13.0, -14.0, 6.0), np.arange(24) * 2.0), orientation, lambda p: ball(p, center, 5.0)
    )
    scan = read_scan(tmp_path)
    found = lps_of(scan, center_of_mass(np.where(scan.hu > 250, 1.0, 0.0)))
    assert np.abs(found - center).max() < 0.35  # half the smallest spacing
    volume = (scan.hu > 250).sum() * scan.grid.voxel_volume_mm3
    assert volume == pytest.approx(4 / 3 * np.pi * 5.0**3, rel=0.05)
    # not sheared: second moments of a ball are alike along all axes
    spread = np.argwhere(scan.hu > 250) * scan.grid.spacing_mm
    assert np.abs(np.corrcoef(spread.T) - np.eye(3)).max() < 0.05


def test_thin_base_and_thick_vault_with_tilt_and_overlap_step(tmp_path: Path) -> None:
    heights = [*(np.arange(8) * 4.22), *(7 * 4.22 + 1.14 + np.arange(6) * 7.38)]
    write_series(tmp_path, stepping(START, heights), tilted(18.5), SliceThickness=[4.0] * 8 + [7.0] * 6)
    scan = read_scan(tmp_path)
    cosine = np.cos(np.radians(18.5))
    assert scan.grid.spacing_mm[2] == pytest.approx(4.22 * cosine, abs=1e-4)
    assert scan.slice_thicknesses_mm is not None
    # 7.1 mm steps sampled every 4.0 mm: the first eight output slices are the thin ones themselves
    assert scan.slice_thicknesses_mm[:8] == (4.0,) * 8
    assert set(scan.slice_thicknesses_mm[8:]) == {7.0}
    top = heights[-1] * cosine + 3.5
    assert len(scan.slice_thicknesses_mm) == int(top / (4.22 * cosine)) + 1
    assert "8 slices of 4 mm, 6 slices of 7 mm" in remarks(scan)
    assert "missing" not in remarks(scan)
    # away from the field of view's edges (where a neighbour is air) and from the extrapolated end all is exact
    middle = scan.hu[:, 26:30, :-1]
    index = np.stack(np.meshgrid(*[np.arange(n) for n in scan.hu.shape], indexing="ij"), axis=-1)[:, 26:30, :-1]
    expected = field(lps_of(scan, index))
    assert (middle > -1024).mean() > 0.9
    assert np.abs(middle - expected)[middle > -1024].max() <= 1.01


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


def test_unevenly_spaced_slices_are_interpolated(tmp_path: Path) -> None:
    heights = [0, 2.0, 4.0, 6.0, 11.0, 16.0, 21.0]
    write_series(tmp_path, stepping(START, heights), SliceThickness=2.0)
    scan = read_scan(tmp_path)
    assert scan.grid.spacing_mm[2] == pytest.approx(2.0)
    assert scan.hu.shape[2] == 12  # 0, 2, … 22 (half a slice beyond the last)
    inner = Scan(hu=scan.hu[..., :-1], grid=scan.grid.crop((0, 0, 0), (COLUMNS, ROWS, 11)), slice_thickness_mm=2.0)
    assert field_errors(inner).max() <= 1.01
    assert "resampled every 2.00 mm" in remarks(scan)
    assert "missing" not in remarks(scan)


def test_missing_slices_are_named_and_interpolated(tmp_path: Path) -> None:
    heights = np.array([0, 1, 2, 3, 6, 7, 8, 9]) * 3.0  # two missing after the fourth
    write_series(tmp_path, stepping(START, heights))
    scan = read_scan(tmp_path)
    assert scan.hu.shape[2] == 10
    assert scan.grid.spacing_mm[2] == pytest.approx(3.0)
    assert field_errors(scan).max() <= 1.01
    assert "about 2 slices missing: the gap of 9.0 mm after slice 4 of 8" in remarks(scan)


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


def test_thick_slices_inside_a_thin_block_are_left_out(tmp_path: Path) -> None:
    write_series(tmp_path, stepping(START, np.arange(8) * 2.0), SliceThickness=2.0)
    write_series(
        tmp_path, stepping(START, [9.0, 16.0, 23.0, 30.0]), prefix="t", SliceThickness=7.0, scene=lambda p: field(p) + 0
    )
    stack = read_dicom(tmp_path).stack
    assert len(stack.planes) == 12
    scan = read_scan(tmp_path)
    assert "1 slices lie within thinner ones" in remarks(scan)
    assert scan.slice_thicknesses_mm is not None
    assert scan.slice_thicknesses_mm[:8] == (2.0,) * 8


def test_rescale_and_padding_are_per_slice(tmp_path: Path) -> None:
    def scene(p: np.ndarray) -> np.ndarray:
        hu = np.full(p.shape[:2], -100.0)
        hu[:, 10:] = 200.0
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
    for k in range(4):
        plane = scan.hu[..., k].T
        assert (plane[:4] == -1024).all()
        assert plane[4, 0] == -1024
        assert (plane[5:, :10] == -100).all()
        assert (plane[4:, 10:] == 200).all()


def test_padding_written_unsigned_though_pixels_are_signed(tmp_path: Path) -> None:
    def scene(p: np.ndarray) -> np.ndarray:
        hu = field(p)
        hu[:3] = -950.0
        return hu

    write_series(tmp_path, stepping(START, np.arange(3) * 3.0), scene=scene, RescaleIntercept=0)
    for path in tmp_path.glob("*.dcm"):
        header = pydicom.dcmread(path)
        header.add_new("PixelPaddingValue", "US", 65536 - 950)
        header.save_as(path)
    hu = read_scan(tmp_path).hu
    assert (hu[:, :3] == -1024).all()
    assert (hu[:, 3:] > -950).all()


def test_padding_range_and_padding_of_zero(tmp_path: Path) -> None:
    def scene(p: np.ndarray) -> np.ndarray:
        hu = np.zeros(p.shape[:2])
        hu[:6] = np.linspace(3050, 3060, 6)[:, None]
        hu[6:8] = -900.0
        return hu

    write_series(
        tmp_path / "range",
        stepping(START, np.arange(3) * 3.0),
        scene=scene,
        RescaleIntercept=0,
        PixelPaddingValue=3050,
        PixelPaddingRangeLimit=3060,
    )
    hu = read_scan(tmp_path / "range").hu
    assert (hu[:, :6] == -1024).all()
    assert (hu[:, 8:] == 0).all()
    # water is stored as 0 and the header calls 0 padding: water stays
    write_series(
        tmp_path / "zero", stepping(START, np.arange(3) * 3.0), scene=scene, RescaleIntercept=0, PixelPaddingValue=0
    )
    hu = read_scan(tmp_path / "zero").hu
    assert (hu[:, 8:] == 0).all()
    assert (hu[:, 6:8] == -900).all()


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


def test_what_is_no_ct_slice_is_left_out_and_counted(tmp_path: Path) -> None:
    write_series(tmp_path, stepping(START, np.arange(4) * 3.0))
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "notes.txt").write_text("not DICOM")
    (tmp_path / "DICOMDIR").write_text("index")
    one = stepping(START, [50.0])
    others: dict[str, dict[str, Any]] = {
        "localizer": {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]},
        "mr": {"Modality": "MR"},
        "rgb": {"SamplesPerPixel": 3},
        "frames": {"NumberOfFrames": 4},
        "nowhere": {"ImagePositionPatient": None},
        "empty": {"Rows": None},
        "skewed": {},
    }
    for name, tags in others.items():
        orientation = (1, 0, 0, 0.5, 0.5, 0) if name == "skewed" else AXIAL
        position, hu = one[0], np.zeros((ROWS, COLUMNS))
        write_slice(tmp_path / f"{name}.dcm", hu, position, orientation, **{"SeriesInstanceUID": "1.9", **tags})
    write_slice(tmp_path / "single.dcm", np.zeros((ROWS, COLUMNS)), START, (0, 1, 0, 0, 0, -1), SeriesInstanceUID="1.8")
    scan = read_scan(tmp_path)
    assert scan.hu.shape[2] == 4
    text = remarks(scan)
    for reason in (
        "localizer",
        "modality MR",
        "colour image",
        "multi-frame",
        "no position",
        "no image",
        "right-angled unit vectors",
        "not readable as DICOM",
        "1 single images with a geometry of their own",
    ):
        assert reason in text


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


def test_file_without_preamble_is_read(tmp_path: Path) -> None:
    write_series(tmp_path, stepping(START, np.arange(3) * 3.0))
    for path in tmp_path.glob("*.dcm"):
        header = pydicom.dcmread(path)
        header.file_meta = FileMetaDataset()
        header.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
        header.preamble = None
        pydicom.dcmwrite(path, header, enforce_file_format=False, implicit_vr=True, little_endian=True)
        content = path.read_bytes()
        assert content[128:132] != b"DICM"
    scan = read_scan(tmp_path)
    assert field_errors(scan).max() <= 0.51


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
        for key in ("Modality", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SeriesInstanceUID"):
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


def test_values_that_are_no_hu_are_refused(tmp_path: Path) -> None:
    write_series(tmp_path, stepping(START, np.arange(3) * 3.0), scene=lambda p: field(p) + 2000)
    with pytest.raises(UserError, match="stored with an offset"):
        read_scan(tmp_path)


@pytest.fixture(scope="module")
def ge_scan() -> Scan:
    if not GE_SERIES.is_dir():
        pytest.skip(f"real CT not there: {GE_SERIES}")
    return read_scan(GE_SERIES)


def test_real_tilted_series_grid(ge_scan: Scan) -> None:
    cosine = np.cos(np.radians(18.5))
    assert ge_scan.grid.is_orthogonal
    assert ge_scan.grid.spacing_mm == pytest.approx((0.4882812, 0.4882812, 4.22 * cosine), abs=1e-4)
    assert ge_scan.gantry_tilt_deg == 18.5
    assert ge_scan.hu.min() == -1024
    assert ge_scan.slice_thicknesses_mm is not None
    assert ge_scan.slice_thicknesses_mm[:14] == (4.0,) * 14
    assert set(ge_scan.slice_thicknesses_mm[14:]) == {7.0}
    assert "missing" not in remarks(ge_scan)


def test_real_slices_lie_where_their_headers_say(ge_scan: Scan) -> None:
    """Read at the places that a raw slice's header gives, the result holds that slice.

    Controls, measured: half a slice higher the thin slices differ by 183 HU and their brightest pixels by 83 HU at
    least, 1 mm further back by 153 and 83 HU; thick slices, interpolated from a slice more than 3 mm off, by
    122 HU where they are and by 222 and 156 HU there.
    """
    result = ge_scan.hu.astype(np.float32)

    def read(header: pydicom.Dataset, row: np.ndarray, column: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        x, y = np.asarray(header.ImageOrientationPatient, float).reshape(2, 3)
        step = float(header.PixelSpacing[0])
        lps = np.asarray(header.ImagePositionPatient, float) + step * (column[:, None] * x + row[:, None] * y)
        index = ge_scan.grid.to_index(lps * (-1, -1, 1))
        return map_coordinates(result, index.T, order=1, mode="nearest"), index[:, 2]

    for number in range(1, 29):
        header = pydicom.dcmread(GE_SERIES / f"{number:02d}.dcm")
        raw, thin = header.pixel_array, number <= 14
        row, column = (part[::6, ::6].ravel() for part in np.mgrid[0:512, 0:512])
        row, column = row[raw[row, column] > -500], column[raw[row, column] > -500]
        found, level = read(header, row, column)
        assert np.sqrt(np.mean((found - raw[row, column]) ** 2)) < (20 if thin else 140)
        if thin:
            np.testing.assert_allclose(level, number - 1, atol=0.01)
            landmark = np.nonzero(raw >= np.sort(raw.ravel())[-300])  # the brightest bone
            assert np.abs(read(header, *landmark)[0] - raw[landmark]).mean() < 40


def test_real_skull_is_not_sheared(ge_scan: Scan) -> None:
    """In the mid-sagittal view the vault closes evenly: the line midway between its front and back stands upright.

    In the raw, sheared array it leans by 0.37, tan(18.5°) being 0.33.
    """
    scan = canonical_scan(ge_scan)
    middle = scan.hu[scan.hu.shape[0] // 2]  # [Y, Z]
    centres = []
    for k in range(20, 36):
        bone = np.flatnonzero(middle[:, k] > 300)
        centres.append((bone[0] + bone[-1]) / 2 * scan.grid.spacing_mm[1])
    lean = np.polyfit(np.arange(16) * scan.grid.spacing_mm[2], centres, 1)[0]
    assert abs(lean) < 0.1
