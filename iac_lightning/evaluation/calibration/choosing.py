"""The operating point: threshold, least lesion and rule together, for a stated aim, by the development scans.

Least lesion and rule are those with which thresholds that other patients have chosen do best (cross-validation by
patient); then all patients choose the threshold. What the whole procedure is worth on patients who had no part in it is
cross-validated once more around it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_modules.errors import UserError
from iac_lightning.evaluation.calibration.aims import Aim, Scans, figures, merit, scan_scores, scan_weights
from iac_lightning.evaluation.calibration.counts import (
    COMPONENTS,
    COUNTED,
    HIT_COMPONENTS,
    HIT_LESIONS,
    LEAST_LESIONS_MM3,
    VOXELS,
    ScanCounts,
)
from iac_lightning.evaluation.calibration.operating_point import AIMS, RULES
from iac_lightning.evaluation.calibration.threshold import CALIBRATED_GRID, middle_of_best
from iac_lightning.evaluation.calibration.thresholds import FOLDS, Thresholds, thresholds_by_thickness
from iac_lightning.evaluation.statistics.strata import Stratum

Cut = tuple[int, int, int]
"""Indices of rule, least lesion and threshold."""

_RULES = list(RULES)
PROTOCOL, NONE = _RULES.index("protocol"), _RULES.index("none")


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """The operating point that some scans have chosen.

    Attributes:
        cut: rule, least lesion and the threshold for all.
        thickness: from `thresholds_by_thickness`, at that rule and least lesion.
    """

    cut: Cut
    thickness: Mapping[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """As `calibration.json` holds it."""
        rule, least, step = self.cut
        return {
            "rule": _RULES[rule],
            "least_lesion_mm3": LEAST_LESIONS_MM3[least],
            "threshold": float(CALIBRATED_GRID[step]),
            "thickness": self.thickness,
        }

    def masks(self, scans: Scans) -> Scans:
        """Scans with the counts `[n, 6]` of their masks, each cut at the threshold for its slice thickness."""
        rule, least, step = self.cut
        thresholds = Thresholds(general=float(CALIBRATED_GRID[step]), by_thickness=self.thickness)
        steps = np.searchsorted(CALIBRATED_GRID, [thresholds.at(mm) for mm in scans.slice_thickness_mm])
        return scans.at(scans.counts[np.arange(len(steps)), rule, least, steps])


def choose_point(
    scans: Sequence[ScanCounts],
    patients: Sequence[str],
    seed: int,
    strata: Sequence[Stratum],
    aim: Aim,
    *,
    any_rule: bool = False,
) -> dict[str, Any]:
    """The operating point of the development scans, what it was chosen among, and the threshold of the plain mask.

    Args:
        scans: of each development scan.
        patients: `[len(scans)]`, whose it is.
        seed: of the folds and the bootstrap.
        strata: of slice thickness, which may have a threshold of their own.
        aim: what is to be as large as can be.
        any_rule: also without the annotation protocol, where that serves the aim better.

    Returns:
        What goes into `calibration.json`: `operating_point`, `plain_threshold`, `plain_thickness`, `plain_score`,
        `n_with_lesion`, `n_lesion_voxels_unseen`.

    Raises:
        UserError: when no scan has a lesion.
    """
    stacked = Scans.stacked(scans, patients)
    if not stacked.has_lesion.any():
        raise UserError(
            f"none of the {len(scans)} development scans has a lesion, so no operating point can be chosen; "
            "add labelled scans with lesions to the dev split or state the threshold"
        )
    least = [v for v, mm3 in enumerate(LEAST_LESIONS_MM3) if mm3 <= aim.keep_from_mm3]
    everything = [(r, v) for r in ([PROTOCOL, NONE] if any_rule else [PROTOCOL]) for v in least]
    chosen = _chosen(stacked, aim, everything, seed, strata)
    plain = _chosen(stacked, aim, [(NONE, 0)], seed, strata)
    uncalibrated = stacked.at(np.stack([s.uncalibrated for s in scans]))
    return {
        "operating_point": {
            "aim": aim.name,
            "keep_lesions_from_mm3": aim.keep_from_mm3,
            "most_false_components_per_scan": aim.most_false if aim.name == "sensitivity_at_fp" else None,
            **chosen.to_dict(),
            **_worth(stacked, chosen, aim, everything, seed, strata),
            "alternatives": [
                *_alternatives(stacked, aim, everything, seed, strata),
                # nothing was fitted to any of these scans
                {"name": "uncalibrated, at probability 0.5", "fitted": None, "cross_validated": figures(uncalibrated)},
            ],
            "froc": _froc(stacked, chosen.cut),
        },
        "plain_threshold": float(CALIBRATED_GRID[plain.cut[2]]),
        "plain_thickness": plain.thickness,
        "plain_score": float(merit(plain.masks(stacked), aim)),
        "n_with_lesion": int(stacked.has_lesion.sum()),
        "n_lesion_voxels_unseen": sum(s.n_unseen for s in scans),
    }


def _alternatives(
    scans: Scans, aim: Aim, allowed: Sequence[tuple[int, int]], seed: int, strata: Sequence[Stratum]
) -> list[dict[str, Any]]:
    """What else could have been chosen, and its price: other aims, and less for the same aim."""
    least = sorted({v for _, v in allowed})
    others = [(f"for {name}", replace(aim, name=name), allowed) for name in AIMS if name != aim.name]
    if len(least) < len(LEAST_LESIONS_MM3):
        every = [(r, v) for r in dict(allowed) for v in range(len(LEAST_LESIONS_MM3))]
        others.append((f"components up to {LEAST_LESIONS_MM3[-1]:g} mm³ may be dropped", aim, every))
    others += [
        ("without a least lesion", aim, [(PROTOCOL, 0)]),
        ("without the annotation protocol", aim, [(NONE, v) for v in least]),
        ("threshold alone", aim, [(NONE, 0)]),
    ]
    rows = []
    for name, other, among in others:
        chosen = _chosen(scans, other, among, seed, strata)
        worth = _worth(scans, chosen, other, among, seed, strata)
        rows.append({"name": name, "aim": other.name, **chosen.to_dict(), **worth})
    return rows


def _chosen(scans: Scans, aim: Aim, allowed: Sequence[tuple[int, int]], seed: int, strata: Sequence[Stratum]) -> Chosen:
    """The whole procedure: `choose`, then thresholds for the strata of slice thickness where these help."""
    cut = choose(scans, aim, allowed, seed)
    if aim.name == "sensitivity_at_fp":
        why = "one threshold for all: false components are limited over all scans"
        return Chosen(cut=cut, thickness={"used": False, "why": why, "gain": None, "strata": []})
    at = scans.at(scans.counts[:, cut[0], cut[1]])
    # No stratum may have a threshold that the scans together may not.
    scores = np.where(np.isfinite(merit(at, aim)), scan_scores(at, aim.name), -1.0)
    weights, thickness_mm = scan_weights(scans, aim.name), scans.slice_thickness_mm
    return Chosen(
        cut=cut,
        thickness=thresholds_by_thickness(
            scores, weights, scans.has_lesion, scans.patients, thickness_mm, seed, strata
        ),
    )


def _worth(
    scans: Scans, chosen: Chosen, aim: Aim, allowed: Sequence[tuple[int, int]], seed: int, strata: Sequence[Stratum]
) -> dict[str, Any]:
    """Figures at the point on the scans that chose it, and on scans of patients who had no part in the choice."""
    held: NDArray[np.int32] = np.zeros((len(scans.patients), len(COUNTED)), dtype=np.int32)
    fold = folds(scans, seed + 1)
    if fold is not None:
        for k in range(fold.max() + 1):
            by_others = _chosen(scans.of(fold != k), aim, allowed, seed, strata)
            held[fold == k] = by_others.masks(scans.of(fold == k)).counts
    return {
        "fitted": figures(chosen.masks(scans)),
        "cross_validated": figures(scans.at(held)) if fold is not None and (held >= 0).all() else None,
    }


def choose(scans: Scans, aim: Aim, allowed: Sequence[tuple[int, int]], seed: int) -> Cut:
    """The operating point of some scans.

    Args:
        scans: that choose; at least one has a lesion.
        aim: what is to be as large as can be.
        allowed: pairs of rule and least lesion to choose among, by their indices; of equals the one with fewer false
            components, then the first.
        seed: of the folds.
    """
    rules, least = np.array(allowed).T
    among = scans.at(scans.counts[:, rules, least])  # [n, pairs, T, 6]
    of_all = merit(among, aim)
    steps = [middle_of_best(row) for row in of_all]
    best = 0
    if len(allowed) > 1:
        fold = folds(scans, seed)
        if fold is None:
            pairs = range(len(allowed))
            held = np.stack([among.counts[:, p, steps[p]] for p in pairs], axis=1)
        else:
            held = _held_out(among, aim, fold)
        values = merit(among.at(held), aim)
        false = (held[..., COMPONENTS] - held[..., HIT_COMPONENTS]).mean(axis=0)
        best = int(np.lexsort((false, -np.round(values, 9)))[0])
    return int(rules[best]), int(least[best]), steps[best]


def _held_out(scans: Scans, aim: Aim, fold: NDArray[np.int64]) -> NDArray[np.int32]:
    """Counts `[n, pairs, 6]` at the thresholds that the patients of the other folds choose.

    Args:
        scans: with counts `[n, pairs, T, 6]`.
        aim: what they choose for.
        fold: `[n]`.
    """
    held = np.empty((*scans.counts.shape[:2], len(COUNTED)), dtype=np.int32)
    for k in range(fold.max() + 1):
        for p, row in enumerate(merit(scans.of(fold != k), aim)):
            held[fold == k, p] = scans.counts[fold == k, p, middle_of_best(row)]
    return held


def folds(scans: Scans, seed: int) -> NDArray[np.int64] | None:
    """`[n]` in which of at most `FOLDS` folds each scan lies; None where no two patients have lesions.

    All scans of a patient lie in one fold, and patients with lesions are dealt first, so that every fold has others.
    """
    unique, codes = np.unique(scans.patients, return_inverse=True)
    with_lesion = np.bincount(codes, weights=scans.has_lesion) > 0
    if with_lesion.sum() < 2:
        return None
    order = np.random.default_rng([seed, 2]).permutation(len(unique))
    order = order[np.argsort(~with_lesion[order], kind="stable")]
    fold_of = np.empty(len(unique), dtype=np.int64)
    fold_of[order] = np.arange(len(unique)) % min(FOLDS, int(with_lesion.sum()))
    return fold_of[codes]


def _froc(scans: Scans, cut: Cut) -> dict[str, list[float]]:
    """False components a scan and the share of lesions hit over all thresholds at a rule and least lesion.

    Thresholds rise from the one with most false components on (below, these only grow together); of those that give the
    same, the first.
    """
    counts = scans.counts[:, cut[0], cut[1]]
    usable = np.asarray((counts[..., VOXELS] >= 0).all(axis=0))
    false = (counts[..., COMPONENTS] - counts[..., HIT_COMPONENTS]).mean(axis=0)
    found = counts[..., HIT_LESIONS].sum(axis=0) / max(int(scans.n_lesions.sum()), 1)
    usable &= np.arange(len(false)) >= np.argmax(np.where(usable, false, -1.0))
    changes = (np.diff(false) != 0) | (np.diff(found) != 0) | ~usable[:-1]
    new = np.flatnonzero(usable & np.concatenate([[True], changes]))
    return {
        "threshold": CALIBRATED_GRID[new].tolist(),
        "false_components_per_scan": false[new].tolist(),
        "lesion_sensitivity": found[new].tolist(),
    }
