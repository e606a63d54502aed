"""Whether the arteries of a region are bright with contrast agent, which reads as calcium.

Bone has every brightness at its edges, so what counts lies away from it: at 150 to 500 HU there a plain scan holds
some calcium of plexus, dura and small plaques, a CT angiography all arteries of the cisterns.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from data_modules.scan.scan import Scan

_BONE_HU = 500.0
_BRIGHT_HU = 150.0
_TISSUE_HU = -50.0
_SMALLEST_MM3 = 80.0
"""Less is a plaque or two."""
_FROM_BONE_MM = 8.0
"""Farther than this and a slice's thickness from bone none of it is in a voxel."""
_SAMPLES_MM = 1.5
"""Means of boxes up to this size: single voxels of sharp kernels have noise beyond 150 HU."""
_THICKEST_MM = 3.0
"""Thicker slices blend so much bone into tissue that nothing can be told: a plain head of 4 mm has 0.004 to 0.016."""
_MOST = 0.0013
"""Largest share of a plain scan: phantoms have at most 0.00065, a real head 0; arteries of 300 HU and more 0.0025."""


def bright_share(region: Scan) -> float:
    """Share of bright voxels in tissue away from bone; 0 for the volume of a plaque, NaN for too little tissue."""
    spacing = region.grid.spacing_mm
    steps = [min(n, max(1, int(_SAMPLES_MM / s + 1e-6))) for n, s in zip(region.hu.shape, spacing, strict=True)]
    hu = _means(region.hu, steps)
    single = region.hu[tuple(slice(step // 2, n * step, step) for n, step in zip(hu.shape, steps, strict=True))]
    bone = (hu >= _BONE_HU) | (single >= _BONE_HU)  # thin bone is lost in a mean
    away = np.ones(hu.shape, dtype=bool)
    if bone.any():
        sampling = [s * step for s, step in zip(spacing, steps, strict=True)]
        away = ndimage.distance_transform_edt(~bone, sampling=sampling) > _FROM_BONE_MM + region.slice_thickness_mm
    tissue = np.count_nonzero(away & (hu > _TISSUE_HU))
    if tissue < 0.01 * hu.size:
        return float("nan")
    bright = np.count_nonzero(away & (hu >= _BRIGHT_HU))
    volume_mm3 = bright * float(np.prod([s * step for s, step in zip(spacing, steps, strict=True)]))
    return bright / tissue if volume_mm3 >= _SMALLEST_MM3 else 0.0


def _means(hu: NDArray[Any], steps: list[int]) -> NDArray[np.float32]:
    """Means of boxes of `steps` voxels; what is left over at the far ends is left out."""
    counts = [n // step for n, step in zip(hu.shape, steps, strict=True)]
    whole = hu[tuple(slice(count * step) for count, step in zip(counts, steps, strict=True))]
    pairs = [n for count, step in zip(counts, steps, strict=True) for n in (count, step)]
    means: NDArray[np.float32] = whole.reshape(pairs).mean(axis=(1, 3, 5), dtype=np.float32)
    return means


def contrast_remarks(region: Scan) -> list[str]:
    """A remark where the arteries of a region of interest are bright."""
    if region.slice_thickness_mm > _THICKEST_MM:
        return []
    share = bright_share(region)
    if not share > _MOST:
        return []
    return [
        f"arteries look bright with contrast agent: {share:.2%} of the tissue away from bone has {_BRIGHT_HU:g} to "
        f"{_BONE_HU:g} HU, in plain CT at most {_MOST:.2%}; contrast reads as calcium, a volume means nothing then"
    ]
