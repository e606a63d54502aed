"""Which lesions of one scan were missed, and which components of the prediction hit nothing."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from data_modules.scan.geometry import Volume
from iac_lightning.evaluation.metrics.lesions import as_mask, components, require_same_grid


@dataclass(frozen=True, kw_only=True)
class Failures:
    """Components of one scan that overlap nothing of the other mask.

    Attributes:
        missed: `[X, Y, Z]`, components of the label (26-connected) that no voxel of the prediction hits.
        false: `[X, Y, Z]`, components of the prediction that hit no voxel of the label.
        largest_missed_mm3: volume of the largest missed one; 0 without.
        largest_false_mm3: likewise.
        n_lesions: components of the label.
        n_missed: those missed.
        n_false: components of the prediction that hit nothing.
    """

    missed: NDArray[np.bool_] = field(repr=False)
    false: NDArray[np.bool_] = field(repr=False)
    largest_missed_mm3: float
    largest_false_mm3: float
    n_lesions: int
    n_missed: int
    n_false: int


def failures(prediction: Volume, label: Volume) -> Failures:
    """What was missed and what is false in one scan.

    Raises:
        UserError: when the grids differ.
    """
    require_same_grid(prediction, label, "prediction", "label")
    predicted, labelled = as_mask(prediction.data), as_mask(label.data)
    missed, n_lesions, n_missed, most_missed = _unmatched(labelled, predicted)
    false, _, n_false, most_false = _unmatched(predicted, labelled)
    voxel_mm3 = label.grid.voxel_volume_mm3
    return Failures(
        missed=missed,
        false=false,
        largest_missed_mm3=most_missed * voxel_mm3,
        largest_false_mm3=most_false * voxel_mm3,
        n_lesions=n_lesions,
        n_missed=n_missed,
        n_false=n_false,
    )


def _unmatched(mask: NDArray[np.bool_], other: NDArray[np.bool_]) -> tuple[NDArray[np.bool_], int, int, int]:
    """Components that the other mask does not touch; how many there are in all and of these, voxels of the largest."""
    ids, n = components(mask)
    untouched = np.ones(n + 1, dtype=bool)
    untouched[np.unique(ids[other])] = False
    untouched[0] = False
    sizes = np.bincount(ids.ravel(), minlength=n + 1)[untouched]
    return untouched[ids], n, int(untouched.sum()), int(sizes.max()) if len(sizes) else 0
