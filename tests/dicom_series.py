"""DICOM series with a known scene, one file a slice, for tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from data_modules.scan.scan import Scan

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
    """A ball with a soft edge, metal of 2500 HU in soft tissue of 40."""
    distance = np.linalg.norm(lps - np.asarray(center), axis=-1)
    return 40.0 + 2460.0 * np.clip(radius + 0.5 - distance, 0.0, 1.0)


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
