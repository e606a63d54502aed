"""Sentences that hold of some models only, as they were really made."""

from __future__ import annotations

from collections.abc import Mapping

from iac_lightning.evaluation.tables.model_result import ModelResult


def threshold_sentence(models: Mapping[str, ModelResult]) -> str:
    """Where the thresholds of the models come from, each kind named with its models where there are several."""
    kinds: dict[str, list[str]] = {}
    for model in models.values():
        kinds.setdefault(_origin(model), []).append(model.label)
    if len(kinds) == 1:
        return f"Thresholds: {next(iter(kinds))}."
    named = [f"{origin} ({', '.join(labels)})" for origin, labels in kinds.items()]
    return f"Thresholds: {'; '.join(named)}."


def _origin(model: ModelResult) -> str:
    if model.summary.get("calibration") or model.calibration:
        return "chosen on the development split"
    if model.threshold is None:
        return "none, as masks were given"
    return "given by hand, or 0.5 where none was"
