"""Thresholds of calibrated probability from the development scans: one for all, or one for each slice thickness.

Each scan is scored by itself (`threshold_scores`, which worker processes may do), then all are looked at together
(`choose_thresholds`). A model of this project and one from elsewhere are treated alike.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isnan
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from data_modules.scan.geometry import Volume
from iac_lightning.evaluation.calibration.quality import RESAMPLES
from iac_lightning.evaluation.calibration.scaling import Scaling, apply
from iac_lightning.evaluation.calibration.threshold import CALIBRATED_GRID, choose_threshold, dice_at_thresholds
from iac_lightning.evaluation.statistics.bootstrap import paired_difference
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


@dataclass(frozen=True, kw_only=True)
class ThresholdScores:
    """What one development scan says of thresholds.

    Attributes:
        dice: `[len(CALIBRATED_GRID)]`, of the plain mask.
        prior_dice: likewise, of the mask after the protocol prior.
        has_lesion: whether any voxel is labelled.
        n_unseen: labelled voxels of which the model says nothing.
        slice_thickness_mm: of the scan.
    """

    dice: NDArray[np.float64]
    prior_dice: NDArray[np.float64]
    has_lesion: bool
    n_unseen: int
    slice_thickness_mm: float


def threshold_scores(
    raw: Volume,
    label: NDArray[np.bool_],
    hu: Volume,
    slice_thickness_mm: float,
    scaling: Scaling,
    *,
    n_outside: int = 0,
    domain_hu: float | None = None,
) -> ThresholdScores:
    """Dice of one development scan at each of `CALIBRATED_GRID`, plain and after the protocol prior.

    Args:
        raw: uncalibrated probability `[X, Y, Z]`, on native voxels: of the scan or of a region of it.
        label: `[X, Y, Z]`.
        hu: the scan on the same grid.
        slice_thickness_mm: of the scan.
        scaling: temperature and bias to apply first.
        n_outside: labelled voxels outside the region: they can only be missed, and count as in every evaluation.
        domain_hu: darker voxels count as unseen, as do those of probability 0.
    """
    probability = raw.with_data(apply(raw.data, scaling.temperature, scaling.bias))
    unseen = raw.data == 0
    if domain_hu is not None:
        unseen |= hu.data < domain_hu
    return ThresholdScores(
        dice=dice_at_thresholds(probability, label, CALIBRATED_GRID, n_outside=n_outside),
        prior_dice=dice_at_thresholds(probability, label, CALIBRATED_GRID, hu=hu, n_outside=n_outside),
        has_lesion=bool(label.any()) or n_outside > 0,
        n_unseen=n_outside + int(np.count_nonzero(label & unseen)),
        slice_thickness_mm=slice_thickness_mm,
    )


def choose_thresholds(
    scores: Sequence[ThresholdScores], patients: Sequence[str], seed: int, strata: Sequence[Stratum]
) -> dict[str, Any]:
    """The thresholds with the best mean Dice, for the plain mask and for the one after the protocol prior.

    Args:
        scores: of each development scan.
        patients: `[len(scores)]`, whose scan it is.
        seed: of the folds and the bootstrap.
        strata: of slice thickness, which may have a threshold of their own.

    Returns:
        What goes into `calibration.json`: `operating_point`, `plain_threshold`, `plain_thickness`, `plain_score`,
        `n_with_lesion`, `n_lesion_voxels_unseen`.

    Raises:
        UserError: when no scan has a lesion.
    """
    lesions = [s.has_lesion for s in scores]
    thickness_mm = [s.slice_thickness_mm for s in scores]
    found: dict[str, Any] = {}
    for name, dice in (("plain", [s.dice for s in scores]), ("point", [s.prior_dice for s in scores])):
        matrix = np.array(dice)
        threshold, mean = choose_threshold(matrix, CALIBRATED_GRID, lesions)
        found[name] = threshold, mean, thresholds_by_thickness(matrix, lesions, patients, thickness_mm, seed, strata)
    threshold, _, by_thickness = found["point"]
    plain_threshold, plain_score, plain_thickness = found["plain"]
    return {
        "operating_point": {
            "aim": "dice",
            "rule": "protocol",
            "least_lesion_mm3": 0.0,
            "threshold": threshold,
            "thickness": by_thickness,
        },
        "plain_threshold": plain_threshold,
        "plain_thickness": plain_thickness,
        "plain_score": plain_score,
        "n_with_lesion": sum(lesions),
        "n_lesion_voxels_unseen": sum(s.n_unseen for s in scores),
    }


def thresholds_by_thickness(
    dice: NDArray[np.float64],
    has_lesion: ArrayLike,
    patients: Sequence[str],
    thickness_mm: ArrayLike,
    seed: int,
    thickness_strata: Sequence[Stratum] = THICKNESS_STRATA,
) -> dict[str, Any]:
    """Whether thresholds of their own help the strata of slice thickness, and which they are.

    A stratum may have its own threshold from `STRATUM_PATIENTS` patients with lesions on; two strata are needed. Own
    thresholds are used where the 95 % interval over patients of their gain in Dice (`_cross_validated`) lies above 0.

    Args:
        dice: `[n_series, len(CALIBRATED_GRID)]`.
        has_lesion: `[n_series]`; scans without do not count.
        patients: `[n_series]`.
        thickness_mm: `[n_series]`.
        seed: of the folds and the bootstrap.
        thickness_strata: which strata are tried.

    Returns:
        Plain types: `used`, `why`, `gain` (mean, ci95, n_patients; None where not tried), and `strata`, a list of
        `stratum`, `above_mm`, `up_to_mm` (None: no limit), `n_patients`, `threshold` (None: too few).
    """
    lesion = np.asarray(has_lesion, dtype=bool)
    names, thickness = np.asarray(patients)[lesion], np.asarray(thickness_mm, dtype=float)[lesion]
    scores = np.asarray(dice)[lesion]
    strata: list[dict[str, Any]] = []
    member = np.full(len(names), -1)
    for k, (name, low, high) in enumerate(thickness_strata):
        inside = (thickness > low) & (thickness <= high)
        n_patients = len(np.unique(names[inside]))
        enough = n_patients >= STRATUM_PATIENTS
        if enough:
            member[inside] = k
        strata.append(
            {
                "stratum": name,
                "above_mm": low,
                "up_to_mm": None if np.isinf(high) else high,
                "n_patients": n_patients,
                "threshold": _best(scores[inside]) if enough else None,
            }
        )
    result: dict[str, Any] = {"used": False, "gain": None, "strata": strata}
    if sum(s["threshold"] is not None for s in strata) < 2:
        largest = ", ".join(f"{s['stratum']}: {s['n_patients']}" for s in strata)
        why = f"one threshold for all: fewer than two strata have {STRATUM_PATIENTS} patients with lesions ({largest})"
        return {**result, "why": why}
    shared, own = _cross_validated(scores, names, member, seed)
    gain = paired_difference(own, shared, names, seed=seed, resamples=RESAMPLES).difference
    used = not isnan(gain.low) and gain.low > 0
    words = f"{gain.estimate:+.4f} Dice [{gain.low:+.4f}; {gain.high:+.4f}] in {FOLDS}-fold cross-validation by patient"
    return {
        **result,
        "used": used,
        "gain": {"mean": gain.estimate, "ci95": [gain.low, gain.high], "n_patients": gain.n_patients},
        "why": f"thresholds by stratum gain {words}" if used else f"one threshold for all: strata change {words}",
    }


def _cross_validated(
    scores: NDArray[np.float64], patients: NDArray[np.str_], member: NDArray[np.signedinteger], seed: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Dice of each scan `[n]` at thresholds that the patients of the other folds choose.

    Args:
        scores: `[n, len(CALIBRATED_GRID)]`.
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
        common = _best(scores[rest])
        shared[held] = own[held] = scores[held, _step(common)]
        for k in np.unique(member[held & (member >= 0)]):
            learn, judge = rest & (member == k), held & (member == k)
            if learn.any():
                own[judge] = scores[judge, _step(_best(scores[learn]))]
    return shared, own


def _best(scores: NDArray[np.float64]) -> float:
    return choose_threshold(scores, CALIBRATED_GRID, np.ones(len(scores), dtype=bool))[0]


def _step(threshold: float) -> int:
    return int(np.searchsorted(CALIBRATED_GRID, threshold))
