"""What a common grid lets anybody reach: a faultless network's masks, brought back to the scans' own voxels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from data_modules.scan.geometry import Grid, Volume
from data_modules.scan.resampling import resample_occupancy, resample_probability
from iac_lightning.evaluation.calibration.threshold import RAW_GRID, choose_threshold, dice_at_thresholds
from iac_lightning.evaluation.metrics.lesions import components, protocol_prior_probability


@dataclass(frozen=True, kw_only=True)
class RoundTrip:
    """A label with lesions on a common grid and back.

    Attributes:
        slice_thickness_mm: of the scan.
        dice: `[len(RAW_GRID)]` on the scan's own voxels, of the plain mask at each threshold.
        protocol_dice: likewise, of the mask after the annotation protocol.
        lesion_mm3: `[n]` volume of each lesion.
        reach: `[n]` the largest probability that any voxel of a lesion has at the end: above it the lesion is lost.
        protocol_reach: likewise, after the annotation protocol.
    """

    slice_thickness_mm: float
    dice: NDArray[np.float64]
    protocol_dice: NDArray[np.float64]
    lesion_mm3: NDArray[np.float64]
    reach: NDArray[np.float64]
    protocol_reach: NDArray[np.float64]


def round_trip(label: Volume, hu: Volume, common: Grid, slice_thickness_mm: float) -> RoundTrip:
    """Take a label to a common grid as the share of each voxel that it covers, and back as a probability.

    Nobody can say more of a voxel of the common grid than that share, and it is what a network is taught.

    Args:
        label: `[X, Y, Z]` bool, the region of a scan with at least one lesion.
        hu: the scan on the same grid.
        common: grid with the same directions.
        slice_thickness_mm: of the scan.
    """
    back = resample_probability(resample_occupancy(label, common), label.grid)
    ids, n = components(label.data)
    numbers = np.arange(1, n + 1)
    protocol = protocol_prior_probability(back, hu)
    return RoundTrip(
        slice_thickness_mm=slice_thickness_mm,
        dice=dice_at_thresholds(back, label),
        protocol_dice=dice_at_thresholds(back, label, hu=hu),
        lesion_mm3=np.bincount(ids.ravel())[1:].astype(np.float64) * label.grid.voxel_volume_mm3,
        reach=np.asarray(ndimage.maximum(back.data, ids, numbers), dtype=np.float64),
        protocol_reach=np.asarray(ndimage.maximum(protocol.data, ids, numbers), dtype=np.float64),
    )


@dataclass(frozen=True, kw_only=True)
class Ceiling:
    """The highest mean Dice on some scans through one common grid, in three ways to cut a mask.

    Attributes:
        half: plain, at a probability of 0.5.
        best: plain, at the one threshold that suits these scans best.
        protocol: after the annotation protocol, at its own best threshold.
        best_threshold: of `best`.
        protocol_threshold: of `protocol`.
    """

    half: float
    best: float
    protocol: float
    best_threshold: float
    protocol_threshold: float


_HALF = int(np.argmin(np.abs(RAW_GRID - 0.5)))


def ceiling(trips: Sequence[RoundTrip], of: Sequence[RoundTrip] | None = None) -> Ceiling:
    """Mean Dice over scans.

    Args:
        trips: scans through the same grid, by which thresholds are chosen.
        of: those of them that the mean is over; None: all.
    """
    means, thresholds = [], []
    for name in ("dice", "protocol_dice"):
        matrix = np.array([getattr(trip, name) for trip in trips])
        threshold, _ = choose_threshold(matrix, RAW_GRID, np.ones(len(trips), dtype=bool))
        mean = np.mean([getattr(trip, name) for trip in of or trips], axis=0)
        thresholds.append(threshold)
        means.append((float(mean[_HALF]), float(mean[np.argmin(np.abs(RAW_GRID - threshold))])))
    (half, best), (_, protocol) = means
    return Ceiling(
        half=half, best=best, protocol=protocol, best_threshold=thresholds[0], protocol_threshold=thresholds[1]
    )


def lost(
    trips: Sequence[RoundTrip], threshold: float, above_mm3: float, up_to_mm3: float, *, protocol: bool
) -> tuple[int, int]:
    """How many lesions leave no voxel at all, and of how many.

    Args:
        trips: scans through the same grid.
        threshold: that the mask is cut at.
        above_mm3: volume that a lesion has more of.
        up_to_mm3: and at most.
        protocol: after the annotation protocol.
    """
    volume = np.concatenate([trip.lesion_mm3 for trip in trips])
    reach = np.concatenate([trip.protocol_reach if protocol else trip.reach for trip in trips])
    chosen = (volume > above_mm3) & (volume <= up_to_mm3)
    return int(np.count_nonzero(reach[chosen] < threshold)), int(np.count_nonzero(chosen))
