"""What masks of development scans are worth to an aim, and what they cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from iac_lightning.evaluation.calibration.counts import (
    COMPONENTS,
    HIT_COMPONENTS,
    HIT_LESIONS,
    HIT_SMALL,
    LEAST_LESIONS_MM3,
    VOXELS,
    ScanCounts,
)
from iac_lightning.evaluation.statistics.plain import defined

MOST_OF_LABEL = 2
"""Voxels of all masks over labelled voxels, at most, for aims that count lesions rather than voxels."""


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
        slice_thickness_mm: `[n]`.
    """

    counts: NDArray[np.int32]
    n_label_voxels: NDArray[np.int64]
    n_lesions: NDArray[np.int64]
    n_small: NDArray[np.int64]
    patients: NDArray[np.str_]
    slice_thickness_mm: NDArray[np.float64]

    @classmethod
    def stacked(cls, scans: Sequence[ScanCounts], patients: Sequence[str]) -> Self:
        """Scans of some patients `[len(scans)]`."""
        return cls(
            counts=np.stack([s.counts for s in scans]),
            n_label_voxels=np.array([s.n_label_voxels for s in scans]),
            n_lesions=np.array([s.n_lesions for s in scans]),
            n_small=np.array([s.n_small for s in scans]),
            patients=np.asarray(patients),
            slice_thickness_mm=np.array([s.slice_thickness_mm for s in scans]),
        )

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
            slice_thickness_mm=self.slice_thickness_mm[which],
        )

    def at(self, counts: NDArray[np.int32]) -> Scans:
        """The same scans with other counts `[n, …, 6]`."""
        return replace(self, counts=counts)


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
