"""The section of the report on the operating point: what was chosen, what else could have been, and what that costs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from iac_lightning.evaluation.calibration.operating_point import AIMS, RULES
from iac_lightning.evaluation.metrics.lesions import SMALL_LESION_MM3
from iac_lightning.evaluation.tables.model_result import ModelResult
from iac_lightning.figures.operating_point import froc_figure
from iac_lightning.report.page import ReportContext, Section, Table, drawn
from iac_lightning.report.words import TableCell, number, share

_RULES = {"protocol": "protocol", "none": "no protocol"}
_PRICES = ("balanced", "dice", "lesion_f1", "lesion_sensitivity", "small_lesion_sensitivity")
_BESIDE = " Where slice thickness decides the threshold, a mark may lie beside its curve."


def operating_point_section(models: Mapping[str, ModelResult], context: ReportContext) -> Section | None:
    """Table of choices and their price, and the FROC curve with the point; None where no model's choice is known.

    Args:
        models: name to result; `calibration` as in `calibration.json`.
        context: of the page.
    """
    known = {
        model.label: model
        for model in models.values()
        if model.calibration and "alternatives" in model.calibration["operating_point"]
    }
    if not known:
        return None
    calibrations = {label: dict(model.calibration or {}) for label, model in known.items()}
    points = {label: calibration["operating_point"] for label, calibration in calibrations.items()}
    sizes = {(c["n_series"], c["n_patients"]) for c in calibrations.values()}
    scans = " or ".join(f"{n} scans of {patients} patients" for n, patients in sorted(sizes))
    seeds = ", ".join(str(seed) for seed in sorted({c["seed"] for c in calibrations.values()}))
    origin = f"{scans}, development split, seed {seeds}"
    aims = dict.fromkeys(point["aim"] for point in points.values())
    fitted = any(point["cross_validated"] is None for point in points.values())
    by_thickness = any(point.get("thickness", {}).get("used") for point in points.values())
    evaluated = {label: _evaluated(model) for label, model in known.items()}
    missing = ", ".join(model.label for model in models.values() if model.label not in known)
    return Section(
        title="Operating point",
        text=" ".join(
            [
                "Where are probabilities cut, and what would another cut have bought? Threshold and least lesion were "
                "chosen together on the development split, for",
                "; ".join(f"{aim} ({AIMS[aim]})" for aim in aims) + ".",
                "The other lines: what the same scans would have chosen for other aims, or with less to choose among.",
            ]
        ),
        tables=[
            Table(
                name="operating_point",
                source=origin,
                header=[
                    ("model and choice", ""),
                    ("mask", "probability; least lesion; rule"),
                    ("balanced Dice", "all patients"),
                    ("Dice", "scans with lesions"),
                    ("lesion F1", "scans with lesions"),
                    ("lesions found", "of all"),
                    ("small lesions found", f"up to {SMALL_LESION_MM3:g} mm³"),
                    ("false components", "a scan"),
                    ("false alarms", "lesion-free scans"),
                ],
                rows=[row for label, point in points.items() for row in _rows(label, point)],
                legend=_legend(fitted, missing),
                words=("model and choice", "mask"),
            )
        ],
        figures=[
            drawn(
                "froc",
                "Lesions found against false components",
                "A curve: every threshold on the development split, at the least lesion and rule chosen there (not "
                f"cross-validated). Filled mark: the chosen point there; hollow: the masks at this point "
                f"on the {context.split} split.{_BESIDE if by_thickness else ''}",
                froc_figure(points, evaluated, context.split, origin),
                origin,
                alt=_finding(points, evaluated, context.split),
            )
        ],
    )


def _legend(fitted: bool, missing: str) -> str:
    parts = [
        "Cross-validated by patient: of scans whose patients had no part in the choice. Balanced Dice: every patient "
        "alike, lesion-free ones included, where a false alarm counts 0 and an empty mask 1. Lesions found: share of "
        "all lesions that the mask touches. False components: those that touch no lesion. Protocol: "
        f"{RULES['protocol']}."
    ]
    if fitted:
        parts.append("Not cross-validated, for fewer than two patients have lesions: of the scans that chose.")
    if missing:
        parts.append(f"Not chosen here, anew since this evaluation, or before such choices were recorded: {missing}.")
    return " ".join(parts)


def _rows(label: str, point: Mapping[str, Any]) -> list[list[TableCell]]:
    chosen = {**point, "name": f"{label}: chosen, for {point['aim']}"}
    others = ({**row, "name": f"+ {row['name']}"} for row in point["alternatives"])
    return [_row(row) for row in (chosen, *others)]


def _row(row: Mapping[str, Any]) -> list[TableCell]:
    found = row["cross_validated"] or row["fitted"]
    mask = "–"
    if "rule" in row:
        least = f"≥ {row['least_lesion_mm3']:g} mm³" if row["least_lesion_mm3"] else "any size"
        mask = f"≥ {_thresholds(row)}; {least}; {_RULES[row['rule']]}"
    return [
        row["name"] if row["cross_validated"] else f"{row['name']} (not cross-validated)",
        mask,
        *(number(found.get(name)) for name in _PRICES),
        number(found["false_components_per_scan"], 2),
        f"{found['n_false_alarm']} of {found['n_lesion_free']}",
    ]


def _thresholds(row: Mapping[str, Any]) -> str:
    """The threshold for all, and those of strata of slice thickness where these have their own."""
    own = row.get("thickness", {"used": False})
    if not own["used"]:
        return f"{row['threshold']:.2g}"
    strata = (f"{s['threshold']:.2g} at {s['stratum']}" for s in own["strata"] if s["threshold"] is not None)
    return f"{', '.join(strata)}, else {row['threshold']:.2g}"


def _finding(points: Mapping[str, Mapping[str, Any]], evaluated: Mapping[str, tuple[float, float]], split: str) -> str:
    """Where the marks of the curve lie, in words."""

    def told(false: float | None, found: float | None) -> str:
        return f"{share(found)} of the lesions found, {number(false, 2)} false components a scan"

    each = (
        f"{label}: {told(point['fitted']['false_components_per_scan'], point['fitted']['lesion_sensitivity'])} on the "
        f"development split; {told(*evaluated[label])} on the {split} split"
        for label, point in points.items()
    )
    return f"At the operating point. {'. '.join(each)}."


def _evaluated(model: ModelResult) -> tuple[float, float]:
    """False components a scan, and the share of all lesions hit, by the table of an evaluation."""
    table = model.table
    found = table["n_lesions_hit"].sum() / max(table["n_lesions"].sum(), 1)
    return float((table["n_predicted"] - table["n_predicted_hit"]).mean()), float(found)
