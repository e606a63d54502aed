"""How well calibrated probabilities agree with the labels of scans that they were not fitted to.

Each scan is summed up once, while its map is at hand (`ScanSums`); the sums of all scans give the values. Memory does
not grow with voxels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from data_modules.scan.geometry import Volume
from iac_lightning.evaluation.calibration.lesions import candidate_lesions
from iac_lightning.evaluation.calibration.quality import STREAMED, Sums, quality_of_sums, sums_of
from iac_lightning.evaluation.calibration.record import Calibration
from iac_lightning.evaluation.calibration.scaling import Part, Scaling, apply

WHEN = ("before", "after")


class ScanSums(NamedTuple):
    """One scan, before and after calibration.

    Attributes:
        voxels: of the model's domain.
        lesions: of candidates (`lesions.candidate_lesions`).
    """

    voxels: tuple[Sums, Sums]
    lesions: tuple[Sums, Sums]


def sums_of_scan(
    probability: Volume,
    mask: Volume,
    label: Volume,
    calibration: Calibration,
    slice_thickness_mm: float,
    domain: NDArray[np.bool_] | None = None,
) -> ScanSums:
    """Sums of a scan's probabilities over the model's domain and over the lesions that are marked.

    Args:
        probability: calibrated, `[X, Y, Z]`; the uncalibrated ones follow from it.
        mask: the result, on the same grid.
        label: likewise.
        calibration: that was applied.
        slice_thickness_mm: of the scan.
        domain: `[X, Y, Z]` voxels of which the model says something; by default those above 0.
    """
    inside = probability.data > 0
    if domain is not None:
        inside &= domain
    truth = np.asarray(label.data) > 0

    def both(part: Part) -> tuple[Sums, Sums]:
        p, y = part
        return sums_of((calibration.undo(p, slice_thickness_mm), y)), sums_of(part)

    return ScanSums(
        voxels=both((probability.data[inside], truth[inside])),
        lesions=both(candidate_lesions(mask.data, probability.data, truth)),
    )


def reliability_of_scans(scans: Sequence[ScanSums], patients: Sequence[str]) -> dict[str, Any]:
    """What an evaluation says of probabilities: `voxels` and `lesions`, each as `before_and_after` gives it."""
    return {
        "voxels": before_and_after([scan.voxels for scan in scans], patients, "voxels"),
        "lesions": before_and_after([scan.lesions for scan in scans], patients, "candidates"),
    }


def before_and_after(sums: Sequence[tuple[Sums, Sums]], patients: Sequence[str], counted: str) -> dict[str, Any] | None:
    """`before` and `after` calibration, each from `quality_of_sums`; None where there is nothing to count.

    Args:
        sums: of each scan, before and after.
        patients: `[len(sums)]`, whose scan it is.
        counted: what probabilities are of, for the names of counts.
    """
    if not sum(before.scores[0] for before, _ in sums):
        return None
    return {when: quality_of_sums([pair[k] for pair in sums], patients, counted) for k, when in enumerate(WHEN)}


def held_out_lesions(
    candidates: Sequence[Part], held: Sequence[Scaling], patients: Sequence[str]
) -> dict[str, Any] | None:
    """`before_and_after` of the lesions marked in development scans.

    Args:
        candidates: of each scan, with uncalibrated probabilities.
        held: of each scan, fitted to other patients (`fitting.Fitted`).
        patients: `[len(candidates)]`.
    """
    sums = [
        (sums_of((p, y)), sums_of((apply(p, s.temperature, s.bias), y)))
        for (p, y), s in zip(candidates, held, strict=True)
    ]
    return before_and_after(sums, patients, "candidates")


def describe_reliability(reliability: Mapping[str, Any] | None) -> list[str]:
    """Lines for the terminal; none of an evaluation that does not know."""
    return [
        f"  probabilities of {what}, uncalibrated to calibrated: "
        + "; ".join(f"{name} {found['before'][name]:.3g} to {found['after'][name]:.3g}" for name in STREAMED)
        for what, found in (reliability or {}).items()
        if found
    ]
