"""How well a predicted mask covers a label: voxels, lesions, surfaces and volume of one series, on its native grid."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from data_modules.scan.geometry import Volume
from data_modules.scan.scan import Scan
from iac_lightning.evaluation.metrics.agatston import agatston
from iac_lightning.evaluation.metrics.lesions import (
    as_mask,
    bounding_box,
    lesion_counts,
    require_same_grid,
    small_voxels,
)
from iac_lightning.evaluation.metrics.surface import surface_metrics


@dataclass(frozen=True, kw_only=True)
class SeriesMetrics:
    """Values of one series.

    Attributes:
        dice: 2·|P∩G| / (|P|+|G|); 1 by convention when both masks are empty.
        both_empty: whether that convention was used.
        has_lesion: whether the label holds a voxel.
        sensitivity: share of the label's voxels that are predicted; nan with an empty label.
        ppv: share of the predicted voxels that are labelled; nan with an empty prediction.
        lesion_sensitivity: share of the label's 26-connected components that are hit; nan without one.
        lesion_ppv: share of the predicted components that hit; nan without one.
        lesion_f1: harmonic mean of both; 0 without a hit; nan when both masks are empty.
        n_lesions: components of the label.
        n_lesions_hit: those that are hit.
        n_predicted: components of the prediction.
        n_predicted_hit: those that hit.
        n_small_lesions: components of the label of at most `SMALL_LESION_MM3`.
        n_small_lesions_hit: those that are hit.
        volume_mm3: predicted volume on the native grid.
        label_volume_mm3: labelled volume on the native grid.
        nsd_1mm: normalised surface Dice at 1 mm (`metrics.surface`); 1 when both masks are empty, 0 when one is.
        hd95_mm: 95th percentile Hausdorff distance; nan when both masks are empty, infinite when one is.
        agatston: Agatston-style score of the prediction (`metrics.agatston`); nan where the scan was not given.
        label_agatston: that of the label.
    """

    dice: float
    both_empty: bool
    has_lesion: bool
    sensitivity: float
    ppv: float
    lesion_sensitivity: float
    lesion_ppv: float
    lesion_f1: float
    n_lesions: int
    n_lesions_hit: int
    n_predicted: int
    n_predicted_hit: int
    n_small_lesions: int
    n_small_lesions_hit: int
    volume_mm3: float
    label_volume_mm3: float
    nsd_1mm: float
    hd95_mm: float
    agatston: float
    label_agatston: float


def dice(prediction: NDArray[Any], label: NDArray[Any]) -> float:
    """Dice coefficient of two masks (Dice 1945); 1 when both are empty.

    Raises:
        ValueError: when a mask is floating point or the shapes differ.
    """
    if prediction.shape != label.shape:
        raise ValueError(f"prediction of shape {prediction.shape} against a label of shape {label.shape}")
    p, g = as_mask(prediction), as_mask(label)
    total = int(p.sum()) + int(g.sum())
    return 2 * int((p & g).sum()) / total if total else 1.0


def series_metrics(prediction: Volume, label: Volume, scan: Scan | None = None) -> SeriesMetrics:
    """All values of one series from its predicted and its labelled mask.

    Args:
        prediction: mask `[X, Y, Z]` on the native grid.
        label: mask on the same grid.
        scan: on the same grid; needed for the Agatston-style scores.

    Raises:
        UserError: when the grids differ.
        ValueError: when a mask is floating point.
    """
    require_same_grid(prediction, label, "prediction", "label")
    p, g = as_mask(prediction.data), as_mask(label.data)
    box = bounding_box(p | g)
    if box is not None:  # lesions are tiny: beyond this box there is nothing to measure
        p, g = p[box], g[box]
    surface = surface_metrics(p, g, label.grid.spacing_mm)
    scores = [agatston(mask, scan.volume, scan.slice_axis) if scan else float("nan") for mask in (prediction, label)]
    n_p, n_g, n_both = int(p.sum()), int(g.sum()), int((p & g).sum())
    voxel_mm3 = label.grid.voxel_volume_mm3
    lesions = lesion_counts(p, g, small_voxels=small_voxels(voxel_mm3))
    return SeriesMetrics(
        dice=dice(p, g),
        both_empty=n_p == 0 and n_g == 0,
        has_lesion=n_g > 0,
        sensitivity=n_both / n_g if n_g else float("nan"),
        ppv=n_both / n_p if n_p else float("nan"),
        lesion_sensitivity=lesions.sensitivity,
        lesion_ppv=lesions.ppv,
        lesion_f1=lesions.f1,
        n_lesions=lesions.n_lesions,
        n_lesions_hit=lesions.n_lesions_hit,
        n_predicted=lesions.n_predicted,
        n_predicted_hit=lesions.n_predicted_hit,
        n_small_lesions=lesions.n_small_lesions,
        n_small_lesions_hit=lesions.n_small_lesions_hit,
        volume_mm3=n_p * voxel_mm3,
        label_volume_mm3=n_g * voxel_mm3,
        nsd_1mm=surface.nsd,
        hd95_mm=surface.hd95_mm,
        agatston=scores[0],
        label_agatston=scores[1],
    )
