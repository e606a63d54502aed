"""Lesions as 26-connected components, lesion-wise hits, and the annotation protocol as a prior."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from data_modules.errors import UserError
from data_modules.scan.geometry import Volume

MINIMUM_HU = 130.0
"""A voxel can be calcium from here on (Jin et al. 2025, annotation protocol)."""

SMALL_LESION_MM3 = 10.0
"""Volume up to which a lesion is called small: a ball of 2.7 mm, a few voxels of a thick slice."""

_ALL_26 = np.ones((3, 3, 3), dtype=bool)
_NEIGHBOURS = _ALL_26.copy()
_NEIGHBOURS[1, 1, 1] = False


@dataclass(frozen=True, kw_only=True)
class LesionCounts:
    """How many lesions there are and how many are hit; a hit is an overlap of at least one voxel.

    Attributes:
        n_lesions: components of the label.
        n_lesions_hit: those that the prediction touches.
        n_predicted: components of the prediction.
        n_predicted_hit: those that touch the label.
        n_small_lesions: components of the label of at most the given number of voxels.
        n_small_lesions_hit: those that the prediction touches.
    """

    n_lesions: int
    n_lesions_hit: int
    n_predicted: int
    n_predicted_hit: int
    n_small_lesions: int
    n_small_lesions_hit: int

    @property
    def sensitivity(self) -> float:
        """Share of the lesions that are hit; nan without lesions."""
        return self.n_lesions_hit / self.n_lesions if self.n_lesions else float("nan")

    @property
    def ppv(self) -> float:
        """Share of the predicted components that hit; nan without a prediction."""
        return self.n_predicted_hit / self.n_predicted if self.n_predicted else float("nan")

    @property
    def f1(self) -> float:
        """Harmonic mean of sensitivity and PPV; 0 when nothing is hit, nan when both masks are empty."""
        if not self.n_lesions and not self.n_predicted:
            return float("nan")
        if not self.n_lesions_hit:
            return 0.0
        return 2 * self.sensitivity * self.ppv / (self.sensitivity + self.ppv)


def as_mask(data: NDArray[Any]) -> NDArray[np.bool_]:
    """Boolean array of a mask given as booleans or integers (0 is background).

    Raises:
        ValueError: for floating point: a probability must be thresholded first.
    """
    if np.issubdtype(data.dtype, np.floating):
        raise ValueError(f"a mask of type {data.dtype} was given; threshold the probability first (probability >= t)")
    return data.astype(bool)


def bounding_box(mask: NDArray[np.bool_]) -> tuple[slice, slice, slice] | None:
    """The smallest box around a mask `[X, Y, Z]`; None when it is empty."""
    sides = []
    for axis in range(3):
        filled = np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != axis)))
        if not len(filled):
            return None
        sides.append(slice(int(filled[0]), int(filled[-1]) + 1))
    return sides[0], sides[1], sides[2]


def components(mask: NDArray[Any]) -> tuple[NDArray[np.signedinteger], int]:
    """26-connected components of a mask `[X, Y, Z]`: array of ids (0 background, then 1…n) and n."""
    ids, n = ndimage.label(as_mask(mask), structure=_ALL_26)
    return ids, int(n)


def lesion_counts(prediction: NDArray[Any], label: NDArray[Any], small_voxels: int = 0) -> LesionCounts:
    """Lesion-wise hits of a predicted mask against a label mask, both `[X, Y, Z]`.

    Args:
        prediction: predicted mask.
        label: true mask.
        small_voxels: largest number of voxels of a small lesion.
    """
    predicted_ids, n_predicted = components(prediction)
    lesion_ids, n_lesions = components(label)
    both = (predicted_ids > 0) & (lesion_ids > 0)
    hit = np.unique(lesion_ids[both])
    small = np.bincount(lesion_ids.ravel(), minlength=n_lesions + 1) <= small_voxels
    small[0] = False
    return LesionCounts(
        n_lesions=n_lesions,
        n_lesions_hit=len(hit),
        n_predicted=n_predicted,
        n_predicted_hit=len(np.unique(predicted_ids[both])),
        n_small_lesions=int(small.sum()),
        n_small_lesions_hit=int(small[hit].sum()),
    )


def protocol_prior(mask: Volume, hu: Volume, minimum_hu: float = MINIMUM_HU) -> Volume:
    """What the annotation protocol would keep of a mask: voxels of at least `minimum_hu` that are not alone.

    The threshold comes first: a voxel whose only neighbours are darker than `minimum_hu` is dropped as well.
    A voxel is alone without a 26-connected neighbour in the thresholded mask. The rule was applied to the voxels that
    the reader saw, so `hu` must be the scan itself on its native grid: HU that were interpolated or averaged onto
    another grid cross 130 at other voxels.

    Args:
        mask: predicted mask `[X, Y, Z]`.
        hu: the scan on the same grid.
        minimum_hu: darkest value that counts as calcium (inclusive).

    Returns:
        A boolean volume, never larger than `mask`.

    Raises:
        UserError: when the grids differ.
        ValueError: when `mask` is not boolean or integer.
    """
    require_same_grid(mask, hu, "mask", "scan")
    kept = as_mask(mask.data) & (hu.data >= minimum_hu)
    box = bounding_box(kept)
    if box is not None:  # neighbours that count lie in the box too
        bright = kept[box].copy()
        kept[box] = bright & ndimage.binary_dilation(bright, structure=_NEIGHBOURS)
    return mask.with_data(kept)


def least_voxels(least_mm3: float, voxel_mm3: float) -> int:
    """Voxels that a lesion of at least `least_mm3` has; 1 where every lesion counts."""
    return max(1, int(np.ceil(least_mm3 / voxel_mm3 - 1e-6)))  # spacings are stored in single precision


def small_voxels(voxel_mm3: float) -> int:
    """Voxels that a small lesion has at most."""
    return int(SMALL_LESION_MM3 / voxel_mm3 + 1e-6)


def without_small_lesions(mask: Volume, least_mm3: float) -> Volume:
    """A mask `[X, Y, Z]` without its 26-connected components of less than `least_mm3`, as booleans.

    Raises:
        ValueError: when `mask` is not boolean or integer.
    """
    kept = as_mask(mask.data)
    fewest = least_voxels(least_mm3, mask.grid.voxel_volume_mm3)
    box = bounding_box(kept)
    if fewest > 1 and box is not None:
        ids, n = components(kept[box])
        large = np.bincount(ids.ravel(), minlength=n + 1) >= fewest
        large[0] = False
        kept = kept.copy()
        kept[box] = large[ids]
    return mask.with_data(kept)


def protocol_prior_probability(probability: Volume, hu: Volume, minimum_hu: float = MINIMUM_HU) -> Volume:
    """A probability map q so that `q >= t` is `protocol_prior(probability >= t, hu)`, for every t > 0 at once.

    A voxel survives at t when it is bright, p ≥ t, and some bright 26-neighbour has p ≥ t; therefore
    q = min(p, largest p among the bright neighbours), and 0 in dark voxels.

    Raises:
        UserError: when the grids differ.
    """
    require_same_grid(probability, hu, "probability", "scan")
    bright = np.where(hu.data >= minimum_hu, probability.data, probability.data.dtype.type(0))
    result = np.zeros_like(bright)
    box = bounding_box(bright > 0)
    if box is not None:
        inside = bright[box]
        largest = ndimage.maximum_filter(inside, size=3, mode="constant", cval=0)
        # Only where a voxel is itself the largest of its 27 does leaving it out change anything.
        peaks = np.argwhere((inside == largest) & (inside > 0))
        padded = np.pad(inside, 1)
        neighbour = largest.copy()
        at = tuple(peaks.T)
        neighbour[at] = 0
        for offset in np.argwhere(_NEIGHBOURS):
            neighbour[at] = np.maximum(neighbour[at], padded[tuple((peaks + offset).T)])
        result[box] = np.minimum(inside, neighbour)
    return probability.with_data(result)


def require_same_grid(a: Volume, b: Volume, name_a: str, name_b: str) -> None:
    """Stop when two volumes do not put their voxels at the same places.

    Raises:
        UserError: with shape and spacing of both.
    """
    if not a.grid.same_as(b.grid):
        described = [
            f"{name}: {v.grid.shape} voxels of {tuple(round(s, 4) for s in v.grid.spacing_mm)} mm from "
            f"{v.grid.affine[:3, 3].round(2).tolist()} mm"
            for name, v in ((name_a, a), (name_b, b))
        ]
        raise UserError(
            f"the grids of {name_a} and {name_b} differ ({'; '.join(described)}); both must lie on the scan's native "
            "grid: bring the prediction back to it before measuring"
        )
