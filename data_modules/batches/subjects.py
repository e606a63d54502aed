"""A prepared cohort as TorchIO's data set, for people."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchio as tio
from numpy.typing import NDArray
from torch import Tensor

from data_modules.cohort.look import RecordedLook
from data_modules.config import DataConfig
from data_modules.prepare.store import PreparedSeries, open_store
from data_modules.scan.geometry import Grid


def subjects(
    config: DataConfig, *splits: str, native: bool = False, look: RecordedLook | None = None
) -> tio.SubjectsDataset:
    """The prepared series of some splits, one `torchio.Subject` each; arrays are read when they are asked for.

    A subject has ``image`` (HU), ``label`` where the series is labelled, ``patient_id``, ``series_id``, ``split`` and
    ``slice_thickness_mm``. The label is the occupancy of each voxel in [0, 1] on the common grid, a mask of 0 and 1 on
    the scan's own.

    Args:
        config: cohort and grid; prepare the cohort before (`iac prepare`, or any training).
        splits: names of splits.
        native: the region on the scan's own voxels; otherwise on the common grid, as networks see it.
        look: at the test split, which is not opened without one on record.

    Raises:
        UserError: when nothing is prepared with these settings.
        TestSetGuardError: for the test split, unless a look on record is given.
    """
    return tio.SubjectsDataset([_subject(p, native) for p in open_store(config, splits, look).split(*splits)])


def _subject(prepared: PreparedSeries, native: bool) -> tio.Subject:
    grid = prepared.native_grid if native else prepared.grid
    names = ("native_hu", "native_label") if native else ("hu", "occupancy")
    images: dict[str, Any] = {"image": _image(tio.ScalarImage, prepared, names[0], grid)}
    if prepared.series.label is not None:
        images["label"] = _image(tio.LabelMap, prepared, names[1], grid)
    return tio.Subject(
        **images,
        patient_id=prepared.series.patient_id,
        series_id=prepared.series.series_id,
        split=prepared.series.split,
        slice_thickness_mm=prepared.slice_thickness_mm,
    )


def _image(kind: type[tio.Image], prepared: PreparedSeries, name: str, grid: Grid) -> tio.Image:
    return kind(prepared.directory / f"{name}.npy", reader=partial(_read, prepared=prepared, name=name, grid=grid))


def _read(path: Path, prepared: PreparedSeries, name: str, grid: Grid) -> tuple[Tensor, NDArray[np.float64]]:
    """`[1, X, Y, Z]` and the affine, as TorchIO's readers give them."""
    array = np.array(getattr(prepared, name)())
    if name == "occupancy":
        array = array / np.float32(255)
    data = torch.from_numpy(array.view(np.uint8) if array.dtype == np.bool_ else array)
    return data[None], grid.affine
