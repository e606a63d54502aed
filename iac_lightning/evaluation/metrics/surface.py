"""How far two outlines lie apart: normalised surface Dice and the 95th percentile Hausdorff distance.

The surface of a mask is its surface voxels: those with a 6-neighbour outside the mask, where everything beyond the
image is outside. Distances are between voxel centres in mm, so anisotropic voxels count as they are. Every surface
voxel has the same weight. (Other definitions weigh surface elements by their area, or measure at voxel borders; their
figures differ by a fraction of a voxel, which matters for lesions of a few voxels: compare like with like.)

Both directions are pooled for the surface Dice; the Hausdorff distance is the larger of the two directed 95th
percentiles (Maier-Hein et al. 2024, Metrics Reloaded). MONAI defines both the same way.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import KDTree

from iac_lightning.evaluation.metrics.lesions import as_mask, bounding_box

TOLERANCE_MM = 1.0
"""Surface voxels that lie this near to the other surface agree."""

_ROUNDING_MM = 1e-4  # affines are stored in single precision: a distance of two 0.5 mm voxels comes out as 1.0000001


@dataclass(frozen=True, kw_only=True)
class SurfaceMetrics:
    """Figures of two outlines.

    Attributes:
        nsd: share of both masks' surface voxels within the tolerance of the other surface (Nikolov et al. 2021); 1 by
            convention when both masks are empty, 0 when one is.
        hd95_mm: 95th percentile Hausdorff distance; nan when both masks are empty, infinite when one is.
    """

    nsd: float
    hd95_mm: float


def surface_metrics(
    prediction: NDArray[Any],
    label: NDArray[Any],
    spacing_mm: tuple[float, float, float],
    tolerance_mm: float = TOLERANCE_MM,
) -> SurfaceMetrics:
    """Surface Dice and 95th percentile Hausdorff distance of two masks `[X, Y, Z]`.

    The cost depends on the number of surface voxels, hardly on the size of the image.

    Args:
        prediction: mask.
        label: mask of the same shape.
        spacing_mm: distance between voxel centres along each axis; the axes stand at right angles.
        tolerance_mm: of the surface Dice.

    Raises:
        ValueError: when a mask is floating point or the shapes differ.
    """
    if prediction.shape != label.shape:
        raise ValueError(f"prediction of shape {prediction.shape} against a label of shape {label.shape}")
    a, b = (surface_voxels(as_mask(mask)) * np.asarray(spacing_mm) for mask in (prediction, label))
    if not len(a) and not len(b):
        return SurfaceMetrics(nsd=1.0, hd95_mm=float("nan"))
    if not len(a) or not len(b):
        return SurfaceMetrics(nsd=0.0, hd95_mm=float("inf"))
    to_b, to_a = KDTree(b).query(a)[0], KDTree(a).query(b)[0]
    near = np.count_nonzero(np.concatenate([to_a, to_b]) <= tolerance_mm + _ROUNDING_MM)
    return SurfaceMetrics(
        nsd=near / (len(a) + len(b)), hd95_mm=float(max(np.percentile(to_a, 95), np.percentile(to_b, 95)))
    )


def surface_voxels(mask: NDArray[np.bool_]) -> NDArray[np.intp]:
    """Indices `[n, 3]` of the voxels with a 6-neighbour outside the mask or beyond the image."""
    box = bounding_box(mask)
    if box is None:
        return np.empty((0, 3), dtype=np.intp)
    inner = mask[box]  # what is beyond the bounding box is outside, just as what is beyond the image
    return np.argwhere(inner & ~ndimage.binary_erosion(inner)) + [part.start for part in box]
