"""What the masks of one scan hold at each threshold, least lesion and rule, without making one mask for each.

Components only grow together while a threshold falls. So voxels are taken in from the highest probability down, each
neighbourhood once, and after each threshold the components that there are by then are counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse

from data_modules.scan.geometry import Volume
from iac_lightning.evaluation.calibration.operating_point import RULES
from iac_lightning.evaluation.calibration.scaling import Scaling, apply
from iac_lightning.evaluation.calibration.threshold import CALIBRATED_GRID
from iac_lightning.evaluation.metrics.lesions import (
    least_voxels,
    lesion_counts,
    protocol_prior_probability,
    small_voxels,
)

LEAST_LESIONS_MM3 = (0.0, 1.0, 2.0, 3.0, 5.0, 7.5, 10.0)
"""Volumes of the least lesion to choose from; 10 mm³ is the largest that is called small."""

COUNTED = VOXELS, HIT_VOXELS, COMPONENTS, HIT_COMPONENTS, HIT_LESIONS, HIT_SMALL = range(6)
"""What is counted: voxels of the mask, those of them with label, its components, those that touch the label, components
of the label that it touches, and the small ones among these (up to `SMALL_LESION_MM3`)."""

MOST_VOXELS = 500_000
"""Thresholds whose mask is larger are not counted: no calcification is, and neighbours take memory."""

_FORWARD = [offset for offset in product((-1, 0, 1), repeat=3) if offset > (0, 0, 0)]


@dataclass(frozen=True, kw_only=True)
class ScanCounts:
    """What one development scan says of operating points.

    Attributes:
        counts: `[len(RULES), len(LEAST_LESIONS_MM3), len(CALIBRATED_GRID), 6]`; −1 where nothing was counted.
        uncalibrated: `[6]`, of the mask of the network as it was trained, at an uncalibrated probability of 0.5.
        n_label_voxels: labelled voxels, those outside the region included.
        n_lesions: components of the label.
        n_small: those of at most `SMALL_LESION_MM3`.
        n_unseen: labelled voxels of which the model says nothing.
        slice_thickness_mm: of the scan.
    """

    counts: NDArray[np.int32]
    uncalibrated: NDArray[np.int32]
    n_label_voxels: int
    n_lesions: int
    n_small: int
    n_unseen: int
    slice_thickness_mm: float


def scan_counts(
    raw: Volume,
    lesions: NDArray[np.signedinteger],
    lesion_voxels: NDArray[np.integer],
    hu: Volume,
    slice_thickness_mm: float,
    scaling: Scaling,
    *,
    n_outside: int = 0,
    domain_hu: float | None = None,
) -> ScanCounts:
    """Count for one development scan.

    Args:
        raw: uncalibrated probability `[X, Y, Z]`, on native voxels: of the scan or of a region of it.
        lesions: `[X, Y, Z]` ids of the components of the whole scan's label, 1 … n; 0 elsewhere.
        lesion_voxels: `[n]` voxels of each, also of those outside the region.
        hu: the scan on the same grid.
        slice_thickness_mm: of the scan.
        scaling: temperature and bias to apply first.
        n_outside: labelled voxels outside the region: they can only be missed, and count as in every evaluation.
        domain_hu: darker voxels count as unseen, as do those of probability 0.
    """
    own = scaling.of(slice_thickness_mm)
    probability = raw.with_data(apply(raw.data, own.temperature, own.bias))
    by_rule = {"protocol": protocol_prior_probability(probability, hu).data, "none": probability.data}
    fewest = [least_voxels(least_mm3, raw.grid.voxel_volume_mm3) for least_mm3 in LEAST_LESIONS_MM3]
    label, small = lesions > 0, lesion_voxels <= small_voxels(raw.grid.voxel_volume_mm3)
    unseen = raw.data == 0
    if domain_hu is not None:
        unseen |= hu.data < domain_hu
    return ScanCounts(
        counts=np.stack([mask_counts(by_rule[rule], lesions, small, CALIBRATED_GRID, fewest) for rule in RULES]),
        uncalibrated=_of_mask(raw.data >= 0.5, lesions, small),
        n_label_voxels=int(np.count_nonzero(label)) + n_outside,
        n_lesions=len(small),
        n_small=int(small.sum()),
        n_unseen=n_outside + int(np.count_nonzero(label & unseen)),
        slice_thickness_mm=slice_thickness_mm,
    )


def mask_counts(
    probability: NDArray[np.floating],
    lesions: NDArray[np.signedinteger],
    small: NDArray[np.bool_],
    thresholds: ArrayLike,
    fewest: Sequence[int],
) -> NDArray[np.int32]:
    """Counts of `probability >= t` without components of fewer than so many voxels, for every pair of both.

    Args:
        probability: `[X, Y, Z]`; after `protocol_prior_probability` the masks are those after the annotation protocol.
        lesions: `[X, Y, Z]` ids of the components of the label.
        small: `[n]` whether each of these is a small one.
        thresholds: `[T]`, rising, above 0.
        fewest: `[V]` voxels that a component needs.

    Returns:
        `[V, T, 6]`; −1 at thresholds whose mask has more than `MOST_VOXELS`.
    """
    cuts = np.asarray(thresholds, dtype=np.float64).astype(probability.dtype)
    places = np.flatnonzero(probability >= cuts[0])
    steps = np.searchsorted(cuts, probability.ravel()[places], side="right") - 1  # in the masks of 0 … step
    n_above = np.bincount(steps, minlength=len(cuts))[::-1].cumsum()[::-1]
    first = int(np.count_nonzero(n_above > MOST_VOXELS))
    places, steps = places[steps >= first], steps[steps >= first]
    order = np.argsort(-steps, kind="stable")
    pairs, pair_steps = _neighbours(places, steps, probability.shape)
    pairs_end, nodes_end = (
        np.searchsorted(-s, -np.arange(len(cuts)), side="right") for s in (pair_steps, steps[order])
    )
    forest = _Forest(lesions.ravel()[places])
    labelled = order[forest.lesion[order] > 0]
    labelled_end = np.searchsorted(-steps[labelled], -np.arange(len(cuts)), side="right")
    found = np.full((len(fewest), len(cuts), len(COUNTED)), -1, dtype=np.int32)
    n_nodes = n_pairs = 0
    for step in range(len(cuts) - 1, first - 1, -1):
        if step < len(cuts) - 1 and nodes_end[step] == n_nodes:
            found[:, step] = found[:, step + 1]
            continue
        forest.grow(order[n_nodes : nodes_end[step]], pairs[:, n_pairs : pairs_end[step]])
        n_nodes, n_pairs = nodes_end[step], pairs_end[step]
        largest = forest.largest_touching(labelled[: labelled_end[step]], len(small))
        for k, least in enumerate(fewest):
            hit = largest >= least
            found[k, step] = (*forest.count(least), np.count_nonzero(hit), np.count_nonzero(hit & small))
    return found


class _Forest:
    """Components that grow together: every voxel points towards the one that stands for its component.

    Args:
        lesion: `[n]` id of the component of the label that each voxel belongs to; 0: none.
    """

    def __init__(self, lesion: NDArray[np.signedinteger]) -> None:
        self.lesion = lesion
        self._parent = np.arange(len(lesion))
        self._size = np.ones(len(lesion), dtype=np.int64)
        self._hits = (lesion > 0).astype(np.int64)
        self._roots = np.empty(0, dtype=np.int64)

    def grow(self, new: NDArray[np.integer], pairs: NDArray[np.integer]) -> None:
        """Take in voxels `[k]`, and join the two voxels of each pair `[2, m]`."""
        if pairs.size:
            roots, ends = np.unique(self._find(pairs.ravel()), return_inverse=True)
            ends = ends.reshape(pairs.shape)
            ones = np.ones(pairs.shape[1], dtype=np.int32)
            links = sparse.coo_array((ones, (ends[0], ends[1])), shape=(len(roots), len(roots)))
            n, member = sparse.csgraph.connected_components(links, directed=False)
            by_size = np.lexsort((-self._size[roots], member))  # the largest stands for all, so that ways stay short
            heads = roots[by_size[np.searchsorted(member[by_size], np.arange(n))]]
            for values in (self._size, self._hits):
                values[heads] = np.bincount(member, weights=values[roots], minlength=n).astype(np.int64)
            self._parent[roots] = heads[member]
        roots = np.concatenate([self._roots, new])
        self._roots = roots[self._parent[roots] == roots]

    def count(self, fewest: int) -> tuple[int, int, int, int]:
        """Voxels, hit voxels, components and hit components of the components of at least `fewest` voxels."""
        kept = self._roots[self._size[self._roots] >= fewest]
        hits = self._hits[kept]
        return int(self._size[kept].sum()), int(hits.sum()), len(kept), int(np.count_nonzero(hits))

    def largest_touching(self, labelled: NDArray[np.integer], n_lesions: int) -> NDArray[np.int64]:
        """`[n_lesions]` voxels of the largest component that touches each lesion, by the labelled voxels taken in."""
        largest = np.zeros(n_lesions + 1, dtype=np.int64)
        np.maximum.at(largest, self.lesion[labelled], self._size[self._find(labelled)])
        return largest[1:]

    def _find(self, voxels: NDArray[np.integer]) -> NDArray[np.int64]:
        roots = self._parent[voxels]
        while not np.array_equal(roots, above := self._parent[roots]):
            roots = above
        return roots


def _neighbours(
    places: NDArray[np.integer], steps: NDArray[np.integer], shape: tuple[int, ...]
) -> tuple[NDArray[np.int32], NDArray[np.integer]]:
    """Pairs of 26-neighbours `[2, m]` and the step from which both are there `[m]`, the highest first.

    Args:
        places: `[n]` rising places of voxels in an array of `shape`.
        steps: `[n]` last threshold whose mask holds each.
        shape: `[X, Y, Z]`.
    """
    padded = tuple(n + 2 for n in shape)  # so that no neighbour wraps around
    at = np.ravel_multi_index(tuple(c + 1 for c in np.unravel_index(places, shape)), padded)
    strides = np.array([padded[1] * padded[2], padded[2], 1])
    pairs = []
    for offset in _FORWARD:
        wanted = at + int(strides @ offset)
        index = np.minimum(np.searchsorted(at, wanted), max(len(at) - 1, 0))
        here = np.flatnonzero(at[index] == wanted) if len(at) else index
        pairs.append(np.stack([here, index[here]]).astype(np.int32))
    both = np.concatenate(pairs, axis=1)
    lower = np.minimum(steps[both[0]], steps[both[1]])
    order = np.argsort(-lower, kind="stable")
    return both[:, order], lower[order]


def _of_mask(
    mask: NDArray[np.bool_], lesions: NDArray[np.signedinteger], small: NDArray[np.bool_]
) -> NDArray[np.int32]:
    found = lesion_counts(mask, lesions > 0)
    hits = lesions[mask]
    hit_small = np.count_nonzero(small[np.unique(hits[hits > 0]) - 1])
    of_mask = (int(np.count_nonzero(mask)), int(np.count_nonzero(hits)), found.n_predicted, found.n_predicted_hit)
    return np.array([*of_mask, found.n_lesions_hit, hit_small], dtype=np.int32)
