"""Dice over a grid of thresholds, and the threshold that maximises its mean over the development set."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from data_modules.errors import UserError
from data_modules.scan.geometry import Volume
from iac_lightning.evaluation.metrics.lesions import MINIMUM_HU, as_mask, protocol_prior_probability

RAW_GRID = np.arange(1, 50) / 50
"""Thresholds of uncalibrated probability to choose from: 0.02, 0.04 … 0.98."""

CALIBRATED_GRID = np.array(
    [*(digit / 10**power for power in (5, 4) for digit in (1, 2, 3, 5, 7)), 0.001, *(k / 500 for k in range(1, 500))]
)
"""Thresholds of calibrated probability to choose from: 0.002, 0.004 … 0.998, and some from 0.00001 on. Lesions are
rare: where a model knows little, its calibrated probabilities are all near their share."""

_PLATEAU = 1e-12


def dice_at_thresholds(
    probability: Volume | NDArray[Any],
    label: Volume | NDArray[Any],
    thresholds: ArrayLike = RAW_GRID,
    hu: Volume | None = None,
    minimum_hu: float = MINIMUM_HU,
    n_outside: int = 0,
) -> NDArray[np.float64]:
    """Dice of `probability >= t` for every threshold t, from one histogram instead of one mask per threshold.

    Thresholds are compared in the probability's own type, as in `probability >= 0.7` with a Python float, so that the
    chosen threshold gives exactly this mask again at prediction.

    Args:
        probability: `[X, Y, Z]` floating point.
        label: mask of the same shape.
        thresholds: `[T]`, rising.
        hu: the scan on the probability's grid; given, the protocol prior (`protocol_prior`) is applied at every
            threshold. Needs `probability` as a Volume.
        minimum_hu: darkest value the prior lets through.
        n_outside: labelled voxels beyond the array, which no positive threshold reaches.

    Returns:
        `[T]` Dice; 1 where prediction and label are both empty.

    Raises:
        ValueError: when shapes differ, thresholds do not rise (or start at 0 with the prior or voxels outside), or a
            probability is not finite.
        UserError: when `hu` lies on another grid.
    """
    if hu is not None:
        if not isinstance(probability, Volume):
            raise ValueError("the protocol prior needs the probability as a Volume, so that grids can be compared")
        probability = protocol_prior_probability(probability, hu, minimum_hu)
    p = probability.data if isinstance(probability, Volume) else probability
    g = as_mask(label.data if isinstance(label, Volume) else label)
    if p.shape != g.shape:
        raise ValueError(f"probability of shape {p.shape} against a label of shape {g.shape}")
    if not np.issubdtype(p.dtype, np.floating) or not np.isfinite(p).all():
        raise ValueError(f"probabilities must be finite floating point numbers, got {p.dtype}")
    steps = np.asarray(thresholds, dtype=np.float64)
    if steps.ndim != 1 or not len(steps) or (np.diff(steps) <= 0).any():
        raise ValueError("thresholds must be a rising list")
    if (hu is not None or n_outside) and steps[0] <= 0:
        raise ValueError(f"with the protocol prior or voxels outside thresholds must be positive, got {steps[0]}")
    cuts = steps.astype(p.dtype)
    # A voxel in bin k is predicted at thresholds 0…k-1; counting from the top gives |P| and |P∩G| at each threshold.
    counts = np.zeros((2, len(cuts) + 1), dtype=np.int64)
    # Slice by slice, or the bins of a whole head take eight bytes a voxel.
    for values, inside in zip(np.moveaxis(p, -1, 0), np.moveaxis(g, -1, 0), strict=True) if p.ndim > 1 else ((p, g),):
        candidate = values >= cuts[0]
        bins = np.searchsorted(cuts, values[candidate], side="right")
        counts[0] += np.bincount(bins, minlength=len(cuts) + 1)
        counts[1] += np.bincount(bins[inside[candidate]], minlength=len(cuts) + 1)
    predicted, hits = counts[:, ::-1].cumsum(axis=1)[:, ::-1][:, 1:]
    total = predicted + int(g.sum()) + n_outside
    return np.where(total > 0, 2 * hits / np.maximum(total, 1), 1.0)


def choose_threshold(dice_matrix: NDArray[np.float64], thresholds: ArrayLike, counts: ArrayLike) -> tuple[float, float]:
    """The threshold with the best mean Dice, or another value that is better where it is higher.

    Args:
        dice_matrix: `[n_series, T]` from `dice_at_thresholds`, development scans only.
        thresholds: `[T]`.
        counts: `[n_series]` booleans, such as whether a scan has a lesion, or weights; those of 0 do not count.

    Returns:
        Threshold (a Python float, see `dice_at_thresholds`) and its mean Dice.

    Raises:
        UserError: when no scan counts.
        ValueError: when the shapes do not fit.
    """
    matrix, steps = np.asarray(dice_matrix, dtype=np.float64), np.asarray(thresholds, dtype=np.float64)
    weights = np.asarray(counts, dtype=np.float64)
    if matrix.shape != (len(weights), len(steps)):
        raise ValueError(f"Dice of shape {matrix.shape}, expected {(len(weights), len(steps))}")
    chosen = weights > 0
    if not chosen.any():
        raise UserError(
            f"none of the {len(weights)} development scans has a lesion, so no threshold can be chosen; "
            "add labelled scans with lesions to the dev split or state the threshold"
        )
    mean = np.average(matrix[chosen], axis=0, weights=weights[chosen])
    best = middle_of_best(mean)
    return float(steps[best]), float(mean[best])


def middle_of_best(values: NDArray[np.float64]) -> int:
    """Where values `[T]` are highest.

    Equal ones often form a plateau; its middle is the choice least sensitive to a new scan. Of several plateaus the
    longest counts (the first among equally long ones); of an even number of steps the lower middle one.
    """
    best = np.concatenate([[False], values >= values.max() - _PLATEAU, [False]])
    starts, stops = np.flatnonzero(best[1:] & ~best[:-1]), np.flatnonzero(best[:-1] & ~best[1:])
    longest = int(np.argmax(stops - starts))
    return int(starts[longest] + stops[longest] - 1) // 2
