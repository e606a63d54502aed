"""What a validation says of one development series. Imports no torch, so that helpers start fast."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from data_modules.prepare.store import PreparedSeries
from data_modules.scan.geometry import Volume
from data_modules.scan.resampling import probability_on_scan
from iac_lightning.evaluation.calibration.threshold import RAW_GRID, dice_at_thresholds


def native_probability(item: PreparedSeries, common: Volume, restrict_hu: float | None) -> Volume:
    """Probability `[X, Y, Z]` of a series' region on the scan's own voxels, from that on the common grid."""
    return probability_on_scan(common, Volume(np.asarray(item.native_hu()), item.native_grid), restrict_hu)


def development_dice(
    item: PreparedSeries, common: Volume, restrict_hu: float | None
) -> tuple[bool, NDArray[np.float64]]:
    """Whether a series has a lesion in its region, and its Dice there at each of `RAW_GRID`."""
    label = np.asarray(item.native_label()) > 0
    probability = native_probability(item, common, restrict_hu)
    return bool(label.any()), dice_at_thresholds(probability.data, label, RAW_GRID)
