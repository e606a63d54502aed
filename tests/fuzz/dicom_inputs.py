"""Damaged DICOM series, and ordinary ones of rare kinds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.uid import ExplicitVRBigEndian, ImplicitVRLittleEndian, generate_uid

from data_modules.scan.reading import read_scan
from tests.dicom_series import write_slice
from tests.fuzz import head
from tests.fuzz.head import Truth
from tests.fuzz.judging import Maker, Trial, Wanted

Generator = np.random.Generator

SLICES = head.SHAPE[2]
LPS = np.array([-1.0, -1.0, 1.0])
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"


def start_lps() -> Any:
    """Place of the pixel (0, 0) of the lowest slice: right, front, bottom, since LPS runs to the left and back."""
    return _corner() * LPS


def _corner() -> Any:
    return head.affine()[:3, 3] + np.array([(head.SHAPE[k] - 1) * head.SPACING_MM[k] if k < 2 else 0 for k in range(3)])


def pixels(k: int) -> Any:
    """`[rows, columns]` HU of a slice: rows run to the back, columns to the left."""
    return head.simulated_hu()[::-1, ::-1, k].T


def write(folder: Path, heights: Callable[[int], float] | None = None, first: int = 0, **tags: Any) -> Path:
    """The head as a series; `tags` may be functions of the slice."""
    folder.mkdir(exist_ok=True)
    for k in range(SLICES):
        own = {key: value(k) if callable(value) else value for key, value in tags.items()}
        height = k * head.SPACING_MM[2] if heights is None else heights(k)
        usual = {
            "PixelSpacing": [head.SPACING_MM[1], head.SPACING_MM[0]],
            "SliceThickness": head.THICKNESS_MM,
            "ConvolutionKernel": head.KERNEL,
            "InstanceNumber": k + 1,
            "RescaleType": "HU",
            "AcquisitionNumber": 1,
        }
        write_slice(folder / f"{first + k:03d}.dcm", pixels(k), np.add(start_lps(), (0, 0, height)), **(usual | own))
    return folder


def files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.dcm"))


def changed(folder: Path, number: int, change: Callable[[pydicom.Dataset], None]) -> None:
    """One file written again after a change."""
    path = files(folder)[number]
    dataset = pydicom.dcmread(path)
    change(dataset)
    dataset.save_as(path)


def trial(folder: Path, wanted: Wanted = Wanted.HONESTY, names: str = "", expected: Truth | None = None) -> Trial:
    return Trial(lambda: read_scan(folder), (expected or Truth()).differs, wanted, names=names)


def some(rng: Generator, most: int = SLICES) -> set[int]:
    """Slices that a damage befalls: one, some, or nearly all."""
    return set(rng.choice(SLICES, int(rng.choice([1, 2, most // 2, most])), replace=False).tolist())


# --- which slices -----------------------------------------------------------------------------------------------


def slices_missing(rng: Generator, folder: Path) -> Trial:
    series = write(folder / "scan")
    for k in rng.choice(np.arange(1, SLICES - 1), rng.integers(1, 10), replace=False):
        (series / f"{k:03d}.dcm").unlink()
    return trial(series, names="missing|interpolat|gap|slices")


def slices_twice(rng: Generator, folder: Path) -> Trial:
    series = write(folder / "scan")
    for k in some(rng):
        (series / f"copy{k}.dcm").write_bytes((series / f"{k:03d}.dcm").read_bytes())
    return trial(series, Wanted.VALUES)


def twice_with_positions_rounded(rng: Generator, folder: Path) -> Trial:
    series = write(folder / "scan")
    away = rng.uniform(0.005, 0.06)
    write(series, heights=lambda k: k * head.SPACING_MM[2] + away, first=500)
    return trial(series, names="duplicat|same place|reconstruction|left out")


def slice_far_away(rng: Generator, folder: Path) -> Trial:
    lone, away = int(rng.choice([0, SLICES - 1, 5])), float(rng.choice([-1, 1])) * rng.uniform(60, 900)
    series = write(folder / "scan", heights=lambda k: k * head.SPACING_MM[2] + (away if k == lone else 0))
    found = trial(series)
    hu = head.simulated_hu()

    def differs(scan: Any) -> str:
        if scan.hu.shape[2] > SLICES:
            return f"{scan.hu.shape[2] - SLICES} slices were invented"
        return "" if scan.warnings else f"{hu.shape[2]} slices became {scan.hu.shape[2]} without a word"

    return Trial(found.read, differs, warnings=lambda _: ())


def positions_all_equal(rng: Generator, folder: Path) -> Trial:
    return trial(write(folder / "scan", heights=lambda k: 0.0), Wanted.REFUSAL)


def two_acquisitions(rng: Generator, folder: Path) -> Trial:
    series = write(folder / "scan")
    shift = float(rng.choice([0.5, 0.3]))
    write(series, heights=lambda k: (k + shift) * head.SPACING_MM[2], first=500, AcquisitionNumber=2)
    return trial(series, names="acquisition")


def secondary_captures(rng: Generator, folder: Path) -> Trial:
    series = write(folder / "scan")
    place = np.add(start_lps(), (0, 0, SLICES * head.SPACING_MM[2] + rng.uniform(0, 40)))
    hu = rng.integers(0, 3000, pixels(0).shape)
    tags = {"SOPClassUID": SECONDARY_CAPTURE, "ImageType": ["DERIVED", "SECONDARY", "SCREEN SAVE"]}
    write_slice(series / "900.dcm", hu, place, PixelSpacing=[head.SPACING_MM[1], head.SPACING_MM[0]], **tags)
    return trial(series, Wanted.VALUES)


def another_frame_of_reference(rng: Generator, folder: Path) -> Trial:
    """Two tables, so to speak: the second part lies elsewhere, though its positions go on from those of the first."""
    half = int(rng.integers(3, 11))
    one, other = generate_uid(), generate_uid()
    series = write(folder / "scan", FrameOfReferenceUID=lambda k: one if k < half else other)
    return trial(series, Wanted.REFUSAL)


def a_series_for_each_slice(rng: Generator, folder: Path) -> Trial:
    return trial(write(folder / "scan", SeriesInstanceUID=lambda k: f"1.2.3.{k}"))


def orientation_that_drifts(rng: Generator, folder: Path) -> Trial:
    step = np.radians(rng.uniform(0.01, 0.1))

    def orientation(k: int) -> list[float]:
        return [round(float(v), 9) for v in (1, 0, 0, 0, np.cos(k * step), -np.sin(k * step))]

    return trial(write(folder / "scan", ImageOrientationPatient=orientation), names="tilt|drift|orientation|step")


def an_odd_orientation(rng: Generator, folder: Path) -> Trial:
    odd, bad = some(rng, 6), [[0, 0, 1, 0, 1, 0], [1, 0, 0, 0, -1, 0], [0] * 6, [1, 0, 0, 1, 0, 0], [9, 0, 0, 0, 1, 0]]
    wrong = bad[rng.integers(len(bad))]
    series = write(folder / "scan", ImageOrientationPatient=lambda k: wrong if k in odd else [1, 0, 0, 0, 1, 0])
    return trial(series, names="left out|missing|orientation|slices")


def of_another_class(rng: Generator, folder: Path) -> Trial:
    name = str(rng.choice([SECONDARY_CAPTURE, "1.2.840.10008.5.1.4.1.1.4", "1.2.840.10008.5.1.4.1.1.88.11"]))
    return trial(write(folder / "scan", SOPClassUID=name), Wanted.REFUSAL)


def localizers_beside(rng: Generator, folder: Path) -> Trial:
    series = write(folder / "scan")
    kind = [["ORIGINAL", "PRIMARY", "LOCALIZER"], ["DERIVED", "SECONDARY", "SCOUT"]][rng.integers(2)]
    write_slice(series / "900.dcm", np.zeros((60, 40)), start_lps(), [0, 1, 0, 0, 0, -1], ImageType=kind)
    return trial(series, Wanted.VALUES)


# --- values -----------------------------------------------------------------------------------------------------


def no_rescale_tags(rng: Generator, folder: Path) -> Trial:
    """Stored with an offset, and nothing says so; in all slices or in some."""
    lost = some(rng) if rng.random() < 0.5 else set(range(SLICES))
    series = write(folder / "scan", PixelPaddingValue=-2000)
    for k in lost:
        changed(series, k, _without("RescaleIntercept", "RescaleSlope"))
    return trial(series, Wanted.REFUSAL)


def _without(*names: str) -> Callable[[pydicom.Dataset], None]:
    def remove(dataset: pydicom.Dataset) -> None:
        for name in names:
            del dataset[name]

    return remove


def _setting(name: str, value: Any) -> Callable[[pydicom.Dataset], None]:
    def put(dataset: pydicom.Dataset) -> None:
        setattr(dataset, name, value)

    return put


def odd_slope(rng: Generator, folder: Path) -> Trial:
    series, value = write(folder / "scan"), float(rng.choice([0.0, -1.0, 1e6, 1e-6, 100.0]))
    for k in some(rng) if rng.random() < 0.4 else range(SLICES):
        changed(series, k, _setting("RescaleSlope", value))
    return trial(series, names="rescale|slope|HU|constant")


def odd_intercept(rng: Generator, folder: Path) -> Trial:
    series, value = write(folder / "scan"), float(rng.choice([0.0, 1024.0, -2048.0, 1e6, -8192.0]))
    for k in some(rng) if rng.random() < 0.4 else range(SLICES):
        changed(series, k, _setting("RescaleIntercept", value))
    return trial(series, names="rescale|intercept|HU|constant|air|offset")


def no_hounsfield_by_type(rng: Generator, folder: Path) -> Trial:
    name = str(rng.choice(["MGML", "Z_EFF", "ED", "EDW", "HU_MOD", "PCT", "OD"]))
    return trial(write(folder / "scan", RescaleType=name), Wanted.REFUSAL)


def unspecified_type(rng: Generator, folder: Path) -> Trial:
    value = [None, "", "US", "HU ", "hu"][rng.integers(5)]
    return trial(write(folder / "scan", RescaleType=value), Wanted.VALUES)


def with_contrast(rng: Generator, folder: Path) -> Trial:
    """The values are true; that they are not to be read as calcium has to be said."""
    agent = str(rng.choice(["Iomeprol 400", "CE", "APPLIED", "yes"]))
    found = trial(write(folder / "scan", ContrastBolusAgent=agent))

    def differs(scan: Any) -> str:
        return "" if any("contrast" in w.lower() for w in scan.warnings) else "contrast is not mentioned"

    return Trial(found.read, differs, Wanted.VALUES)


def constant_slices(rng: Generator, folder: Path) -> Trial:
    series = write(folder / "scan", RescaleIntercept=0)
    for k in rng.choice(np.arange(4, 10), rng.integers(1, 4), replace=False):
        changed(series, int(k), lambda dataset: setattr(dataset, "PixelData", bytes(len(dataset.PixelData))))
    return trial(series, names="constant|zero|empty|one value")


def windowed_pixels(rng: Generator, folder: Path) -> Trial:
    series, high = write(folder / "scan"), int(rng.integers(100, 280))

    def clip(dataset: pydicom.Dataset) -> None:
        stored = np.minimum(np.frombuffer(dataset.PixelData, "<i2"), high + 1024)
        dataset.PixelData = stored.astype("<i2").tobytes()

    for k in range(SLICES):
        changed(series, k, clip)
    return trial(series, Wanted.REFUSAL)


def lossy(rng: Generator, folder: Path) -> Trial:
    series = write(folder / "scan", LossyImageCompression="01", LossyImageCompressionRatio=10.0)
    found = trial(series)

    def differs(scan: Any) -> str:
        return "" if any("loss" in w.lower() for w in scan.warnings) else "lossy compression is not mentioned"

    return Trial(found.read, differs, Wanted.VALUES)


# --- files ------------------------------------------------------------------------------------------------------


def short_pixels(rng: Generator, folder: Path) -> Trial:
    series = write(folder / "scan")
    for k in some(rng, 4):
        kept = int(rng.choice([0, 2, rng.integers(2, 4000)]))
        changed(series, k, lambda d, kept=kept: setattr(d, "PixelData", d.PixelData[: kept // 2 * 2]))
    return trial(series, names=r"\.dcm|missing|left out")


def long_pixels(rng: Generator, folder: Path) -> Trial:
    series, more = write(folder / "scan"), int(rng.choice([2, 20, 4784]))
    changed(series, 6, lambda d: setattr(d, "PixelData", d.PixelData + bytes(more)))
    return trial(series)


def file_cut_off(rng: Generator, folder: Path) -> Trial:
    series = write(folder / "scan")
    for k in some(rng, 4):
        path = files(series)[k]
        path.write_bytes(path.read_bytes()[: int(rng.integers(path.stat().st_size))])
    return trial(series, names=r"\.dcm|missing|left out|DICOM")


def bit_flipped_in_header(rng: Generator, folder: Path) -> Trial:
    series = write(folder / "scan")
    path = files(series)[rng.integers(1, SLICES - 1)]
    content = bytearray(path.read_bytes())
    content[rng.integers(128, len(content) - pixels(0).size * 2)] ^= 1 << rng.integers(8)
    path.write_bytes(content)
    return trial(series)


def bit_flipped_in_every_header(rng: Generator, folder: Path) -> Trial:
    """The same in all: nothing within the series contradicts it."""
    series = write(folder / "scan")
    one = files(series)[0].read_bytes()
    bit, at = 1 << rng.integers(8), int(rng.integers(340, len(one) - pixels(0).size * 2))
    for path in files(series):
        content = bytearray(path.read_bytes())
        content[at] ^= bit
        path.write_bytes(content)
    found = trial(series)
    said = [pydicom.dcmread(path, force=True) for path in files(series)]

    def differs(scan: Any) -> str:
        expected = next(_truths_of(said), None)
        return "" if expected is None else expected.differs(scan)

    return Trial(found.read, differs)


def _truths_of(said: list[pydicom.Dataset]) -> Iterator[Truth]:
    """What plausible headers say of thickness and kernel, which is the truth then; nothing where they are odd."""
    try:
        thickness, kernel = said[0].get("SliceThickness"), said[0].get("ConvolutionKernel")
        plausible = thickness is not None and 0.1 <= float(thickness) <= 20
        named = isinstance(kernel, str)
        yield Truth(thickness_mm=float(thickness) if plausible else None, kernel=kernel if named else None)
    except Exception:
        return


def rubbish_in_file(rng: Generator, folder: Path) -> Trial:
    series = write(folder / "scan")
    path = files(series)[rng.integers(SLICES)]
    content = bytearray(path.read_bytes())
    at, length = int(rng.integers(0, len(content) - pixels(0).size * 2)), int(rng.integers(2, 40))
    content[at : at + length] = rng.bytes(length)
    path.write_bytes(content)
    return trial(series)


TAGS = (
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
    "Rows",
    "Columns",
    "BitsAllocated",
    "BitsStored",
    "PixelRepresentation",
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "RescaleSlope",
    "RescaleIntercept",
    "Modality",
    "SOPClassUID",
    "SeriesInstanceUID",
    "InstanceNumber",
    "PixelData",
    "ImageType",
)
OPTIONAL = ("SliceThickness", "ConvolutionKernel", "Manufacturer", "AcquisitionNumber", "SeriesNumber")


def tag_missing(rng: Generator, folder: Path) -> Trial:
    series, name = write(folder / "scan"), str(rng.choice(TAGS))
    for k in some(rng) if rng.random() < 0.5 else range(SLICES):
        changed(series, k, _without(name))
    return trial(series)


def optional_tag_missing(rng: Generator, folder: Path) -> Trial:
    series, name = write(folder / "scan"), str(rng.choice(OPTIONAL))
    for k in range(SLICES):
        changed(series, k, _without(name))
    expected = Truth(
        thickness_mm=None if name == "SliceThickness" else head.THICKNESS_MM,
        kernel="" if name == "ConvolutionKernel" else head.KERNEL,
    )
    return trial(series, Wanted.VALUES, expected=expected)


GARBLED = {
    "SliceThickness": [b"4,0 ", b"four", b"", b"-4", b"0", b"4000", b"0.004", b"1e99", b"nan ", b"4\\4 "],
    "PixelSpacing": [b"1,7\\1,6 ", b"1.7 ", b"0\\0 ", b"-1.7\\1.6", b"1700\\1600 ", b"0.0017\\0.0016 ", b"nan\\nan "],
    "ImagePositionPatient": [b"0\\0 ", b"a\\b\\c ", b"nan\\0\\0 ", b"1e30\\0\\0", b"", b"0,5\\0\\0 "],
    "ImageOrientationPatient": [b"1\\0\\0\\0\\1", b"1\\0\\0\\1\\0\\0 ", b"0\\0\\0\\0\\0\\0 ", b"nan\\0\\0\\0\\1\\0"],
    "RescaleIntercept": [b"-1024,0", b"x ", b"", b"nan ", b"1e300 ", b"-1024\\0 "],
    "RescaleSlope": [b"1,0 ", b"x ", b"", b"nan ", b"inf ", b"1\\1 "],
    "InstanceNumber": [b"one ", b"1.5 ", b"99999999999 "],
    "SeriesNumber": [b"two ", b"99999999999 "],
    "GantryDetectorTilt": [b"5,0 ", b"ten ", b"90", b"nan "],
    "ConvolutionKernel": [b"\xff\xfe", b"\\", b""],
    "PixelPaddingValue": [b"-2000 ", b"\x00\x00\x01\x00", b"\x18\xfc", b""],
}


def tag_garbled(rng: Generator, folder: Path) -> Trial:
    """The bytes of a value replaced, with the VR that the tag has or a wrong one."""
    series = write(folder / "scan", PixelPaddingValue=-2000, GantryDetectorTilt=0.0)
    name = str(rng.choice(list(GARBLED)))
    value = GARBLED[name][rng.integers(len(GARBLED[name]))]
    kind = str(rng.choice(["own", "own", "LO", "UN"]))
    for k in some(rng) if rng.random() < 0.3 else range(SLICES):
        path = files(series)[k]
        dataset = pydicom.dcmread(path)
        element = dataset[name]
        own = element.VR if kind == "own" else kind
        raw = pydicom.dataelem.RawDataElement(element.tag, own, len(value), value, 0, False, True)
        dataset._dict[element.tag] = raw
        dataset.save_as(path)
    expected = Truth()
    if name in ("SliceThickness", "ConvolutionKernel"):
        expected = Truth(
            thickness_mm=None if name == "SliceThickness" and value in (b"four", b"", b"nan ") else head.THICKNESS_MM,
            kernel=None if name == "ConvolutionKernel" else head.KERNEL,
        )
    return trial(series, expected=expected)


def odd_sizes(rng: Generator, folder: Path) -> Trial:
    name = str(rng.choice(["Rows", "Columns", "BitsAllocated", "BitsStored", "PixelRepresentation", "HighBit"]))
    value = int(rng.choice([0, 1, 7, 8, 12, 32, 45, 60000]))
    series = write(folder / "scan")
    for k in some(rng) if rng.random() < 0.4 else range(SLICES):
        changed(series, k, _setting(name, value))
    return trial(series)


def in_another_encoding(rng: Generator, folder: Path) -> Trial:
    series = write(folder / "scan")
    syntax = [ImplicitVRLittleEndian, ExplicitVRBigEndian][rng.integers(2)]
    for path in files(series):
        dataset = pydicom.dcmread(path)
        dataset.file_meta.TransferSyntaxUID = syntax
        little = syntax.is_little_endian
        if not little:
            dataset.PixelData = np.frombuffer(dataset.PixelData, "<i2").astype(">i2").tobytes()
        pydicom.dcmwrite(path, dataset, implicit_vr=syntax.is_implicit_VR, little_endian=little)
    return trial(series, Wanted.VALUES)


def without_transfer_syntax(rng: Generator, folder: Path) -> Trial:
    series = write(folder / "scan")
    for path in files(series):
        dataset = pydicom.dcmread(path)
        del dataset.file_meta.TransferSyntaxUID
        pydicom.dcmwrite(path, dataset, implicit_vr=False, little_endian=True, enforce_file_format=False)
    return trial(series)


def compressed(rng: Generator, folder: Path) -> Trial:
    series = write(folder / "scan", PixelRepresentation=0)
    for path in files(series):
        dataset = pydicom.dcmread(path)
        dataset.compress(pydicom.uid.RLELossless)
        if rng.random() < 0.1:
            dataset.PixelData = dataset.PixelData[: len(dataset.PixelData) // 2]
        dataset.save_as(path)
    return trial(series, names=r"\.dcm|missing|left out")


def strange_folder(rng: Generator, folder: Path) -> Trial:
    """Everything that lies beside scans in real folders."""
    series = write(folder / "scan")
    for name, content in (("DICOMDIR", b"x"), ("readme.txt", b"hello"), ("zeros", bytes(4000)), (".DS_Store", b"x")):
        if rng.random() < 0.7:
            (series / name).write_bytes(content)
    (series / "loop").symlink_to(series)
    (series / "nowhere").symlink_to(series / "not there")
    return trial(series, Wanted.VALUES)


def linked_folder(rng: Generator, folder: Path) -> Trial:
    series = write(folder / "elsewhere")
    (folder / "scan").mkdir()
    (folder / "scan" / "series").symlink_to(series)
    return trial(folder / "scan", Wanted.VALUES)


def nothing_to_read(rng: Generator, folder: Path) -> Trial:
    (folder / "scan").mkdir()
    for k in range(rng.integers(3)):
        (folder / "scan" / f"{k}.dcm").write_bytes(rng.bytes(int(rng.integers(400))))
    return trial(folder / "scan", Wanted.REFUSAL)


MAKERS: tuple[Maker, ...] = (
    slices_missing,
    slices_twice,
    twice_with_positions_rounded,
    slice_far_away,
    positions_all_equal,
    two_acquisitions,
    secondary_captures,
    another_frame_of_reference,
    a_series_for_each_slice,
    orientation_that_drifts,
    an_odd_orientation,
    of_another_class,
    localizers_beside,
    no_rescale_tags,
    odd_slope,
    odd_intercept,
    no_hounsfield_by_type,
    unspecified_type,
    with_contrast,
    constant_slices,
    windowed_pixels,
    lossy,
    short_pixels,
    long_pixels,
    file_cut_off,
    bit_flipped_in_header,
    bit_flipped_in_every_header,
    rubbish_in_file,
    tag_missing,
    optional_tag_missing,
    tag_garbled,
    odd_sizes,
    in_another_encoding,
    without_transfer_syntax,
    compressed,
    strange_folder,
    linked_folder,
    nothing_to_read,
)
