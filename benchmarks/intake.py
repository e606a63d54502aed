"""How long an import takes a series, from ten to a thousand of them, and how much memory the tables of very many."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian

from benchmarks.process import measured
from data_modules.guarded import Limits
from data_modules.intake.headers import read_files
from data_modules.intake.ids import private_folder, read_salt
from data_modules.intake.importing import ImportSettings, from_index
from data_modules.intake.index import Index
from data_modules.intake.planning import TASKS
from data_modules.intake.tasks import IMAGES, Task
from data_modules.intake.walk import Found

COUNTS = (10, 100, 1000)
TABLE_SERIES = 10_000
_SLICES, _TABLE_SLICES = 12, 30
_PIXELS = 64
_UID = "1.2.826.0.1.3680043.8.498.1"


def bench_import(folder: Path, counts: Sequence[int] = COUNTS, table_series: int = TABLE_SERIES) -> dict[str, Any]:
    """Whole imports by one worker, and the tables of an index of very many series.

    Args:
        folder: for the files.
        counts: of series of 12 slices of 64 × 64 pixels.
        table_series: of 30 slices each, of which the index holds headers and no file is read.

    Returns:
        `imports`: for one series and each count its `seconds` and memory, and `series_a_minute` of a core of those that
        came beyond the last count; `tables`: seconds and memory of a process of its own, its index included.
    """
    imports: list[dict[str, Any]] = []
    for count in (1, *counts):
        source, out = folder / f"source{count}", folder / f"out{count}"
        for number in range(count):
            write_series(source / f"{number:05d}", number)
        found = {"series": count, **measured(["import", str(source), str(out), "--workers", "1"])}
        if imports:
            before = imports[-1]
            more_s = found["cpu_seconds"] - before["cpu_seconds"]  # of few series the start of Python is most
            if more_s > 0:
                found["series_a_minute"] = 60 * (count - before["series"]) / more_s
        imports.append(found)
    tables = measured([str(folder / "tables"), str(table_series)], "benchmarks.intake")
    return {"imports": imports, "tables": {"series": table_series, **tables}}


def write_series(folder: Path, number: int, slices: int = _SLICES) -> None:
    """Head-like slices, each series with identifiers and pixels of its own."""
    folder.mkdir(parents=True)
    y, x = np.mgrid[:_PIXELS, :_PIXELS] - _PIXELS / 2
    radius = np.hypot(x, y)
    rng = np.random.default_rng(number)
    for k in range(slices):
        hu = np.where(radius < 22, 35, np.where(radius < 26, 900, -1000)) + rng.normal(0, 8, radius.shape)
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID, meta.TransferSyntaxUID = CTImageStorage, ExplicitVRLittleEndian
        meta.MediaStorageSOPInstanceUID = UID(f"{_UID}.7.{number}.{k}")
        item = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
        item.SOPClassUID, item.SOPInstanceUID, item.Modality = CTImageStorage, f"{_UID}.7.{number}.{k}", "CT"
        item.ImageType, item.BodyPartExamined = ["ORIGINAL", "PRIMARY", "AXIAL"], "HEAD"
        item.PatientID, item.StudyInstanceUID = f"BENCH-{number // 4:06d}", f"{_UID}.9.{number // 2}"
        item.SeriesInstanceUID, item.SeriesNumber, item.InstanceNumber = f"{_UID}.7.{number}", number % 2 + 1, k + 1
        item.StudyDate, item.FrameOfReferenceUID = "20240101", f"{_UID}.8.{number}"
        item.ImagePositionPatient, item.ImageOrientationPatient = [-100, -100, 5 * k], [1, 0, 0, 0, 1, 0]
        item.PixelSpacing, item.SliceThickness = [3.2, 3.2], 5
        item.ConvolutionKernel, item.Manufacturer = "H31s", "Bench"
        item.Rows, item.Columns, item.SamplesPerPixel = _PIXELS, _PIXELS, 1
        item.PhotometricInterpretation, item.PixelRepresentation = "MONOCHROME2", 1
        item.BitsAllocated, item.BitsStored, item.HighBit = 16, 16, 15
        item.RescaleSlope, item.RescaleIntercept = 1, 0
        item.PixelData = np.rint(hu).astype("<i2").tobytes()
        item.save_as(folder / f"{k:04d}", enforce_file_format=True)


def table_work(folder: Path, n_series: int) -> None:
    """Inventory, cohort and private lists of series whose headers stand in an index; images are only said to be there.

    The index is filled from one real series, under other identifiers.
    """
    write_series(folder / "one", 0, _TABLE_SLICES)
    known = read_files(sorted((folder / "one").iterdir()))
    out, private = folder / "out", private_folder(folder / "out_private")
    for name in (IMAGES, TASKS):
        (out / name).mkdir(parents=True)
    settings = ImportSettings(
        source=folder / "one",
        out=out,
        private=private,
        template=None,
        allow_contrast=False,
        every=False,
        workers=1,
        limits=Limits(60, 4),
        scheduler="",
        unpacked_gb=1,
    )
    with Index(private) as index:
        for number in range(n_series):
            first = number * _TABLE_SLICES
            index.add((Found(f"{first + k}", 1, first + k, 1, 1, False) for k in range(_TABLE_SLICES)), folder)
            index.set((first + k + 1, _renamed(facts, number)) for k, facts in enumerate(known))
        index.commit()
        from_index(index, read_salt(private, may_make=True), settings, private, _pretend)


def _renamed(facts: dict[str, Any], number: int) -> dict[str, Any]:
    text = (
        json.dumps(facts)
        .replace(f"{_UID}.7.0", f"{_UID}.7.{number}")
        .replace("BENCH-000000", f"BENCH-{number // 4:06d}")
    )
    renamed: dict[str, Any] = json.loads(text.replace(f"{_UID}.9.0", f"{_UID}.9.{number // 2}"))
    return renamed


def _pretend(tasks: Iterable[Task]) -> Iterator[tuple[Task, dict[str, Any]]]:
    facts = {"kernel": "H31s", "slice_thickness_mm": "5", "coverage_mm": "150", "n_slices": str(_TABLE_SLICES)}
    for task in tasks:
        yield task, {"code": "ok", "found": "", "warnings": [], "facts": dict(facts), "digest": task.series_id}


if __name__ == "__main__":
    table_work(Path(sys.argv[1]), int(sys.argv[2]))
