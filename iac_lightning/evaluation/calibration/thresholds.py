"""Thresholds of calibrated probability from the development scans: one for all, or one for each slice thickness."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isnan
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from iac_lightning.evaluation.calibration.threshold import CALIBRATED_GRID, choose_threshold
from iac_lightning.evaluation.statistics.paired import paired_difference
from iac_lightning.evaluation.statistics.strata import THICKNESS_STRATA, Stratum

STRATUM_PATIENTS = 10
"""Fewest patients with lesions for which a slice-thickness stratum may have a threshold of its own."""
FOLDS = 5


@dataclass(frozen=True, kw_only=True)
class Thresholds:
    """Where calibrated probabilities are cut.

    Attributes:
        general: for scans of all kinds.
        by_thickness: from `thresholds_by_thickness`: `used`, and `strata` with their own.
    """

    general: float
    by_thickness: Mapping[str, Any]

    def at(self, slice_thickness_mm: float) -> float:
        """For one scan: its stratum's own where strata were found useful and it has one, else the general."""
        for stratum in self.by_thickness["strata"] if self.by_thickness["used"] else ():
            below = stratum["up_to_mm"] is None or slice_thickness_mm <= stratum["up_to_mm"]
            if slice_thickness_mm > stratum["above_mm"] and below and stratum["threshold"] is not None:
                return float(stratum["threshold"])
        return self.general


def thresholds_by_thickness(
    scores: NDArray[np.float64],
    weights: ArrayLike,
    has_lesion: ArrayLike,
    patients: ArrayLike,
    thickness_mm: ArrayLike,
    seed: int,
    thickness_strata: Sequence[Stratum] = THICKNESS_STRATA,
) -> dict[str, Any]:
    """Whether thresholds of their own help the strata of slice thickness, and which they are.

    A stratum may have its own threshold from `STRATUM_PATIENTS` patients with lesions on; two strata are needed. Own
    thresholds are used where the 95 % interval over patients of their gain (`_cross_validated`) lies above 0.

    Args:
        scores: `[n_series, len(CALIBRATED_GRID)]` Dice, or what else the operating point is chosen for.
        weights: `[n_series]` of the scans in the mean that is to be large; those of 0 do not count.
        has_lesion: `[n_series]`.
        patients: `[n_series]`.
        thickness_mm: `[n_series]`.
        seed: of the folds and the bootstrap.
        thickness_strata: which strata are tried.

    Returns:
        Plain types: `used`, `why`, `gain` (mean, ci95, n_patients; None where not tried), and `strata`, a list of
        `stratum`, `above_mm`, `up_to_mm` (None: no limit), `n_patients`, `threshold` (None: too few).
    """
    weight = np.asarray(weights, dtype=float)
    counts = weight > 0
    names, thickness = np.asarray(patients)[counts], np.asarray(thickness_mm, dtype=float)[counts]
    lesion = np.asarray(has_lesion, dtype=bool)[counts]
    scores, weight = np.asarray(scores)[counts], weight[counts]
    strata: list[dict[str, Any]] = []
    member = np.full(len(names), -1)
    for k, (name, low, high) in enumerate(thickness_strata):
        inside = (thickness > low) & (thickness <= high)
        n_patients = len(np.unique(names[inside & lesion]))
        enough = n_patients >= STRATUM_PATIENTS
        if enough:
            member[inside] = k
        strata.append(
            {
                "stratum": name,
                "above_mm": low,
                "up_to_mm": None if np.isinf(high) else high,
                "n_patients": n_patients,
                "threshold": _best(scores[inside], weight[inside]) if enough else None,
            }
        )
    result: dict[str, Any] = {"used": False, "gain": None, "strata": strata}
    if sum(s["threshold"] is not None for s in strata) < 2:
        largest = ", ".join(f"{s['stratum']}: {s['n_patients']}" for s in strata)
        why = f"one threshold for all: fewer than two strata have {STRATUM_PATIENTS} patients with lesions ({largest})"
        return {**result, "why": why}
    shared, own = _cross_validated(scores, weight, names, member, seed)
    gain = paired_difference(own, shared, names).difference
    used = not isnan(gain.low) and gain.low > 0
    words = f"{gain.estimate:+.4f} [{gain.low:+.4f}; {gain.high:+.4f}] in {FOLDS}-fold cross-validation by patient"
    return {
        **result,
        "used": used,
        "gain": {"mean": gain.estimate, "ci95": [gain.low, gain.high], "n_patients": gain.n_patients},
        "why": f"thresholds by stratum gain {words}" if used else f"one threshold for all: strata change {words}",
    }


def _cross_validated(
    scores: NDArray[np.float64],
    weights: NDArray[np.float64],
    patients: NDArray[np.str_],
    member: NDArray[np.signedinteger],
    seed: int,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Score of each scan `[n]` at thresholds that the patients of the other folds choose.

    Args:
        scores: `[n, len(CALIBRATED_GRID)]`.
        weights: `[n]`.
        patients: `[n]`; all scans of one lie in one fold.
        member: `[n]` index of the stratum; -1 where it may have no threshold of its own.
        seed: of the folds.

    Returns:
        At the threshold that all share, and at that of its own stratum (the shared one where the other folds have none
        of the stratum).
    """
    unique, codes = np.unique(patients, return_inverse=True)
    fold = (np.random.default_rng([seed, 2]).permutation(len(unique)) % FOLDS)[codes]
    shared, own = np.empty(len(patients)), np.empty(len(patients))
    for f in range(FOLDS):
        held, rest = fold == f, fold != f
        common = _best(scores[rest], weights[rest])
        shared[held] = own[held] = scores[held, _step(common)]
        for k in np.unique(member[held & (member >= 0)]):
            learn, judge = rest & (member == k), held & (member == k)
            if learn.any():
                own[judge] = scores[judge, _step(_best(scores[learn], weights[learn]))]
    return shared, own


def _best(scores: NDArray[np.float64], weights: NDArray[np.float64]) -> float:
    return choose_threshold(scores, CALIBRATED_GRID, weights)[0]


def _step(threshold: float) -> int:
    return int(np.searchsorted(CALIBRATED_GRID, threshold))
