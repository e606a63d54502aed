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
from iac_lightning.evaluation.calibration.counts import (
    COMPONENTS,
    COUNTED,
    HIT_COMPONENTS,
    HIT_LESIONS,
    HIT_SMALL,
    LEAST_LESIONS_MM3,
    VOXELS,
    ScanCounts,
)
from iac_lightning.evaluation.calibration.operating_point import AIMS, RULES
from iac_lightning.evaluation.calibration.threshold import CALIBRATED_GRID, middle_of_best
from iac_lightning.evaluation.calibration.thresholds import FOLDS, thresholds_by_thickness
from iac_lightning.evaluation.statistics.plain import defined
from iac_lightning.evaluation.statistics.strata import Stratum

Cut = tuple[int, int, int]
"""Indices of rule, least lesion and threshold."""

MOST_OF_LABEL = 2
"""Voxels of all masks over labelled voxels, at most, for aims that count lesions rather than voxels."""

_RULES = list(RULES)
PROTOCOL, NONE = _RULES.index("protocol"), _RULES.index("none")


@dataclass(frozen=True, kw_only=True)
class Aim:
    """What an operating point is chosen for.

    Attributes:
        name: one of `AIMS`.
        most_false: false components a scan that `sensitivity_at_fp` allows.
        keep_from_mm3: components of this volume or more are never dropped.
    """

    name: str
    most_false: float
    keep_from_mm3: float = LEAST_LESIONS_MM3[-1]


@dataclass(frozen=True, kw_only=True)
class Scans:
    """Development scans, stacked.

    Attributes:
        counts: `[n, …, 6]` as in `ScanCounts`.
        n_label_voxels: `[n]`.
        n_lesions: `[n]`.
        n_small: `[n]`.
        patients: `[n]`.
    """

    counts: NDArray[np.int32]
    n_label_voxels: NDArray[np.int64]
    n_lesions: NDArray[np.int64]
    n_small: NDArray[np.int64]
    patients: NDArray[np.str_]

    @property
    def has_lesion(self) -> NDArray[np.bool_]:
        """`[n]`: whether any voxel is labelled."""
        return self.n_label_voxels > 0

    def of(self, which: NDArray[np.bool_]) -> Scans:
        """Some of them `[n]`."""
        return Scans(
            counts=self.counts[which],
            n_label_voxels=self.n_label_voxels[which],
            n_lesions=self.n_lesions[which],
            n_small=self.n_small[which],
            patients=self.patients[which],
        )

    def at(self, counts: NDArray[np.int32]) -> Scans:
        """The same scans with other counts `[n, …, 6]`."""
        return replace(self, counts=counts)


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
    stacked = Scans(
        counts=np.stack([s.counts for s in scans]),
        n_label_voxels=np.array([s.n_label_voxels for s in scans]),
        n_lesions=np.array([s.n_lesions for s in scans]),
        n_small=np.array([s.n_small for s in scans]),
        patients=np.asarray(patients),
    )
    lesion = stacked.has_lesion
    if not lesion.any():
        raise UserError(
            f"none of the {len(scans)} development scans has a lesion, so no operating point can be chosen; "
            "add labelled scans with lesions to the dev split or state the threshold"
        )
    least = [v for v, mm3 in enumerate(LEAST_LESIONS_MM3) if mm3 <= aim.keep_from_mm3]
    everything = [(r, v) for r in ([PROTOCOL, NONE] if any_rule else [PROTOCOL]) for v in least]
    cut, plain = choose(stacked, aim, everything, seed), choose(stacked, aim, [(NONE, 0)], seed)
    thickness_mm = [s.slice_thickness_mm for s in scans]

    def by_thickness(rule: int, least: int) -> dict[str, Any]:
        if aim.name == "sensitivity_at_fp":
            why = "one threshold for all: false components are limited over all scans"
            return {"used": False, "why": why, "gain": None, "strata": []}
        scores = scan_scores(stacked, aim.name)[:, rule, least]
        weights = scan_weights(stacked, aim.name)
        return thresholds_by_thickness(scores, weights, lesion, patients, thickness_mm, seed, strata)

    uncalibrated = stacked.at(np.stack([s.uncalibrated for s in scans]))
    return {
        "operating_point": {
            "aim": aim.name,
            "keep_lesions_from_mm3": aim.keep_from_mm3,
            "most_false_components_per_scan": aim.most_false if aim.name == "sensitivity_at_fp" else None,
            **_described(cut),
            "thickness": by_thickness(*cut[:2]),
            **_worth(stacked, aim, everything, cut, seed),
            "alternatives": [
                *_alternatives(stacked, aim, everything, seed),
                # nothing was fitted to any of these scans
                {"name": "uncalibrated, at probability 0.5", "fitted": None, "cross_validated": figures(uncalibrated)},
            ],
            "froc": _froc(stacked, cut),
        },
        "plain_threshold": float(CALIBRATED_GRID[plain[2]]),
        "plain_thickness": by_thickness(*plain[:2]),
        "plain_score": float(merit(stacked, aim)[plain]),
        "n_with_lesion": int(lesion.sum()),
        "n_lesion_voxels_unseen": sum(s.n_unseen for s in scans),
    }


def _alternatives(scans: Scans, aim: Aim, allowed: Sequence[tuple[int, int]], seed: int) -> list[dict[str, Any]]:
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
        cut = choose(scans, other, among, seed)
        rows.append({"name": name, "aim": other.name, **_described(cut), **_worth(scans, other, among, cut, seed)})
    return rows


def _described(cut: Cut) -> dict[str, Any]:
    rule, least, step = cut
    return {
        "rule": _RULES[rule],
        "least_lesion_mm3": LEAST_LESIONS_MM3[least],
        "threshold": float(CALIBRATED_GRID[step]),
    }


def _worth(scans: Scans, aim: Aim, allowed: Sequence[tuple[int, int]], cut: Cut, seed: int) -> dict[str, Any]:
    """Figures at the point on the scans that chose it, and on scans of patients who had no part in the choice."""
    held: NDArray[np.int32] = np.zeros((len(scans.patients), len(COUNTED)), dtype=np.int32)
    fold = folds(scans, seed + 1)
    if fold is not None:
        for k in range(fold.max() + 1):
            chosen = choose(scans.of(fold != k), aim, allowed, seed)
            held[fold == k] = scans.counts[fold == k][(slice(None), *chosen)]
    return {
        "fitted": figures(scans.at(scans.counts[(slice(None), *cut)])),
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


def merit(scans: Scans, aim: Aim) -> NDArray[np.float64]:
    """What an aim makes large, `[…]` of counts `[n, …, 6]`; minus infinity where a scan was not counted.

    Beyond the false components that `sensitivity_at_fp` allows: minus their number, so that fewer are better. Aims for
    which touching a lesion is enough leave out masks of more than `MOST_OF_LABEL` times the labelled voxels: one that
    holds everything bright touches every lesion.
    """
    if aim.name == "sensitivity_at_fp":
        found = scans.counts[..., HIT_LESIONS].sum(axis=0) / max(int(scans.n_lesions.sum()), 1)
        false = (scans.counts[..., COMPONENTS] - scans.counts[..., HIT_COMPONENTS]).mean(axis=0)
        value = np.where(false <= aim.most_false, found, -false)
    else:
        weights = scan_weights(scans, aim.name)
        counts = weights > 0
        value = np.average(scan_scores(scans.of(counts), aim.name), axis=0, weights=weights[counts])
    unusable = (scans.counts[..., VOXELS] < 0).any(axis=0)
    if aim.name in ("lesion_f1", "sensitivity_at_fp"):
        unusable |= scans.counts[..., VOXELS].sum(axis=0, dtype=np.int64) > MOST_OF_LABEL * scans.n_label_voxels.sum()
    return np.where(unusable, -np.inf, value)


def scan_scores(scans: Scans, aim: str) -> NDArray[np.float64]:
    """Of each scan the value `[n, …]` whose mean an aim makes large."""
    counts = np.moveaxis(scans.counts.astype(np.float64), -1, 0)
    voxels, hits, predicted, predicted_hit, lesions_hit, _ = counts
    beside = (len(scans.patients), *(1,) * (voxels.ndim - 1))
    if aim == "lesion_f1":
        n_lesions = scans.n_lesions.reshape(beside)
        sensitivity, ppv = (a / np.maximum(b, 1) for a, b in ((lesions_hit, n_lesions), (predicted_hit, predicted)))
        return 2 * sensitivity * ppv / np.maximum(sensitivity + ppv, 1e-12)
    total = voxels + scans.n_label_voxels.reshape(beside)
    return np.where(total > 0, 2 * hits / np.maximum(total, 1), 1.0)


def scan_weights(scans: Scans, aim: str) -> NDArray[np.float64]:
    """`[n]` how much each scan counts: scans with lesions alike; for `balanced` every patient alike."""
    if aim != "balanced":
        return scans.has_lesion.astype(np.float64)
    _, codes, n_scans = np.unique(scans.patients, return_inverse=True, return_counts=True)
    return 1 / n_scans[codes]


def figures(scans: Scans) -> Mapping[str, Any]:
    """What masks are worth, and what they cost.

    Args:
        scans: with counts `[n, 6]`.
    """

    def value(aim: str) -> float | None:
        weights = scan_weights(scans, aim)
        return defined(float(np.average(scan_scores(scans, aim), weights=weights))) if weights.any() else None

    free, counts = ~scans.has_lesion, scans.counts
    n_lesions, n_small = int(scans.n_lesions.sum()), int(scans.n_small.sum())
    return {
        "balanced": value("balanced"),
        "dice": value("dice"),
        "lesion_f1": value("lesion_f1"),
        "lesion_sensitivity": float(counts[:, HIT_LESIONS].sum() / n_lesions) if n_lesions else None,
        "small_lesion_sensitivity": float(counts[:, HIT_SMALL].sum() / n_small) if n_small else None,
        "n_small_lesions": n_small,
        "false_components_per_scan": float((counts[:, COMPONENTS] - counts[:, HIT_COMPONENTS]).mean()),
        "n_false_alarm": int((free & (counts[:, VOXELS] > 0)).sum()),
        "n_lesion_free": int(free.sum()),
        "n_series": len(counts),
    }


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
