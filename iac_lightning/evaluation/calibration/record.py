"""The calibration of a model, as `calibration.json` keeps it: temperature, bias, and where masks are cut."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from data_modules.errors import UserError
from data_modules.scan.geometry import Volume
from iac_lightning.evaluation.calibration.operating_point import AIMS, RULES, OperatingPoint
from iac_lightning.evaluation.calibration.quality import QUALITIES
from iac_lightning.evaluation.calibration.scaling import (
    IDENTITY,
    TEMPERATURES,
    Scaling,
    ThicknessTerm,
    apply,
    calibrated_half,
    undo,
)
from iac_lightning.evaluation.calibration.thresholds import Thresholds

APPLIED = (
    "temperature",
    "bias",
    "by_thickness",
    "operating_point",
    "plain_threshold",
    "plain_thickness",
    "checkpoint_sha256",
    "depends_on",
    "n_series",
    "n_patients",
)
"""What an evaluation says of the calibration that it applied."""

DECIDING = APPLIED[:6]
"""Those that decide probabilities and masks."""

_POINT = ("aim", "rule", "least_lesion_mm3", "threshold", "thickness")
_ROUNDING = 1e-9  # a temperature at a limit is one over one over it

LARGEST_BIAS = 1000.0
"""Logits of probabilities in float32, over the lowest temperature, stay below this."""

DESCRIBED = (
    "n_series",
    "n_patients",
    "scaling",
    "scaling_why",
    "after",
    *(f"{name}_{when}" for name in QUALITIES for when in ("before", "after")),
    "lesions",
    "plain_score",
    "warnings",
)
"""What `describe_calibration` tells beside `DECIDING`."""


class Masks(NamedTuple):
    """What is cut out of the probabilities of one scan.

    Attributes:
        mask: the result: at the operating point, after the annotation protocol.
        plain: what a threshold alone gives.
    """

    mask: Volume
    plain: Volume


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """What is done to a model's probabilities before they are believed.

    Attributes:
        scaling: of the logits.
        point: how the mask that is the result is cut.
        plain: where calibrated probabilities are cut for the mask of a threshold alone.
        record: all that `calibration.json` holds, in its order: also how it was fitted, and which weights and data it
            belongs to.
    """

    scaling: Scaling
    point: OperatingPoint
    plain: Thresholds
    record: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_dict(cls, record: Mapping[str, Any], source: object = "calibration.json") -> Self:
        """From what `calibration.json` holds, or an evaluation's summary of it.

        Args:
            record: with `DECIDING` at least; one of before operating points is taken for what it did.
            source: where it was read, for the error.

        Raises:
            UserError: naming what it lacks, or which of its values no calibration has.
        """
        again = (
            "Calibrate again: iac calibrate RUN (predictions of another program: iac evaluate --dev-predictions DIR)"
        )
        if not isinstance(record, Mapping):
            raise UserError(f"{source}: not a calibration: {type(record).__name__}, expected an object. {again}")
        record = _renewed(record)
        if missing := list(_missing(record)):
            raise UserError(
                f"{source}: a calibration without {', '.join(missing)}: cut off, or of an early version. {again}"
            )
        if wrong := list(_wrong_values(record)):
            raise UserError(f"{source}: not a calibration: {'; '.join(wrong)}. {again}")
        return cls(
            scaling=Scaling(
                temperature=record["temperature"],
                bias=record["bias"],
                by_thickness=record["by_thickness"] and ThicknessTerm(**record["by_thickness"]),
            ),
            point=OperatingPoint.from_dict(record["operating_point"]),
            plain=Thresholds(general=record["plain_threshold"], by_thickness=record["plain_thickness"]),
            record=record,
        )

    def to_dict(self) -> dict[str, Any]:
        """What `calibration.json` holds; `from_dict` and back gives the same bytes."""
        return {
            **self.record,  # keys that follow keep their place in it
            "temperature": self.scaling.temperature,
            "bias": self.scaling.bias,
            "by_thickness": self.scaling.by_thickness and self.scaling.by_thickness._asdict(),
            "operating_point": {**self.record.get("operating_point", {}), **self.point.to_dict()},
            "plain_threshold": self.plain.general,
            "plain_thickness": self.plain.by_thickness,
        }

    def facts(self, names: Sequence[str]) -> dict[str, Any]:
        """Some of what `calibration.json` holds, in this order; of the operating point what decides masks."""
        everything = {**self.to_dict(), "operating_point": self.point.to_dict()}
        return {name: everything[name] for name in names}

    def apply(self, probability: Volume, slice_thickness_mm: float) -> Volume:
        """Calibrated probabilities of the uncalibrated ones of a scan; where the model says nothing (0), nothing."""
        own = self.scaling.of(slice_thickness_mm)
        return probability.with_data(apply(probability.data, own.temperature, own.bias))

    def undo(self, probability: NDArray[np.floating], slice_thickness_mm: float) -> NDArray[np.float32]:
        """Uncalibrated probabilities of the calibrated ones of a scan."""
        own = self.scaling.of(slice_thickness_mm)
        return undo(probability, own.temperature, own.bias)

    def masks(self, probability: Volume, hu: Volume, slice_thickness_mm: float) -> Masks:
        """The result of one scan, and what a threshold alone gives.

        Each is cut at a threshold of its own, so the first need not lie within the second.

        Args:
            probability: calibrated, `[X, Y, Z]` on native voxels.
            hu: the scan on the same grid.
            slice_thickness_mm: of the scan.

        Raises:
            UserError: when the grids differ.
        """
        return Masks(
            mask=self.point.mask(probability, hu, slice_thickness_mm),
            plain=probability.with_data(probability.data >= self.plain.at(slice_thickness_mm)),
        )

    def uncalibrated_mask(self, probability: Volume, slice_thickness_mm: float) -> Volume:
        """The mask of the network as it was trained, at an uncalibrated probability of 0.5.

        Args:
            probability: calibrated.
            slice_thickness_mm: of the scan.
        """
        own = self.scaling.of(slice_thickness_mm)
        return probability.with_data(probability.data >= calibrated_half(own.temperature, own.bias))


def _renewed(record: Mapping[str, Any]) -> Mapping[str, Any]:
    """An early calibration in the form of now.

    Before operating points Dice of the scans with lesions was the aim; temperature and bias were those of all scans.
    """
    if "by_thickness" not in record:
        record = {**record, "by_thickness": None}
    if "operating_point" in record or "prior_threshold" not in record:
        return record
    moved = {"threshold": "plain_threshold", "thickness": "plain_thickness", "dice": "plain_score"}
    point = {"aim": "dice", "rule": "protocol", "least_lesion_mm3": 0.0}
    point |= {name: record[f"prior_{name}"] for name in ("threshold", "thickness") if f"prior_{name}" in record}
    kept = {moved.get(name, name): value for name, value in record.items() if not name.startswith("prior_")}
    return {**kept, "operating_point": point}


def _missing(record: Mapping[str, Any]) -> Iterator[str]:
    """What of `DECIDING` a calibration lacks."""
    yield from (name for name in DECIDING if name not in record)
    point = record.get("operating_point", {})
    if isinstance(point, Mapping) and "operating_point" in record:
        yield from (f"operating_point.{name}" for name in _POINT if name not in point)


def _wrong_values(record: Mapping[str, Any]) -> Iterator[str]:
    """What of `DECIDING` no calibration has, in words."""
    low, high = (limit * (1 + sign * _ROUNDING) for limit, sign in zip(TEMPERATURES, (-1, 1), strict=True))
    if not _is_number(record["temperature"]) or not low <= record["temperature"] <= high:
        yield f"temperature {record['temperature']!r}, expected {TEMPERATURES[0]:g} to {TEMPERATURES[1]:g}"
    if not _is_number(record["bias"]) or abs(record["bias"]) > LARGEST_BIAS:
        yield f"bias {record['bias']!r}, expected -{LARGEST_BIAS:g} to {LARGEST_BIAS:g}"
    term = record["by_thickness"]
    if term is not None and not _is_term(term):
        yield f"by_thickness {term!r}, expected null or {', '.join(ThicknessTerm._fields)}"
    yield from _wrong_thresholds("plain_", record)
    point = record["operating_point"]
    if not isinstance(point, Mapping):
        yield f"operating_point {point!r}, expected an object"
        return
    for name, known in (("aim", AIMS), ("rule", RULES)):
        if not isinstance(point[name], str) or point[name] not in known:
            yield f"operating_point.{name} {point[name]!r}, expected {', '.join(known)}"
    if not _is_number(point["least_lesion_mm3"]) or point["least_lesion_mm3"] < 0:
        yield f"operating_point.least_lesion_mm3 {point['least_lesion_mm3']!r}, expected a number of 0 or more"
    yield from _wrong_thresholds("operating_point.", point)


def _wrong_thresholds(where: str, known: Mapping[str, Any]) -> Iterator[str]:
    """What no pair of threshold and thresholds by thickness has.

    Args:
        where: what stands before the names, in the record (`plain_`) or in words (`operating_point.`).
        known: holds them.
    """
    prefix = where if where.endswith("_") else ""
    threshold, by_thickness = known[f"{prefix}threshold"], known[f"{prefix}thickness"]
    if not _is_threshold(threshold):
        yield f"{where}threshold {threshold!r}, expected a number between 0 and 1"
    used = by_thickness.get("used") if isinstance(by_thickness, Mapping) else None
    strata = by_thickness.get("strata", None if used else []) if isinstance(used, bool) else None
    if not isinstance(strata, (list, tuple)):
        yield f"{where}thickness without used (true or false) and strata (a list)"
        return
    for k, stratum in enumerate(strata):
        if not isinstance(stratum, Mapping) or not _is_stratum(stratum):
            yield (
                f"{where}thickness.strata[{k}], expected above_mm below up_to_mm (or null) and a threshold "
                "between 0 and 1 (or null)"
            )


def _is_stratum(stratum: Mapping[str, Any]) -> bool:
    above, up_to, threshold = (stratum.get(name, "") for name in ("above_mm", "up_to_mm", "threshold"))
    return (
        _is_number(above)
        and (up_to is None or (_is_number(up_to) and above < up_to))
        and (threshold is None or _is_threshold(threshold))
    )


def _is_term(term: Any) -> bool:
    if not isinstance(term, Mapping) or set(term) != set(ThicknessTerm._fields):
        return False
    return all(map(_is_number, term.values())) and 0 < term["thinnest_mm"] <= term["thickest_mm"]


def _is_threshold(value: Any) -> bool:
    return _is_number(value) and 0 < value < 1


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and isfinite(value)


def reliability(record: Mapping[str, Any], when: str) -> dict[str, Any]:
    """Values and curve `before` or `after` calibration, as `quality` gave them."""
    return {name: record[f"{name}_{when}"] for name in (*QUALITIES, "reliability")}


MARKS_NOTHING = (
    "no lesion of the development scans is found here: with so weak a network, or so few patients with lesions, empty "
    "masks serve this aim best; evaluation.operating_point=dice asks for masks at whatever price on lesion-free scans"
)


def _marks_nothing(fitted: Mapping[str, Any] | None) -> bool:
    """Whether the operating point finds no lesion of the scans that chose it."""
    return fitted is not None and fitted.get("lesion_sensitivity") == 0


def describe_calibration(calibration: Calibration) -> str:
    """The calibration in a few lines, for the terminal."""
    record = calibration.to_dict()
    point = record["operating_point"]
    lines = [
        f"{describe_scaling(calibration.scaling)} "
        f"({record['n_series']} development scans of {record['n_patients']} patients)",
        f"  chosen: {record['scaling_why']}",
        f"  voxels before and after ({record['after']}):",
        *(
            f"    {name}: {record[f'{name}_before']:.3g} before, {record[f'{name}_after']:.3g} after"
            for name in QUALITIES
        ),
        f"  operating point ({point['aim']}): {describe_point(calibration.point)}",
        *([f"    on other patients: {_figures(point['cross_validated'])}"] if point.get("cross_validated") else []),
        *([f"    warning: {MARKS_NOTHING}"] if _marks_nothing(point.get("fitted")) else []),
        f"  by slice thickness: {point['thickness'].get('why', 'not tried')}",
        f"  threshold alone: {record['plain_threshold']:g}",
        *(f"  warning: {warning}" for warning in record["warnings"]),
    ]
    return "\n".join(lines)


def describe_scaling(scaling: Scaling) -> str:
    """Temperature and bias in words."""
    words = f"temperature {scaling.temperature:.3f}, bias {scaling.bias:+.3f}"
    if scaling == IDENTITY:
        return f"no calibration ({words})"
    term = scaling.by_thickness
    if term is None:
        return words
    ends = (f"{mm:g} mm: {describe_scaling(scaling.of(mm))}" for mm in (term.thinnest_mm, term.thickest_mm))
    return f"by slice thickness ({'; '.join(ends)})"


def _figures(found: Mapping[str, Any]) -> str:
    return (
        f"Dice {found['dice']:.3f}, lesion F1 {found['lesion_f1']:.3f}, {found['false_components_per_scan']:.2g} false "
        f"components a scan, {found['n_false_alarm']} false alarms on {found['n_lesion_free']} lesion-free scans"
    )


def describe_point(point: OperatingPoint) -> str:
    """How masks are cut, in words."""
    words = [f"probability ≥ {point.thresholds.general:g}", RULES[point.rule]]
    if point.least_lesion_mm3:
        words.append(f"lesions of {point.least_lesion_mm3:g} mm³ or more")
    return "; ".join(words)
