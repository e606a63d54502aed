"""How far a marked lesion can be believed: the probability of a candidate against whether it is one."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from iac_lightning.evaluation.calibration.scaling import Part
from iac_lightning.evaluation.metrics.lesions import components


def candidate_lesions(mask: NDArray[np.bool_], probability: NDArray[np.floating], label: NDArray[np.bool_]) -> Part:
    """Of each 26-connected component of a mask its highest probability, and whether it overlaps the label.

    The surest voxel stands for the lesion: scaling keeps the order of voxels, so that it is the same one before and
    after calibration.

    Args:
        mask: `[X, Y, Z]`, the result at the operating point.
        probability: `[X, Y, Z]`, calibrated or not.
        label: `[X, Y, Z]`.

    Returns:
        Probabilities and hits, one of each component.
    """
    ids, n = components(mask)
    inside = np.flatnonzero(ids)
    of_voxel = ids.ravel()[inside] - 1
    highest, hit = np.zeros(n, np.float32), np.zeros(n, bool)
    np.maximum.at(highest, of_voxel, np.asarray(probability).ravel()[inside].astype(np.float32, copy=False))
    np.logical_or.at(hit, of_voxel, np.asarray(label).ravel()[inside] > 0)
    return highest, hit
