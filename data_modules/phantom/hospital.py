"""A DICOM export as hospitals give it, of simulated patients, with the truth beside it.

`<out>/dicom/` holds the files in four layouts, some without extension, with stray files among them;
`<out>/expected.csv` how an import should end with each series; `<out>/heads.csv` where the sella and the plaque of each
head lie; `phantom.json` the settings. Everything of a patient depends on the seed, the matrix and the patient's number
alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from data_modules.errors import UserError
from data_modules.files import write_text_atomic
from data_modules.phantom.cohort import claim
from data_modules.phantom.hospital_files import (
    dose_file,
    image_files,
    picture_file,
    series_uid,
    study_uid,
    uid,
)
from data_modules.phantom.hospital_plan import FIELD_MM, HospitalPlan, SeriesPlan, plan_hospital_patient
from data_modules.phantom.patient import Patient, build_body, build_patient
from data_modules.phantom.stacks import Field, Stack, image_stack, stack_noise
from data_modules.processes import mapped

VERSION = 1
"""Raised whenever the same seed gives other files."""

MATRIX = 96
"""Rows and columns of an image by default: pixels of 2.5 mm."""

ACCEPTED = ("ok", "joined")
"""Codes of series that an import takes; of `joined` ones as a part of another."""

_MATRICES = (64, 1024)
_CELLS_MM = (1.0, 2.5)


def make_hospital_export(out: Path | str, patients: int, seed: int, workers: int = 2, matrix: int = MATRIX) -> Path:
    """Make an export, or return a finished one at once.

    The same `patients`, `seed` and `matrix` give the same bytes, whatever `workers` is.

    Args:
        out: folder to be made.
        patients: how many; from 12 on every trouble of `hospital_plan.TROUBLES` is there.
        seed: every random choice follows from it.
        workers: processes; 1 works in this process.
        matrix: rows and columns of each image of the field of view of 240 mm; real scans have 512.

    Returns:
        Path of `expected.csv`.

    Raises:
        UserError: for impossible settings, or when `out` holds a phantom made with other settings.
    """
    out = Path(out)
    for name, value, low, high in (
        ("patients", patients, 1, 9999),
        ("seed", seed, 0, 2**32 - 1),
        ("workers", workers, 1, 4096),
        ("matrix", matrix, *_MATRICES),
    ):
        if not low <= value <= high:
            raise UserError(f"{name} is {value}; expected from {low} to {high}")
    settings = {"version": VERSION, "format": "dicom", "patients": patients, "seed": seed, "matrix": matrix}
    claim(out, settings)
    path = out / "expected.csv"
    if path.is_file():
        return path
    make = partial(make_patient, out=out, seed=seed, matrix=matrix)
    rows: list[dict[str, Any]] = []
    heads: list[dict[str, Any]] = []
    for _, (of_series, of_heads) in mapped(make, range(patients), workers, "phantom", "patient"):
        rows += of_series
        heads += of_heads
    write_text_atomic(out / "heads.csv", pd.DataFrame(heads).to_csv(index=False))
    write_text_atomic(path, pd.DataFrame(rows).to_csv(index=False))
    return path


def make_patient(number: int, out: Path, seed: int, matrix: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Write one patient's files; the rows of `expected.csv` and of `heads.csv`."""
    plan = plan_hospital_patient(seed, number, matrix)
    cell = float(np.clip(FIELD_MM / matrix, *_CELLS_MM))
    with_contrast = any(series.what == "contrast" for exam in plan.exams for series in exam.series)
    patient = build_patient((*plan.key, 8), plan.plaque_volume_mm3, cell, with_contrast)
    rows, heads = [], []
    for exam_number, exam in enumerate(plan.exams):
        for series in exam.series:
            files = _files(plan, exam_number, series, patient, matrix)
            for path, content in _places(plan, exam_number, series, _damaged(files, series)):
                target = out / "dicom" / path
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(content)
            rows.append(
                {
                    "series_uid": series_uid(plan, exam_number, series),
                    "patient": plan.name,
                    "status": "accepted" if series.code in ACCEPTED else "rejected",
                    "code": series.code,
                    "why": series.why,
                }
            )
        if any(series.what == "plain" for series in exam.series):
            heads.append(_head_row(plan, exam_number, patient))
    _scatter(plan, out / "dicom")
    return rows, heads


def _head_row(plan: HospitalPlan, exam_number: int, patient: Patient) -> dict[str, Any]:
    """Where the sella and the middle of all plaque lie in the scanner, LPS mm."""
    origin = np.asarray(plan.exams[exam_number].origin_ras_mm)

    def place(ras_mm: Any) -> str:
        return " ".join(f"{v:.2f}" for v in (np.asarray(ras_mm) + origin) * (-1, -1, 1))

    sella = patient.anatomy.frame.to_world(np.zeros((1, 3)))[0]
    return {
        "study_uid": study_uid(plan, exam_number),
        "patient": plan.name,
        "sella_lps_mm": place(sella),
        "plaque_lps_mm": ";".join(place(p) for p in patient.plaque_ras_mm),
        "true_volume_mm3": round(patient.anatomy.true_volume_mm3, 3),
    }


def _files(plan: HospitalPlan, exam_number: int, series: SeriesPlan, patient: Patient, matrix: int) -> list[bytes]:
    """The files of one series, undamaged."""
    if series.what == "picture":
        return [picture_file(plan, exam_number, series, max(matrix, 128))]
    if series.what == "dose_sr":
        return [dose_file(plan, exam_number, series)]
    stack = series.stack
    assert stack is not None
    # Series of the same images, sent twice, have the same noise.
    noise_key = 20 if series.defect == "copied" else series.number
    rng = np.random.default_rng([*plan.key, 9, exam_number, noise_key])
    if series.what == "localizer":
        hu = _projection(patient, stack)
    else:
        hu = image_stack(_fields(series, patient, rng), stack) + stack_noise(stack, rng) - 1000
    if series.what == "mr":
        hu = np.clip(hu * 3 + 400, 0, 900) * (hu > -700)
    return image_files(plan, exam_number, series, np.clip(np.rint(hu), -1024, 3071).astype(np.int16))


def _fields(series: SeriesPlan, patient: Patient, rng: np.random.Generator) -> tuple[Field, ...]:
    if series.what in ("chest", "neck"):
        return build_body(series.what, rng, _CELLS_MM[1])
    if series.what == "contrast":
        assert patient.contrast is not None
        return (*patient.plain, patient.contrast)
    return patient.plain


def _projection(patient: Patient, stack: Stack) -> NDArray[np.float32]:
    """A view of the whole head from the front, `[1, rows, columns]`: the mean along the line of sight."""
    head = patient.plain[0]
    _, ny, nz = head.grid.shape
    mean = head.data.reshape(ny, nz, -1).mean(axis=0)  # [Z, X]
    flat = Field(np.repeat(mean[None], ny, axis=0).reshape(ny * nz, -1), head.grid)
    thin = Stack(
        centers_mm=stack.centers_mm,
        thicknesses_mm=np.ones(1),
        turn_deg=stack.turn_deg,
        matrix=stack.matrix,
        pixel_mm=stack.pixel_mm,
        kernel=stack.kernel,
    )
    return 4 * image_stack((flat,), thin) - 1000


def _damaged(files: list[bytes], series: SeriesPlan) -> list[bytes]:
    """What is left of a series' files."""
    middle = len(files) // 2
    if series.defect == "truncated":
        return [*files[:middle], files[middle][: int(0.7 * len(files[middle]))], *files[middle + 1 :]]
    if series.defect == "gap":
        return files[: middle - 4] + files[middle + 5 :]
    if series.defect == "one_missing":
        return files[:middle] + files[middle + 1 :]
    return files


def _places(
    plan: HospitalPlan, exam_number: int, series: SeriesPlan, files: list[bytes]
) -> Iterator[tuple[str, bytes]]:
    """A path for each file, in the patient's layout; twice for series that were sent twice."""
    exam = plan.exams[exam_number]
    copies = 2 if series.defect == "twice" else 1
    for copy in range(copies):
        for k, content in enumerate(files):
            of_file = hashlib.sha256(f"{uid(plan, exam_number, series.number, k)} {copy}".encode()).hexdigest()
            place = (
                f"PHANTOM_{plan.name}/{exam.date:%Y-%m-%d}/S{series.number:03d}{'_copy' * copy}/IM{k + 1:04d}.dcm",
                f"flat/{of_file[:12].upper()}",
                f"DATA/PA{plan.number:03d}/ST{exam_number}/SE{series.number:03d}/I{copy}{k:05d}",
                f"{study_uid(plan, exam_number)}/{of_file[:16]}.dcm",
            )
            yield place[_layout(plan)], content


def _layout(plan: HospitalPlan) -> int:
    """Which of the four layouts a patient's files have."""
    return int(np.random.default_rng([*plan.key, 10]).integers(4))


def _scatter(plan: HospitalPlan, folder: Path) -> None:
    """Files that are no images: notes, thumbnails, an empty file and one cut off in its header."""
    if plan.number % 3:
        return
    place = folder / "stray" / plan.name
    place.mkdir(parents=True, exist_ok=True)
    (place / "readme.txt").write_text(f"Made-up note about PHANTOM^{plan.name}\n", encoding="utf-8")
    (place / "Thumbs.db").write_bytes(bytes(range(64)))
    (place / "EMPTY").write_bytes(b"")
    (place / "CUT").write_bytes(b"\0" * 128 + b"DICM" + b"\x02\0\0\0UL\x04\0")
