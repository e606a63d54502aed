"""A cohort of three small scans to prepare."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from data_modules.cohort.series import read_series
from data_modules.cohort.table import Series
from data_modules.config import DataConfig, GridConfig
from data_modules.prepare import preparation
from data_modules.prepare.preparation import prepare_cohort
from data_modules.prepare.store import PreparedSeries
from data_modules.scan.scan import Scan

SHAPE = (40, 36, 20)
SPACING = (1.0, 1.0, 2.0)
GE_HEAD = Path(__file__).parents[5] / "shared" / "data" / "ge_head_dicom"


def affine(*spacing: float) -> NDArray[np.float64]:
    """Centred on the origin."""
    matrix = np.diag([*spacing, 1.0])
    matrix[:3, 3] = -np.asarray(spacing) * (np.asarray(SHAPE) - 1) / 2
    return matrix


def save(path: Path, data: NDArray[Any], matrix: NDArray[np.float64] | None = None) -> None:
    path.parent.mkdir(exist_ok=True)
    found = nib.Nifti1Image(data, affine(*SPACING) if matrix is None else matrix)
    found.header.set_xyzt_units("mm")
    nib.save(found, path)


def image(seed: int) -> NDArray[np.int16]:
    return np.random.default_rng([seed]).integers(-1000, 1500, SHAPE).astype(np.int16)


def mask(*voxels: tuple[slice | int, slice | int, slice | int]) -> NDArray[np.uint8]:
    label = np.zeros(SHAPE, dtype=np.uint8)
    for voxel in voxels:
        label[voxel] = 1
    return label


LESIONS = mask((slice(18, 21), slice(17, 19), slice(9, 11)), (25, 22, 12))


def write_table(folder: Path, rows: list[dict[str, object]]) -> Path:
    defaults = {
        "label": "",
        "split": "finetune",
        "slice_thickness_mm": 2.0,
        "spacing_x_mm": 1.0,
        "spacing_y_mm": 1.0,
        "spacing_z_mm": 2.0,
        "kernel": "",
        "manufacturer": "",
    }
    table = pd.DataFrame([defaults | row for row in rows])
    table.to_csv(folder / "cohort.csv", index=False)
    return folder / "cohort.csv"


@pytest.fixture
def config(tmp_path: Path) -> DataConfig:
    """Three series: a with two lesions, b with an empty mask, c without label."""
    for seed, name in enumerate("abc"):
        save(tmp_path / "images" / f"{name}.nii.gz", image(seed))
    save(tmp_path / "labels" / "a.nii.gz", LESIONS)
    save(tmp_path / "labels" / "b.nii.gz", mask())
    rows: list[dict[str, object]] = [
        {"patient_id": f"p{name}", "series_id": name, "image": f"images/{name}.nii.gz", "split": split, "label": label}
        for name, split, label in (
            ("a", "finetune", "labels/a.nii.gz"),
            ("b", "dev", "labels/b.nii.gz"),
            ("c", "pretrain", ""),
        )
    ]
    cohort = write_table(tmp_path, rows)
    grid = GridConfig(spacing_mm=(2.0, 2.0, 4.0), roi_mm=(24.0, 20.0, 24.0))
    return DataConfig(cohort=str(cohort), prepare_workers=1, grid=grid)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the images that were read."""
    names: list[str] = []

    def recording(series: Series) -> Scan:
        names.append(series.image.name.split(".")[0])
        return read_series(series)

    monkeypatch.setattr(preparation, "read_series", recording)
    return names


def touch(path: Path) -> None:
    facts = path.stat()
    os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns + 1))


def folders(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir() if path.is_dir())


def only(config: DataConfig, name: str = "a") -> PreparedSeries:
    return next(p for p in prepare_cohort(config).series if p.series.series_id == name)


def write_sidecar(config: DataConfig, name: str, thickness_mm: float) -> None:
    path = Path(config.cohort).parent / "images" / f"{name}.json"
    path.write_text(json.dumps({"SliceThickness": thickness_mm}))


def change_table(config: DataConfig, **columns: str) -> None:
    table = pd.read_csv(config.cohort, dtype=str, keep_default_na=False).assign(**columns)
    table.to_csv(config.cohort, index=False)


def change_meta(directory: Path, name: str, **facts: Any) -> None:
    """Other facts, as of a series that was prepared before sums were kept; None leaves one out."""
    path = directory / name / "meta.json"
    meta = json.loads(path.read_text()) | facts | {"arrays": None, "digest": None}
    path.write_text(json.dumps({key: value for key, value in meta.items() if value is not None}))
