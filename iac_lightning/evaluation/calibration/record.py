"""The calibration of a model, as `calibration.json` keeps it: temperature, bias, and where masks are cut."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from typing import Any, Self

from data_modules.errors import UserError
from data_modules.scan.geometry import Volume
from iac_lightning.evaluation.calibration.quality import QUALITIES
from iac_lightning.evaluation.calibration.scaling import TEMPERATURES, apply, calibrated_half
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
_ROUNDING = 1e-9  # a temperature at a limit is one over one over it

LARGEST_BIAS = 1000.0
"""Logits of probabilities in float32, over the lowest temperature, stay below this."""

DESCRIBED = (
    "n_series",
    "n_patients",
    *(f"{name}_{when}" for name in QUALITIES for when in ("before", "after")),
    "dice",
    "prior_dice",
    "warnings",
)
"""What `describe_calibration` tells beside the first six of `APPLIED`."""


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
            UserError: naming what it lacks, or which of its values no calibration has.
        """
        again = (
            "Calibrate again: iac calibrate RUN (predictions of another program: iac evaluate --dev-predictions DIR)"
        )
        if not isinstance(record, Mapping):
            raise UserError(f"{source}: not a calibration: {type(record).__name__}, expected an object. {again}")
        if missing := [name for name in _NEEDED if name not in record]:
            raise UserError(
                f"{source}: a calibration without {', '.join(missing)}: cut off, or of an early version. {again}"
            )
        if wrong := list(_wrong_values(record)):
            raise UserError(f"{source}: not a calibration: {'; '.join(wrong)}. {again}")
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


def _wrong_values(record: Mapping[str, Any]) -> Iterator[str]:
    """What of the first six of `APPLIED` no calibration has, in words."""
    low, high = (limit * (1 + sign * _ROUNDING) for limit, sign in zip(TEMPERATURES, (-1, 1), strict=True))
    if not _is_number(record["temperature"]) or not low <= record["temperature"] <= high:
        yield f"temperature {record['temperature']!r}, expected {TEMPERATURES[0]:g} to {TEMPERATURES[1]:g}"
    if not _is_number(record["bias"]) or abs(record["bias"]) > LARGEST_BIAS:
        yield f"bias {record['bias']!r}, expected -{LARGEST_BIAS:g} to {LARGEST_BIAS:g}"
    for prefix in ("", "prior_"):
        if not _is_threshold(record[f"{prefix}threshold"]):
            yield f"{prefix}threshold {record[f'{prefix}threshold']!r}, expected a number between 0 and 1"
        by_thickness = record[f"{prefix}thickness"]
        used = by_thickness.get("used") if isinstance(by_thickness, Mapping) else None
        strata = by_thickness.get("strata", None if used else []) if isinstance(used, bool) else None
        if not isinstance(strata, (list, tuple)):
            yield f"{prefix}thickness without used (true or false) and strata (a list)"
            continue
        for k, stratum in enumerate(strata):
            if not isinstance(stratum, Mapping) or not _is_stratum(stratum):
                yield (
                    f"{prefix}thickness.strata[{k}], expected above_mm below up_to_mm (or null) and a threshold "
                    "between 0 and 1 (or null)"
                )


def _is_stratum(stratum: Mapping[str, Any]) -> bool:
    above, up_to, threshold = (stratum.get(name, "") for name in ("above_mm", "up_to_mm", "threshold"))
    return (
        _is_number(above)
        and (up_to is None or (_is_number(up_to) and above < up_to))
        and (threshold is None or _is_threshold(threshold))
    )


def _is_threshold(value: Any) -> bool:
    return _is_number(value) and 0 < value < 1


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and isfinite(value)


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
        f"  by slice thickness: {record['thickness'].get('why', 'not tried')}",
        *(f"  warning: {warning}" for warning in record["warnings"]),
    ]
    return "\n".join(lines)
