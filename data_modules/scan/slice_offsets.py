"""Some slices of a scan stored with an offset, as where rescale tags were lost in part of the files."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_modules.scan.geometry import AIR_HU

_JUMP_HU = 700  # of nine voxels in ten; ordinary: 543 in crops of 40 voxels; with a slice at +1024: 776
_FEWEST = 50  # voxels
_SIDE = 64  # of the voxels in a slice that are looked at


def offset_slices(planes: list[NDArray[Any]], constant: NDArray[np.bool_]) -> str | None:
    """What is wrong where next to all voxels rise or fall from a slice to the next, whatever they show; None elsewhere.

    Args:
        planes: slices in order.
        constant: which of them hold one value only.
    """
    for k in np.flatnonzero(~constant[:-1] & ~constant[1:]):
        step = max(1, min(planes[k].shape) // _SIDE)
        under, over = (planes[i][::step, ::step].astype(np.float32) for i in (k, k + 1))
        rise = (over - under)[(under > AIR_HU) & (over > AIR_HU)]
        if rise.size < _FEWEST:
            continue
        low, middle, high = np.percentile(rise, (10, 50, 90))
        if low > _JUMP_HU or high < -_JUMP_HU:
            return (
                f"{abs(middle):.0f} HU {'more' if middle > 0 else 'less'} in slice {k + 2} than in slice {k + 1} of "
                f"{len(planes)} wherever one looks: some slices are stored with an offset, not HU"
            )
    return None
