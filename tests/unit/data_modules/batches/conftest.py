"""A small cohort, prepared once, and batches of it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from data_modules.batches.ct_data_module import CTDataModule
from data_modules.config import AugmentationConfig, DataConfig, GridConfig, SamplingConfig

SHAPE = (20, 18, 14)
SPACING = (1.0, 1.0, 2.0)
CROP = (10, 8, 8)
STRONG = AugmentationConfig(
    affine_probability=0.7,
    thickness_probability=0.7,
    noise_probability=0.7,
    blur_probability=0.7,
    intensity_probability=0.7,
)
NOTHING = AugmentationConfig(
    flip_probability=0,
    affine_probability=0,
    thickness_probability=0,
    noise_probability=0,
    blur_probability=0,
    intensity_probability=0,
)
ROWS = [  # patient, series, split, voxel of the lesion
    ("p0", "s0", "finetune", (3, 4, 0)),
    ("p0", "s1", "finetune", (10, 9, 7)),
    ("p1", "s2", "finetune", (15, 12, 13)),
    ("p2", "s3", "finetune", None),
    ("p3", "s4", "finetune", (8, 8, 8)),
    ("p4", "s5", "dev", (9, 9, 6)),
    ("p5", "s6", "dev", None),
    ("p6", "s7", "pretrain", None),
    ("p7", "s8", "test", (9, 9, 6)),
]


@pytest.fixture(scope="package")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nine tiny scans and their table, prepared once."""
    root = tmp_path_factory.mktemp("cohort")
    rng = np.random.default_rng(0)
    rows = []
    for patient, series, split, voxel in ROWS:
        hu = rng.integers(-300, 90, SHAPE).astype(np.int16)
        mask = np.zeros(SHAPE, dtype=np.uint8)
        if voxel:
            hu[voxel], mask[voxel] = 700, 1
        for name, array in (("", hu), ("_label", mask)):
            nib.save(nib.Nifti1Image(array, np.diag([*SPACING, 1.0])), root / f"{series}{name}.nii")
        rows.append(
            {
                "patient_id": patient,
                "series_id": series,
                "image": f"{series}.nii",
                "label": "" if split == "pretrain" else f"{series}_label.nii",
                "split": split,
                "slice_thickness_mm": 3.0,
                "spacing_x_mm": 1.0,
                "spacing_y_mm": 1.0,
                "spacing_z_mm": 2.0,
                "kernel": "",
                "manufacturer": "",
            }
        )
    pd.DataFrame(rows).to_csv(root / "cohort.csv", index=False)
    return root


@pytest.fixture
def config(folder: Path) -> DataConfig:
    return DataConfig(
        cohort=str(folder / "cohort.csv"),
        prepare_workers=1,
        grid=GridConfig(spacing_mm=SPACING, roi_mm=(20.0, 18.0, 28.0)),
        sampling=SamplingConfig(crop=CROP, samples_per_epoch=24),
        augmentation=STRONG,
        batch_size=4,
    )


def build(config: DataConfig, task: str = "segment", seed: int = 5, **settings: Any) -> CTDataModule:
    data = CTDataModule(config, task, seed, **settings)
    data.prepare_data()
    data.setup("fit")
    return data


class Ranks:
    """Stands in for the trainer of one process of several."""

    def __init__(self, rank: int, world: int) -> None:
        self.global_rank = rank
        self.world_size = self.num_devices = world
        self.strategy = SimpleNamespace(root_device=torch.device("cpu"))


def on_rank(config: DataConfig, rank: int, world: int, task: str = "segment") -> CTDataModule:
    data = build(config, task)
    data.trainer = Ranks(rank, world)  # type: ignore[assignment]
    return data


def changed_table(config: DataConfig, path: Path, **cells: dict[str, str]) -> DataConfig:
    """A config whose table differs in some cells: `column={series_id: value}`; image paths are made absolute."""
    table = pd.read_csv(config.cohort, dtype=str, keep_default_na=False).set_index("series_id", drop=False)
    for column in ("image", "label"):
        table[column] = [str(Path(config.cohort).parent / cell) if cell else "" for cell in table[column]]
    for column, values in cells.items():
        for series, value in values.items():
            table.loc[series, column] = value
    path.mkdir(exist_ok=True)
    table.to_csv(path / "cohort.csv", index=False)
    return replace(config, cohort=str(path / "cohort.csv"))


def joined(batches: Iterable[dict[str, Tensor]]) -> dict[str, Tensor]:
    batches = list(batches)
    return {name: torch.cat([b[name] for b in batches]) for name in batches[0]}


def assert_same(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name
