"""Where and how a mask is cut out of calibrated probabilities: threshold, annotation protocol and least lesion."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from data_modules.scan.geometry import Volume
from iac_lightning.evaluation.calibration.thresholds import Thresholds
from iac_lightning.evaluation.metrics.lesions import protocol_prior, without_small_lesions

AIMS = {
    "balanced": "mean Dice of every patient; 0 for a false alarm on a lesion-free scan, 1 where nothing is marked",
    "dice": "mean Dice over the scans with lesions",
    "lesion_f1": "mean lesion F1 over the scans with lesions",
    "sensitivity_at_fp": "share of all lesions that are hit, with at most so many false components a scan",
}
"""What an operating point may be chosen for (`evaluation.operating_point`): what is then as large as it can be."""

RULES = {
    "protocol": "at least 130 HU, no single voxels",
    "none": "whatever its brightness",
}
"""Rules that voxels at the threshold or above may have to meet: the annotation protocol (Jin et al. 2025), or none."""


@dataclass(frozen=True, kw_only=True)
class OperatingPoint:
    """How calibrated probabilities become the mask that is the result.

    Attributes:
        aim: one of `AIMS`, for which the rest was chosen.
        rule: one of `RULES`.
        least_lesion_mm3: smaller components are dropped; 0: none is.
        thresholds: where probabilities are cut.
    """

    aim: str
    rule: str
    least_lesion_mm3: float
    thresholds: Thresholds

    @classmethod
    def from_dict(cls, known: Mapping[str, Any]) -> Self:
        """From what `calibration.json` holds under `operating_point`."""
        return cls(
            aim=known["aim"],
            rule=known["rule"],
            least_lesion_mm3=known["least_lesion_mm3"],
            thresholds=Thresholds(general=known["threshold"], by_thickness=known["thickness"]),
        )

    def to_dict(self) -> dict[str, Any]:
        """What decides the mask, as `calibration.json` holds it."""
        return {
            "aim": self.aim,
            "rule": self.rule,
            "least_lesion_mm3": self.least_lesion_mm3,
            "threshold": self.thresholds.general,
            "thickness": self.thresholds.by_thickness,
        }

    def mask(self, probability: Volume, hu: Volume, slice_thickness_mm: float) -> Volume:
        """The mask of one scan.

        Args:
            probability: calibrated, `[X, Y, Z]` on native voxels.
            hu: the scan on the same grid.
            slice_thickness_mm: of the scan.

        Raises:
            UserError: when the grids differ.
        """
        mask = probability.with_data(probability.data >= self.thresholds.at(slice_thickness_mm))
        if self.rule == "protocol":
            mask = protocol_prior(mask, hu)
        return without_small_lesions(mask, self.least_lesion_mm3)
