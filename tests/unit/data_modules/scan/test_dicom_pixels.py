"""Pixels that are not what the header says: named with their file, never made up."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.encaps import encapsulate
from pydicom.uid import JPEG2000Lossless, RLELossless

from data_modules.errors import UserError
from data_modules.scan.reading import read_scan
from tests.dicom_series import COLUMNS, ROWS, START, field_errors, stepping, write_series

WHOLE = ROWS * COLUMNS * 2


def folder_with(tmp_path: Path, change: Callable[[pydicom.FileDataset], None], *, every: bool = False) -> Path:
    """A series of which one slice (or every) is changed and written again."""
    write_series(tmp_path, stepping(START, np.arange(4) * 3.0))
    for path in sorted(tmp_path.glob("*.dcm"))[2:] if not every else tmp_path.glob("*.dcm"):
        header = pydicom.dcmread(path)
        change(header)
        header.save_as(path)
        if not every:
            return path
    return tmp_path


@pytest.mark.parametrize("n_bytes", [0, 2, WHOLE - 2, WHOLE + 2 * COLUMNS, 2 * WHOLE])
def test_too_few_and_too_many_bytes(tmp_path: Path, n_bytes: int) -> None:
    def change(header: pydicom.Dataset) -> None:
        header.PixelData = (header.PixelData * 2)[:n_bytes]

    path = folder_with(tmp_path, change)
    with pytest.raises(UserError, match=rf"{path.name}: the pixels cannot be decoded \({n_bytes} bytes, where 30 rows"):
        read_scan(tmp_path)


def test_padding_behind_the_pixels_is_no_fault(tmp_path: Path) -> None:
    def change(header: pydicom.Dataset) -> None:
        header.PixelData = header.PixelData + bytes(2 * COLUMNS - 2)

    folder_with(tmp_path, change)
    assert field_errors(read_scan(tmp_path)).max() <= 0.51


@pytest.mark.parametrize("key", ["Rows", "Columns"])
def test_rows_and_columns_that_do_not_fit_the_pixels(tmp_path: Path, key: str) -> None:
    folder_with(tmp_path, lambda header: setattr(header, key, getattr(header, key) // 2), every=True)
    with pytest.raises(UserError, match=r"\.dcm: the pixels cannot be decoded \(2400 bytes, where"):
        read_scan(tmp_path)


@pytest.mark.parametrize("bits", [1, 17])
def test_bits_that_no_pixel_has(tmp_path: Path, bits: int) -> None:
    path = folder_with(tmp_path, lambda header: setattr(header, "BitsStored", bits))
    with pytest.raises(UserError, match=rf"{path.name}: .*\(BitsStored {bits}, where BitsAllocated is 16\)"):
        read_scan(tmp_path)


def test_no_pixels_at_all(tmp_path: Path) -> None:
    path = folder_with(tmp_path, lambda header: header.__delattr__("PixelData"))
    with pytest.raises(UserError, match=f"{path.name}: the pixels cannot be decoded"):
        read_scan(tmp_path)


def test_bytes_that_have_slipped_in(tmp_path: Path) -> None:
    path = folder_with(tmp_path, lambda header: None)
    content = path.read_bytes()
    path.write_bytes(content[:-600] + b"\1\2\3\4\5\6" + content[-600:])
    with pytest.raises(UserError, match=f"{path.name}: .*more bytes follow than the file says"):
        read_scan(tmp_path)


@pytest.mark.parametrize("tag", [b"\x28\x00\x10\x00US", b"\x28\x00\x11\x00US"])
def test_rows_and_columns_that_are_no_numbers(tmp_path: Path, tag: bytes) -> None:
    write_series(tmp_path, stepping(START, np.arange(4) * 3.0))
    for path in tmp_path.glob("*.dcm"):
        content = path.read_bytes()
        at = content.index(tag) + len(tag)
        path.write_bytes(content[:at] + b"\x03\x00\x01\x02\x03" + content[at + 4 :])
    with pytest.raises(UserError, match=r"4 × a header with unreadable numbers \((Rows|Columns)\)"):
        read_scan(tmp_path)


@pytest.mark.parametrize("implicit", [False, True])
def test_without_transfer_syntax_the_encoding_tells(tmp_path: Path, implicit: bool) -> None:
    write_series(tmp_path, stepping(START, np.arange(4) * 3.0))
    for path in tmp_path.glob("*.dcm"):
        header = pydicom.dcmread(path)
        del header.file_meta.TransferSyntaxUID
        pydicom.dcmwrite(path, header, implicit_vr=implicit, little_endian=True, enforce_file_format=False)
    scan = read_scan(tmp_path)
    assert field_errors(scan).max() <= 0.51
    assert scan.warnings == ()


def test_compressed_without_transfer_syntax(tmp_path: Path) -> None:
    def change(header: pydicom.FileDataset) -> None:
        header.compress(RLELossless)

    path = folder_with(tmp_path, change)
    content = path.read_bytes()
    at = content.index(b"\x02\x00\x10\x00UI")
    path.write_bytes(content[:at] + b"\x02\x00\x13\x00SH" + content[at + 6 :])
    with pytest.raises(UserError, match=f"{path.name}: .*no TransferSyntaxUID"):
        read_scan(tmp_path)


def test_compressed_images_are_read_and_those_cut_off_are_named(tmp_path: Path) -> None:
    folder_with(tmp_path, lambda header: header.compress(RLELossless))
    assert field_errors(read_scan(tmp_path)).max() <= 0.51

    def cut(header: pydicom.FileDataset) -> None:
        header.PixelData = encapsulate([b"\xff\x4f\xff\x51" + bytes(range(1, 255))])
        header.file_meta.TransferSyntaxUID = JPEG2000Lossless
        header["PixelData"].is_undefined_length = True

    path = folder_with(tmp_path, cut)
    with pytest.raises(UserError, match=f"{path.name}: .*the compressed image is cut off"):
        read_scan(tmp_path)
