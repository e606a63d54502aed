"""An Agatston-style score of a segmented scan.

Agatston et al. 1990 scored coronary calcium on slices of 3 mm: each lesion of a slice counts its area in mm² times a
factor for its brightest voxel. Here the lesions are those of a mask rather than everything bright, and slices of other
spacing are scaled by spacing/3 mm, so that the same calcium scores about the same (Ohnesorge et al. 2002). The score is
not validated for intracranial arteries, and it depends on the scanner's tube voltage: it orders scans, no more.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from data_modules.scan.geometry import Volume
from iac_lightning.evaluation.metrics.lesions import MINIMUM_HU, as_mask, bounding_box, require_same_grid

MINIMUM_AREA_MM2 = 1.0
"""A smaller lesion of a slice does not count."""

REFERENCE_INCREMENT_MM = 3.0
"""Distance between slices that the score was made for."""

_FACTOR_EDGES_HU = (200.0, 300.0, 400.0)  # factors 1, 2, 3 and 4: 130–199, 200–299, 300–399 and from 400 HU
_ALL_8 = np.ones((3, 3), dtype=bool)


def agatston(mask: Volume, hu: Volume, slice_axis: int = 2) -> float:
    """The score of the voxels of a mask with at least 130 HU.

    A lesion of a slice is an 8-connected component in that slice. Its factor follows from its brightest voxel: 1 for
    130–199 HU, 2 for 200–299, 3 for 300–399, 4 from 400. Lesions under 1 mm² do not count (one of exactly 1 mm² does).
    Score = Σ area in mm² · factor · (distance between slices / 3 mm).

    Args:
        mask: `[X, Y, Z]`.
        hu: the scan on the same grid.
        slice_axis: array axis across the slices.

    Returns:
        0 for an empty mask.

    Raises:
        UserError: when the grids differ.
        ValueError: when `mask` is not boolean or integer.
    """
    require_same_grid(mask, hu, "mask", "scan")
    inside = as_mask(mask.data)
    box = bounding_box(inside)
    if box is None:
        return 0.0
    values = np.moveaxis(hu.data[box], slice_axis, 0)
    calcium = np.moveaxis(inside[box], slice_axis, 0) & (values >= MINIMUM_HU)
    spacing = list(mask.grid.spacing_mm)
    increment = spacing.pop(slice_axis)
    pixel_mm2 = spacing[0] * spacing[1]
    ids, n = ndimage.label(calcium, structure=np.stack([np.zeros_like(_ALL_8), _ALL_8, np.zeros_like(_ALL_8)]))
    if not n:
        return 0.0
    area = np.bincount(ids.ravel())[1:] * pixel_mm2
    peak = np.full(n, -np.inf)
    np.maximum.at(peak, ids[calcium] - 1, values[calcium])  # sorts nothing, as ndimage.maximum does
    factor = 1 + np.searchsorted(_FACTOR_EDGES_HU, peak, side="right")
    counts = area >= MINIMUM_AREA_MM2 - 1e-4  # spacings are stored in single precision
    return float((area * factor)[counts].sum() * increment / REFERENCE_INCREMENT_MM)
