"""A phantom trial on disk: who is scanned how, imaged in parallel, written so that a crash loses little.

`<out>/images/<series>.nii.gz` (int16 HU, marked as simulated: `mark`) with a sidecar JSON,
`<out>/labels/<series>.nii.gz`, `<out>/cohort.csv`, `<out>/contact_sheet.png`; `phantom.json` holds the settings and
`patients/` marks finished patients. A patient's anatomy and series depend on the seed and the patient's number alone.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from data_modules.cohort.splits import assign_splits
from data_modules.cohort.table import write_cohort
from data_modules.errors import UserError
from data_modules.files import write_bytes_atomic, write_text_atomic
from data_modules.phantom.anatomy import build_anatomy
from data_modules.phantom.contact_sheet import draw_contact_sheet
from data_modules.phantom.imaging import Acquisition, Kernel, half_extent_mm, image_series, tilt_deg
from data_modules.phantom.mark import COLUMN, MARK, SETTINGS_FILE
from data_modules.processes import mapped
from data_modules.scan.geometry import Grid

DEFAULT_FRACTIONS = {"pretrain": 0.43, "finetune": 0.28, "dev": 0.11, "test": 0.18}
"""Shares of the patients; the pretrain split carries no labels."""

ROI_MM = (80.0, 64.0, 48.0)
"""Every series covers at least this much around its centre, the sella."""

PLAQUE_FREE = 0.2
"""Share of patients without arterial calcium."""

VERSION = 2
"""Raised whenever the same seed gives other images."""

KERNELS: dict[str, tuple[Kernel, ...]] = {
    "Vendor A": (
        Kernel(name="A20s", kind="soft", fwhm_mm=1.35),
        Kernel(name="A30s", kind="soft", fwhm_mm=1.20),
        Kernel(name="A40m", kind="medium", fwhm_mm=1.00),
        Kernel(name="A60h", kind="sharp", fwhm_mm=0.70, edge=0.30),
    ),
    "Vendor B": (
        Kernel(name="SOFT", kind="soft", fwhm_mm=1.30),
        Kernel(name="STANDARD", kind="medium", fwhm_mm=1.05),
        Kernel(name="DETAIL", kind="sharp", fwhm_mm=0.75, edge=0.15),
    ),
    "Vendor C": (
        Kernel(name="UA", kind="soft", fwhm_mm=1.25),
        Kernel(name="UB", kind="medium", fwhm_mm=0.95),
        Kernel(name="D", kind="sharp", fwhm_mm=0.65, edge=0.35),
    ),
    "Vendor D": (
        Kernel(name="FC21", kind="soft", fwhm_mm=1.20),
        Kernel(name="FC26", kind="medium", fwhm_mm=0.90),
        Kernel(name="FC64", kind="sharp", fwhm_mm=0.70, edge=0.20),
    ),
    "Vendor E": (
        Kernel(name="head-2", kind="soft", fwhm_mm=1.40),
        Kernel(name="head-4", kind="medium", fwhm_mm=1.00),
    ),
}

_THICKNESS_MM = {
    "thin": ((0.6, 0.75, 1.0, 1.25, 1.5), 0.30),
    "medium": ((2.0, 2.5, 3.0), 0.27),
    "thick": ((4.0, 5.0, 5.0, 6.0, 8.0), 0.43),
}


@dataclass(frozen=True, kw_only=True)
class PatientPlan:
    """What is decided before painting.

    Attributes:
        patient_id: such as ``"P0001"``.
        key: seed of this patient's random numbers.
        plaque_volume_mm3: intended plaque volume; the painted one differs a little.
        manufacturer: invented name.
        acquisitions: one a series.
    """

    patient_id: str
    key: tuple[int, int]
    plaque_volume_mm3: float
    manufacturer: str
    acquisitions: tuple[Acquisition, ...]

    def series_id(self, number: int) -> str:
        """Id of the series with this number, from 0."""
        return f"{self.patient_id}_S{number + 1}"


def _plan_acquisition(rng: np.random.Generator, group: str, manufacturer: str) -> Acquisition:
    thickness = float(rng.choice(_THICKNESS_MM[group][0]))
    pattern = str(rng.choice(("touching", "overlap", "gap"), p=(0.5, 0.4, 0.1) if group == "thin" else (0.7, 0.1, 0.2)))
    factor = {"touching": 1.0, "overlap": rng.uniform(0.5, 0.8), "gap": rng.uniform(1.1, 1.3)}[pattern]
    step = max(0.5, round(thickness * factor, 2))
    pixel = round(float(rng.uniform(0.4, 0.6)), 3)
    tilt = np.deg2rad(round(float(rng.uniform(-20, 20)), 1)) if group == "thick" and rng.random() < 0.6 else 0.0
    flip = -1.0 if rng.random() < 0.5 else 1.0  # rows stored from the patient's right or left
    spacing = np.array((pixel, pixel, step))
    size = np.asarray(ROI_MM) + rng.uniform(0.5, 4.0, 3)
    shape = np.ceil(size / spacing).astype(int)
    affine = np.eye(4)
    affine[1:3, 1:3] = [[np.cos(tilt), -np.sin(tilt)], [np.sin(tilt), np.cos(tilt)]]
    affine[0, 0] = flip
    affine[:3, :3] *= spacing
    center = np.array((0.0, -2.0, 0.0)) + rng.uniform(-1.5, 1.5, 3)
    affine[:3, 3] = center - affine[:3, :3] @ ((shape - 1) / 2)
    # What a NIfTI header (float32) can hold, so that the image lies exactly where its header says.
    affine = affine.astype(np.float32).astype(np.float64)
    kernels = KERNELS[manufacturer]
    return Acquisition(
        grid=Grid((int(shape[0]), int(shape[1]), int(shape[2])), affine),
        slice_thickness_mm=thickness,
        kernel=kernels[int(rng.integers(len(kernels)))],
        dose_noise=float(np.clip(np.exp(rng.normal(0, 0.2)), 0.7, 1.6)),
    )


def plan_patient(seed: int, number: int, max_series: int) -> PatientPlan:
    """Decide burden, scanner and series of patient `number` (from 0); its series differ in thickness group."""
    rng = np.random.default_rng([seed, number, 0])
    volume = float(np.clip(np.exp(rng.normal(np.log(100.0), 0.9)), 5.0, 800.0))
    volume = 0.0 if rng.random() < PLAQUE_FREE else volume
    manufacturer = str(rng.choice(tuple(KERNELS)))
    groups = rng.choice(tuple(_THICKNESS_MM), 3, replace=False, p=[share for _, share in _THICKNESS_MM.values()])
    series = int(min(max_series, rng.choice((1, 2, 3), p=(0.45, 0.35, 0.20))))
    return PatientPlan(
        patient_id=f"P{number + 1:04d}",
        key=(seed, number),
        plaque_volume_mm3=volume,
        manufacturer=manufacturer,
        acquisitions=tuple(_plan_acquisition(rng, str(group), manufacturer) for group in groups[:series]),
    )


def _nifti_bytes(data: NDArray[Any], grid: Grid) -> bytes:
    """A gzipped NIfTI without time stamp: the same content gives the same bytes."""
    image = nib.Nifti1Image(data, grid.affine)
    image.header.set_xyzt_units("mm")
    image.header.set_dim_info(slice=2)
    image.header["descrip"] = MARK
    image.set_qform(grid.affine, code=1)
    image.set_sform(grid.affine, code=1)
    return gzip.compress(image.to_bytes(), compresslevel=1, mtime=0)


def _files(plan: PatientPlan, out: Path, labelled: bool) -> list[Path]:
    """Everything that a finished patient has on disk; the marker last."""
    names = [plan.series_id(k) for k in range(len(plan.acquisitions))]
    files = [out / "images" / f"{name}{ending}" for name in names for ending in (".nii.gz", ".json")]
    files += [out / "labels" / f"{name}.nii.gz" for name in names if labelled]
    return [*files, out / "patients" / f"{plan.patient_id}.json"]


def _make_patient(plan: PatientPlan, out: Path, splits: Mapping[str, str]) -> None:
    """Paint a patient, image all series and write them; the marker comes last."""
    split = splits[plan.patient_id]
    labelled = split != "pretrain"
    reach = np.max([half_extent_mm(a) for a in plan.acquisitions], axis=0)
    rng = np.random.default_rng([*plan.key, 1])
    anatomy = build_anatomy(rng, plan.plaque_volume_mm3, (reach[0], reach[1], reach[2]))
    rows = []
    for k, acquisition in enumerate(plan.acquisitions):
        name, grid, kernel = plan.series_id(k), acquisition.grid, acquisition.kernel
        hu, label = image_series(anatomy, acquisition, np.random.default_rng([*plan.key, 2 + k]), labelled)
        x, y, z = (round(s, 4) for s in grid.spacing_mm)
        sidecar = {
            "Modality": "CT",
            "Manufacturer": plan.manufacturer,
            "ConvolutionKernel": kernel.name,
            "SliceThickness": acquisition.slice_thickness_mm,
            "SpacingBetweenSlices": z,
        }
        write_bytes_atomic(out / "images" / f"{name}.nii.gz", _nifti_bytes(hu, grid))
        write_text_atomic(out / "images" / f"{name}.json", json.dumps(sidecar, indent=2) + "\n")
        row: dict[str, Any] = {
            "patient_id": plan.patient_id,
            "series_id": name,
            "image": f"images/{name}.nii.gz",
            "label": f"labels/{name}.nii.gz" if labelled else "",
            "split": split,
            "slice_thickness_mm": acquisition.slice_thickness_mm,
            "spacing_x_mm": x,
            "spacing_y_mm": y,
            "spacing_z_mm": z,
            "kernel": kernel.name,
            "manufacturer": plan.manufacturer,
            "true_volume_mm3": round(anatomy.true_volume_mm3, 3),
            "label_volume_mm3": "",
            "kernel_kind": kernel.kind,
            "tilt_deg": round(tilt_deg(grid), 2) + 0.0,
            "plaques": len(anatomy.plaques),
            COLUMN: plan.key[0],
        }
        if label is not None:
            write_bytes_atomic(out / "labels" / f"{name}.nii.gz", _nifti_bytes(label.astype(np.uint8), grid))
            row["label_volume_mm3"] = round(float(label.sum()) * grid.voxel_volume_mm3, 3)
        rows.append(row)
    write_text_atomic(out / "patients" / f"{plan.patient_id}.json", json.dumps(rows, indent=1) + "\n")


def _assign(plans: Iterable[PatientPlan], fractions: dict[str, float], seed: int) -> dict[str, str]:
    """Split of each patient, from the plans alone: pretrain labels need not be made first and thrown away."""
    rows = [
        {"patient_id": p.patient_id, "slice_thickness_mm": a.slice_thickness_mm, "true_volume_mm3": p.plaque_volume_mm3}
        for p in plans
        for a in p.acquisitions
    ]
    table = assign_splits(pd.DataFrame(rows), fractions, seed)
    return dict(zip(table["patient_id"], table["split"], strict=True))


def claim(out: Path, settings: dict[str, Any]) -> None:
    """Store the settings, or refuse a folder that holds something else."""
    stored = out / SETTINGS_FILE
    if stored.exists():
        try:
            before = json.loads(stored.read_text(encoding="utf-8"))
        except ValueError:
            raise UserError(f"{stored}: is not readable JSON; delete the folder or name another one") from None
        changed = [
            f"{key} is {before.get(key)!r} there and {settings[key]!r} here"
            for key in settings
            if before.get(key) != settings[key]
        ]
        if changed:
            raise UserError(
                f"{out}: holds a phantom cohort with other settings ({'; '.join(changed)}); "
                "expected the same settings: repeat them, name another folder, or delete this one"
            )
        return
    if (out / "cohort.csv").exists():
        raise UserError(
            f"{out}: holds a cohort that is not a phantom (cohort.csv, no phantom.json); name another folder"
        )
    out.mkdir(parents=True, exist_ok=True)
    write_text_atomic(stored, json.dumps(settings, indent=2) + "\n")


def make_phantom_cohort(
    out: Path | str,
    patients: int,
    seed: int,
    workers: int = 2,
    max_series: int = 3,
    fractions: dict[str, float] | None = None,
) -> Path:
    """Make a phantom cohort, or finish one that was interrupted; a finished one is returned at once.

    The same `patients`, `seed`, `max_series` and `fractions` give the same bytes, whatever `workers` is.

    Args:
        out: folder of the cohort.
        patients: number of patients, each with 1 to `max_series` series (at most 3).
        seed: every random choice follows from it.
        workers: processes; 1 works in this process.
        max_series: most series a patient has.
        fractions: share of the patients in each split; by default `DEFAULT_FRACTIONS`.

    Returns:
        Path of `cohort.csv`.

    Raises:
        UserError: for impossible settings, or when `out` holds a cohort made with other settings.
    """
    out = Path(out)
    for name, value, low, high in (
        ("patients", patients, 1, None),
        ("seed", seed, 0, None),
        ("workers", workers, 1, None),
        ("max_series", max_series, 1, 3),
    ):
        if value < low or (high is not None and value > high):
            wanted = f"at least {low}" if high is None else f"from {low} to {high}"
            raise UserError(f"{name} is {value}; expected {wanted}")
    fractions = dict(fractions or DEFAULT_FRACTIONS)
    settings = {
        "version": VERSION,
        "patients": patients,
        "seed": seed,
        "max_series": max_series,
        "fractions": fractions,
    }
    plans = [plan_patient(seed, number, max_series) for number in range(patients)]
    splits = _assign(plans, fractions, seed)
    claim(out, settings)
    todo = [
        plan
        for plan in plans
        if not all(f.is_file() for f in _files(plan, out, labelled=splits[plan.patient_id] != "pretrain"))
    ]
    table_path, sheet_path = out / "cohort.csv", out / "contact_sheet.png"
    if not todo and table_path.is_file() and sheet_path.is_file():
        return table_path

    for folder in ("images", "labels", "patients"):
        (out / folder).mkdir(exist_ok=True)
    make = partial(_make_patient, out=out, splits=splits)
    for _ in mapped(make, todo, workers, "phantom", "patient", in_order=False, n_done=patients - len(todo)):
        pass

    rows = [
        row for plan in plans for row in json.loads(_files(plan, out, labelled=False)[-1].read_text(encoding="utf-8"))
    ]
    table = pd.DataFrame(rows)
    draw_contact_sheet(table, out, sheet_path)
    write_cohort(table_path, table)
    return table_path
