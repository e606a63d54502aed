"""Exports as hospitals give them: small series of every kind in one tree, each with the code that it must end with."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom

from tests.dicom_series import START, stepping, write_series

STUDY = "1.2.826.0.1.3680043.8.498"
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
DOSE_REPORT = "1.2.840.10008.5.1.4.1.1.88.67"
HEIGHTS = np.arange(12) * 5.0


def series_uid(name: str) -> str:
    return f"{STUDY}.{int(hashlib.sha256(name.encode()).hexdigest()[:8], 16)}"


def add(
    folder: Path, name: str, *, patient: str = "HOSP-4711", study: str = "1", heights: Any = HEIGHTS, **tags: Any
) -> None:
    """A series of a patient; `tags` as of `write_series`, and its scene."""
    uid = series_uid(name)
    values: dict[str, Any] = {
        "SeriesInstanceUID": uid,
        "SOPInstanceUID": [f"{uid}.{k + 1}" for k in range(len(heights))],
        "PatientID": patient,
        "StudyInstanceUID": f"{STUDY}.9{patient[-4:]}.{study}",
        "StudyDate": f"202401{int(study):02d}",
        "FrameOfReferenceUID": f"{uid}.0",
        "BodyPartExamined": "HEAD",
        "SliceThickness": 5.0,
        "SeriesDescription": f"Head {name}",
        "scene": head(0),
    }
    write_series(folder, stepping(START, heights), **{**values, **tags})


def head(seed: float) -> Callable[[np.ndarray], np.ndarray]:
    """A scene of its own: soft tissue within a ring of bone, air around it."""

    def scene(lps: np.ndarray) -> np.ndarray:
        radius = np.hypot(lps[..., 0], lps[..., 1])
        grain = 9.0 * np.sin(7.3 * lps[..., 0] + seed) * np.cos(5.1 * lps[..., 1] + lps[..., 2])
        return np.where(radius < 10, 35.0 + grain, np.where(radius < 11.5, 800.0, -1000.0) + grain)

    return scene


def damage(folder: Path) -> None:
    """Cuts the last file of a folder off within its pixels."""
    path = sorted(folder.iterdir())[-1]
    path.write_bytes(path.read_bytes()[:-900])


def messy_export(root: Path) -> dict[str, str]:
    """An export with a series of each kind that small files can have; the code of each by its UID."""
    root.mkdir()
    expected: dict[str, str] = {}

    def put(name: str, code: str, **tags: Any) -> Path:
        folder = root / f"f{len(expected):02d}"
        add(folder, name, **tags)
        expected[series_uid(name)] = code
        return folder

    put("plain", "ok", ConvolutionKernel="H31s", SeriesNumber=2)
    put("bone", "ok", ConvolutionKernel="H60s", SeriesNumber=3, scene=head(3))
    put("copy", "duplicate", ConvolutionKernel="H31s", SeriesNumber=9)
    put("scout", "localizer", ImageType="ORIGINAL\\PRIMARY\\LOCALIZER", heights=HEIGHTS[:1])
    put("dose", "dose_report", SOPClassUID=SECONDARY_CAPTURE, SeriesDescription="Dose Report", heights=HEIGHTS[:1])
    put("screen", "secondary_capture", SOPClassUID=SECONDARY_CAPTURE, SeriesDescription="Capture", heights=HEIGHTS[:1])
    put("summary", "exam_summary", SOPClassUID=SECONDARY_CAPTURE, SeriesDescription="Exam Summary", heights=HEIGHTS[:1])
    put("mr", "not_ct", Modality="MR", SOPClassUID="1.2.840.10008.5.1.4.1.1.4")
    put("chest", "not_head", BodyPartExamined="CHEST", SeriesDescription="Thorax")
    put("mpr", "reformat", ImageType="DERIVED\\SECONDARY\\AXIAL\\MPR")
    put("cta", "contrast", ContrastBolusAgent="Iomeron", study="2", scene=head(2))
    put("few", "too_few_slices", heights=HEIGHTS[:4], study="2")
    for path in put("no_slope", "not_hu", study="2").iterdir():
        edit(path, RescaleSlope=None)
    put("gap", "geometry", heights=[*HEIGHTS[:6], *(HEIGHTS[6:] + 300)], study="2")
    damage(put("cut", "unreadable", study="2"))
    put("huge", "too_large", study="3", Rows=[60000] * len(HEIGHTS), Columns=[60000] * len(HEIGHTS))
    put("other", "ok", patient="HOSP-4712", scene=head(6))
    for name, heights, thickness in (("base", np.arange(15) * 2.0, 2.0), ("vault", 30 + np.arange(9) * 4.0, 4.0)):
        whole = {"FrameOfReferenceUID": f"{STUDY}.7", "scene": head(9), "SliceThickness": thickness}
        put(name, "joined", patient="HOSP-4713", heights=heights, **whole)
    return expected


def shuffled(source: Path, target: Path, seed: int = 0) -> None:
    """The same files under other names in another layout."""
    files = sorted(path for path in source.rglob("*") if path.is_file())
    order = np.random.default_rng(seed).permutation(len(files))
    for number, path in zip(order, files, strict=True):
        folder = target / f"{number % 5}" / ("deep" if number % 2 else "")
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, folder / f"IM{number}")


def content(folder: Path) -> dict[str, str]:
    """Every file below a folder, with the hash of what it holds."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def edit(path: Path, **tags: Any) -> None:
    """Change tags of a file."""
    header = pydicom.dcmread(path)
    for key, value in tags.items():
        setattr(header, key, value)
    header.save_as(path)
