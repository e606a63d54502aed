"""The calibration of a model, as `calibration.json` keeps it: temperature, bias, and where masks are cut."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from data_modules.errors import UserError
from data_modules.scan.geometry import Volume
from iac_lightning.evaluation.calibration.quality import QUALITIES
from iac_lightning.evaluation.calibration.scaling import apply, calibrated_half
from iac_lightning.evaluation.calibration.thresholds import Thresholds
from iac_lightning.evaluation.metrics.lesions import protocol_prior

APPLIED = (
    "temperature",
    "bias",
    "threshold",
    "prior_threshold",
    "thickness",
    "prior_thickness",
    "checkpoint_sha256",
    "depends_on",
    "n_series",
    "n_patients",
)
"""What an evaluation says of the calibration that it applied."""

_NEEDED = APPLIED[:6]


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """What is done to a model's probabilities before they are believed.

    Attributes:
        temperature: of the logits (`scaling.Scaling`).
        bias: of the logits.
        plain: where calibrated probabilities are cut.
        prior: where they are cut before the annotation protocol is applied.
        record: all that `calibration.json` holds, in its order: also how it was fitted, and which weights and data it
            belongs to.
    """

    temperature: float
    bias: float
    plain: Thresholds
    prior: Thresholds
    record: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_dict(cls, record: Mapping[str, Any], source: object = "calibration.json") -> Self:
        """From what `calibration.json` holds, or an evaluation's summary of it.

        Args:
            record: with the first six of `APPLIED` at least.
            source: where it was read, for the error.

        Raises:
            UserError: naming what it lacks.
        """
        if missing := [name for name in _NEEDED if name not in record]:
            raise UserError(
                f"{source}: a calibration without {', '.join(missing)}: cut off, or of an early version. Calibrate "
                "again: iac calibrate RUN (predictions of another program: iac evaluate --dev-predictions DIR)"
            )
        plain, prior = (
            Thresholds(general=record[f"{prefix}threshold"], by_thickness=record[f"{prefix}thickness"])
            for prefix in ("", "prior_")
        )
        return cls(temperature=record["temperature"], bias=record["bias"], plain=plain, prior=prior, record=record)

    def to_dict(self) -> dict[str, Any]:
        """What `calibration.json` holds; `from_dict` and back gives the same bytes."""
        return {
            **self.record,  # keys that follow keep their place in it
            "temperature": self.temperature,
            "bias": self.bias,
            "threshold": self.plain.general,
            "thickness": self.plain.by_thickness,
            "prior_threshold": self.prior.general,
            "prior_thickness": self.prior.by_thickness,
        }

    def facts(self, names: Sequence[str]) -> dict[str, Any]:
        """Some of what `calibration.json` holds, in this order."""
        everything = self.to_dict()
        return {name: everything[name] for name in names}

    def apply(self, probability: Volume) -> Volume:
        """Calibrated probabilities of uncalibrated ones; where the model says nothing (0), nothing."""
        return probability.with_data(apply(probability.data, self.temperature, self.bias))

    def threshold(self, slice_thickness_mm: float, prior: bool = False) -> float:
        """The threshold of calibrated probability for a scan.

        Args:
            slice_thickness_mm: of the scan.
            prior: for the mask that the annotation protocol is applied to.
        """
        return (self.prior if prior else self.plain).at(slice_thickness_mm)

    def masks(self, probability: Volume, hu: Volume, slice_thickness_mm: float) -> tuple[Volume, Volume]:
        """The plain mask, and the one after the annotation protocol (≥ 130 HU, no single voxels).

        Each is cut at a threshold of its own, so the second need not lie within the first.

        Args:
            probability: calibrated, `[X, Y, Z]` on native voxels.
            hu: the scan on the same grid.
            slice_thickness_mm: of the scan.

        Raises:
            UserError: when the grids differ.
        """
        plain, bright = (
            probability.with_data(probability.data >= self.threshold(slice_thickness_mm, prior))
            for prior in (False, True)
        )
        return plain, protocol_prior(bright, hu)

    def uncalibrated_mask(self, probability: Volume) -> Volume:
        """The mask of the network as it was trained, at an uncalibrated probability of 0.5.

        Args:
            probability: calibrated.
        """
        return probability.with_data(probability.data >= calibrated_half(self.temperature, self.bias))


def reliability(record: Mapping[str, Any], when: str) -> dict[str, Any]:
    """Values and curve `before` or `after` calibration, as `quality` gave them."""
    return {name: record[f"{name}_{when}"] for name in (*QUALITIES, "reliability")}


def describe_calibration(calibration: Calibration) -> str:
    """The calibration in a few lines, for the terminal."""
    record = calibration.to_dict()
    lines = [
        f"temperature {record['temperature']:.3f}, bias {record['bias']:+.3f} "
        f"({record['n_series']} development scans of {record['n_patients']} patients)",
        *(
            f"  {name}: {record[f'{name}_before']:.3g} before, {record[f'{name}_after']:.3g} after"
            for name in QUALITIES
        ),
        f"  threshold {record['threshold']:g} (mean Dice {record['dice']:.3f}), "
        f"with the protocol prior {record['prior_threshold']:g} ({record['prior_dice']:.3f})",
        f"  by slice thickness: {record['thickness']['why']}",
        *(f"  warning: {warning}" for warning in record["warnings"]),
    ]
    return "\n".join(lines)
