"""Uncalibrated beside calibrated, false positives, and sensitivity and specificity at the operating point."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from iac_lightning.evaluation.clinical.detection import scan_detection
from iac_lightning.evaluation.tables.model_result import ModelResult
from iac_lightning.report.page import ReportContext, Section, Table, sample
from iac_lightning.report.words import TableCell, cell, number, plural

STAGES = {"uncalibrated_": "uncalibrated, at 0.5", "plain_": "calibrated, threshold alone", "": "operating point"}
"""Beginnings of columns, and what was done to the probabilities: the result last."""


def stages_section(models: Mapping[str, ModelResult], context: ReportContext) -> Section:
    """What calibration, threshold and protocol change, and what the result says of whole scans."""
    everything = sample(models, context)
    shown = {name: [p for p in STAGES if f"{p}dice" in model.table] for name, model in models.items()}
    lacking = [models[name].label for name, prefixes in shown.items() if "uncalibrated_" not in prefixes]
    text = (
        "What the network says at probability 0.5 as it was trained; what calibration and a threshold make of it; and "
        "the result, after the annotation protocol and the least lesion. A step may trade false components for Dice: "
        "both stand here."
    )
    if lacking:
        text += f" Not measured without calibration: {', '.join(lacking)} (evaluate again, or masks were given)."
    found = {name: {p: scan_detection(m.table, p) for p in shown[name]} for name, m in models.items()}
    return Section(
        title="Before and after calibration",
        text=text,
        tables=[
            _stages(models, found, everything),
            _at_the_point(models, found, everything),
        ],
    )


def _stages(
    models: Mapping[str, ModelResult], found: Mapping[str, Mapping[str, dict[str, Any]]], everything: str
) -> Table:
    rows: list[list[TableCell]] = []
    for name, model in models.items():
        for k, (prefix, detected) in enumerate(found[name].items()):
            summary = model.summary.get(prefix.rstrip("_"), {}) if prefix else model.summary
            rows.append(
                [
                    f"{model.label}: {STAGES[prefix]}" if k == 0 else f"+ {STAGES[prefix]}",
                    *(cell(summary[key]) for key in ("dice", "sensitivity", "ppv", "lesion_sensitivity", "lesion_f1")),
                    number(detected["false_per_scan"], 1),
                    number(detected["false_per_free_scan"], 1),
                    f"{detected['fp']} of {detected['fp'] + detected['tn']}",
                ]
            )
    return Table(
        name="stages",
        title="Uncalibrated, calibrated, and the result",
        header=[
            ("model and step", ""),
            ("Dice", "scans with lesions"),
            ("sensitivity", "voxels"),
            ("PPV", "voxels"),
            ("lesion sensitivity", ""),
            ("lesion F1", ""),
            ("false components", "a scan, mean"),
            ("false components", "a lesion-free scan"),
            ("false alarms", "lesion-free scans"),
        ],
        rows=rows,
        legend=(
            "Grey: 95\u00a0% interval over patients. A false component is a 26-connected part of the prediction that "
            "touches no lesion of the label. Calibrated: after the scaling of the table above on what is done to "
            "probabilities, which may be none."
        ),
        source=everything,
    )


def _at_the_point(
    models: Mapping[str, ModelResult], found: Mapping[str, Mapping[str, dict[str, Any]]], everything: str
) -> Table:
    rows: list[list[TableCell]] = []
    for name, model in models.items():
        d = found[name][""]
        rows.append(
            [
                model.label,
                f"{d['tp']} of {plural(d['tp'] + d['fn'], 'scan')}",
                _share(d["sensitivity"]),
                f"{d['tn']} of {plural(d['tn'] + d['fp'], 'scan')}",
                _share(d["specificity"]),
                _share(d["ppv"]),
                _share(d["npv"]),
            ]
        )
    return Table(
        name="detection_at_point",
        title="Any lesion in the scan? At the operating point",
        header=[
            ("model", ""),
            ("found", "scans with lesions"),
            ("sensitivity", "scans"),
            ("left clear", "lesion-free scans"),
            ("specificity", "scans"),
            ("PPV", "scans"),
            ("NPV", "scans"),
        ],
        rows=rows,
        legend=(
            "A scan is called positive when its mask holds a voxel, wherever that lies. Grey: exact 95\u00a0% interval "
            "with patients as trials (Clopper–Pearson), as scans of one patient are alike; none below 5 patients. "
            "PPV and NPV hold for the share of scans with lesions of this split."
        ),
        source=everything,
    )


def _share(value: Mapping[str, Any]) -> TableCell:
    if value["value"] is not None and None in value["ci95"]:
        return f"{number(value['value'], 2)} (too few patients: {value['n_patients']})"
    return cell(value, 2)
