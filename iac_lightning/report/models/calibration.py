"""The section of the report on calibration: how far probabilities can be believed, of voxels and of lesions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from iac_lightning.evaluation.calibration.quality import STREAMED
from iac_lightning.evaluation.tables.model_result import ModelResult
from iac_lightning.figures.calibration import reliability_of_models
from iac_lightning.report.page import Section, Table, drawn
from iac_lightning.report.words import TableCell, pair, sentence, signed

QUALITIES = {"ece": "ECE", "brier": "Brier score", "nll": "negative log-likelihood"}

OF_THE_FIT = "of the fit itself: better than new patients would give"
"""What the development values of a calibration are that does not say: one of before cross-validation."""


def calibration_section(models: Mapping[str, ModelResult]) -> Section | None:
    """Tables and figure of the models whose calibration is known; None without one.

    Args:
        models: name to result; `calibration` as in `calibration.json`, `reliability` in the summary of its split.
    """
    calibrated = {model.label: model.calibration for model in models.values() if model.calibration}
    if not calibrated:
        return None
    sizes = {(c["n_series"], c["n_patients"]) for c in calibrated.values()}
    seeds = ", ".join(str(seed) for seed in sorted({c["seed"] for c in calibrated.values()}))
    scans = " or ".join(f"{n} scans of {patients} patients" for n, patients in sorted(sizes))
    origin = f"development: {scans}, seed {seeds}"
    found = {model.label: qualities(model) for model in models.values() if model.calibration}
    left_out = [model.label for model in models.values() if not model.calibration]
    remarks = [f"Not calibrated here, or anew since this evaluation: {', '.join(left_out)}."] if left_out else []
    elsewhere = {label: c["domain"] for label, c in calibrated.items() if c.get("checkpoint_sha256", "") is None}
    remarks += [f"Predicted elsewhere, so that the region is not known: {n}: {d}." for n, d in elsewhere.items()]
    remarks += [f"{label}: {warning}." for label, c in calibrated.items() for warning in c["warnings"]]
    plain = [label for label, c in calibrated.items() if c.get("scaling") == "none"]
    remarks += [f"Not scaled, so that calibrated and uncalibrated are the same: {'; '.join(plain)}."] if plain else []
    words = sorted({c.get("after", OF_THE_FIT) for c in calibrated.values()})
    return Section(
        title="Calibration",
        text=(
            "Does a probability of 0.3 mean lesion in three of ten voxels, and are nine of ten marked lesions of "
            "probability 0.9 lesions? The scaling of probabilities is chosen on the development split by what it does "
            "for patients left out of the fit, and left away where it does not help; the test split says how it holds."
        ),
        tables=[
            Table(
                name="calibration",
                title="How far probabilities can be believed",
                source=origin,
                header=[
                    ("model: probabilities of", ""),
                    *((f"{name}, {when}", "lower is better") for name in QUALITIES.values() for when in _WHEN.values()),
                ],
                rows=[row for label in calibrated for row in quality_rows(label, found[label])],
                legend=" ".join(
                    [
                        "Grey: 95\u00a0% interval over patients. Voxels: those of the region of interest where the "
                        "model says something. Lesions: components of the mask that is the result, each with the "
                        "probability of its surest voxel, against whether it overlaps a labelled lesion. ECE: mean "
                        "distance of probability and share of lesion over bins of equal width.",
                        f"Development, calibrated: {' or '.join(words)}.",
                        *remarks,
                    ]
                ),
            ),
            Table(
                name="scaling",
                title="What is done to probabilities",
                source=origin,
                header=[("model", ""), ("scaling", ""), ("temperature", ""), ("bias", ""), ("threshold", "")],
                rows=[_settings(label, c) for label, c in calibrated.items()],
                words=("scaling",),
                legend=" ".join(
                    f"{label}: {sentence(c['scaling_why']).replace('-0.', '−0.')}"
                    for label, c in calibrated.items()
                    if "scaling_why" in c
                ),
            ),
        ],
        figures=[
            drawn(
                "reliability",
                "Reliability, development beside test",
                "A point is a bin of probabilities; on the dotted line they are right, below it too high, above it too "
                "low. Bars: 95\u00a0% intervals over patients; a bin of too few patients goes without. Most voxels lie "
                f"in the leftmost bin. Development after calibration: {' or '.join(words)}.",
                reliability_of_models(found, origin),
                origin,
                alt=_finding(found),
            )
        ],
    )


def qualities(model: ModelResult) -> dict[str, dict[str, Mapping[str, Any]]]:
    """Kind and split, such as "voxels, test", to quality `before` and `after` calibration."""
    c, split = model.calibration or {}, str(model.summary.get("split"))
    found: dict[str, dict[str, Mapping[str, Any]]] = {}
    measured = {} if split == "dev" else model.summary.get("reliability") or {}
    for kind in ("voxels", "lesions"):
        if kind == "voxels":
            keys = (*STREAMED, *(f"{name}_ci95" for name in STREAMED))
            found["voxels, development"] = {
                when: {key: c.get(_placed(key, when)) for key in keys} | {"reliability": c[f"reliability_{when}"]}
                for when in _WHEN
            }
        elif c.get("lesions"):
            found["lesions, development"] = c["lesions"]
        if measured.get(kind):
            found[f"{kind}, {split}"] = measured[kind]
    return found


def _finding(found: Mapping[str, Mapping[str, Mapping[str, Mapping[str, Any]]]]) -> str:
    """What the curves show, in words: the calibration errors that stand above them."""
    each = (
        f"{label}: "
        + "; ".join(
            f"{name} {both['before']['ece']:.2g} before, {both['after']['ece']:.2g} after"
            for name, both in of_model.items()
        )
        for label, of_model in found.items()
    )
    return f"Expected calibration error, before and after calibration. {'. '.join(each)}."


def quality_rows(label: str, found: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> list[list[TableCell]]:
    """A row for each kind and split."""
    return [
        [f"+ {name}" if k else f"{label}: {name}", *(_cell(both[when], key) for key in QUALITIES for when in _WHEN)]
        for k, (name, both) in enumerate(found.items())
    ]


_WHEN = {"before": "uncalibrated", "after": "calibrated"}


def _settings(label: str, c: Mapping[str, Any]) -> list[TableCell]:
    scaling = c.get("scaling", "temperature and bias")
    return [label, scaling, f"{c['temperature']:.3f}", signed(c["bias"]), f"{c['operating_point']['threshold']:.2g}"]


def _placed(key: str, when: str) -> str:
    """`ece_ci95` before calibration is `ece_before_ci95` in its file."""
    name = key.removesuffix("_ci95")
    return f"{name}_{when}{key.removeprefix(name)}"


def _cell(quality: Mapping[str, Any], key: str) -> TableCell:
    low, high = quality.get(f"{key}_ci95") or (None, None)
    return pair(*("–" if v is None else _three_digits(v) for v in (quality[key], low, high)))


def _three_digits(value: float) -> str:
    return str(np.format_float_positional(value, precision=3, unique=False, fractional=False, trim="-"))
