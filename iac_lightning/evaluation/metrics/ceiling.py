"""What thick slices let anybody reach against the label of the thin slices they were made of."""

from __future__ import annotations

import numpy as np

from data_modules.scan.geometry import Grid, Volume
from data_modules.scan.reimaging import thick_slice_of
from data_modules.scan.resampling import resample_occupancy
from iac_lightning.evaluation.metrics.lesions import protocol_prior

CEILING = (
    "Dice against the same truth of the label that the annotation protocol makes of the thick slices (voxels that the "
    "thin label touches, at least 130 HU after re-imaging, none alone): what a faultless reader of them reaches. What "
    "it loses, the slices have lost; a model that loses more reaches a smaller share of it. A model may exceed it."
)

BOUND = "The highest Dice that any mask of the thick voxels can have, chosen with the truth in hand."


def protocol_label(label: Volume, thick_hu: Volume) -> Volume:
    """The label that the annotation protocol makes of thick slices, by a reader who knows where the lesions are.

    A reader circles whatever belongs to a lesion: here every thick voxel that the thin label touches. Of these, the
    protocol keeps those of at least 130 HU, and no single ones.

    Args:
        label: mask `[X, Y, Z]` of the thin slices.
        thick_hu: the re-imaged scan.
    """
    touched = resample_occupancy(label, thick_hu.grid).data > 1e-4  # rounding is no lesion
    return protocol_prior(thick_hu.with_data(touched), thick_hu)


def bound_dice(label: Volume, thick: Grid, slice_axis: int) -> float:
    """The highest Dice that a mask on thick slices can have against a label of thin ones; 1 for an empty label.

    Dice is 2·Σg / (Σn + |G|) over the masked thick voxels, of n thin voxels each, g of them labelled. Of a ratio of
    two sums, the best choice takes voxels by falling g/n, down to some point; all points are tried.
    """
    number = thick_slice_of(thick, label.grid, slice_axis)
    inside = number >= 0
    per_slice = np.bincount(number[inside], minlength=thick.shape[slice_axis])
    planes = np.moveaxis(label.data, slice_axis, 0)
    labelled_voxels = np.zeros((len(per_slice), *planes.shape[1:]), dtype=np.int64)
    np.add.at(labelled_voxels, number[inside], planes[inside])
    where = np.nonzero(labelled_voxels)
    g, n, total = labelled_voxels[where], per_slice[where[0]], int(label.data.sum())
    if not total:
        return 1.0
    order = np.argsort(-g / n, kind="stable")
    return float(np.max(2 * g[order].cumsum() / (n[order].cumsum() + total), initial=0.0))
