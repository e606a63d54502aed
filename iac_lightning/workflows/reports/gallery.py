"""What each model got most wrong, as pictures: the largest lesion missed, the largest false one, the worst scan."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from data_modules.cohort.look import RecordedLook, read_label
from data_modules.cohort.series import read_series
from data_modules.cohort.table import Series
from data_modules.scan.geometry import Volume
from data_modules.scan.scan import Scan
from iac_lightning.evaluation.metrics.failures import Failures, failures
from iac_lightning.evaluation.tables.model_result import ModelResult
from iac_lightning.figures.gallery import failure_figure
from iac_lightning.report.page import ExtraFigure, ReportContext, Section, drawn
from iac_lightning.report.words import number, plural
from iac_lightning.workflows.reports.evaluated import Entry
from iac_lightning.workflows.reports.model_results import predicted_mask

MOST_SCANS = 12
"""Scans that are opened to find the largest missed lesion, or the largest false one: those with most of them."""


@dataclass(frozen=True, kw_only=True)
class _Case:
    kind: str
    row: pd.Series
    scan: Scan
    masks: Mapping[str, Volume]
    found: Failures


def gallery_section(
    entries: Mapping[str, Entry],
    models: Mapping[str, ModelResult],
    series: Mapping[str, Series],
    names: Mapping[str, str],
    context: ReportContext,
    looks: Mapping[str, RecordedLook | None],
) -> Section | None:
    """Failures of each model, up to three figures a model; None where no model failed anywhere.

    Args:
        entries: name to evaluated model.
        models: name to result.
        series: by id, of the cohort.
        names: series to what it is called on the page.
        context: names split and seed.
        looks: name to the look that opens the test split.
    """
    figures = []
    for k, (name, model) in enumerate(models.items()):
        for case in _cases(entries[name], model, series, context.split, looks[name]):
            figures.append(_figure(f"failure_{k + 1}_{case.kind}", model.label, case, names, context))
    if not figures:
        return None
    return Section(
        title="Failures",
        text=(
            "The worst that each model did: the largest lesion that it missed, the largest component that hits "
            "nothing, and the scan with lesions of the lowest Dice. Above, three planes through the place; below, "
            "every lesion of the scan projected along each axis, wherever it lies. Names of scans are made from their "
            "series ids and the fingerprint of the prepared data: the same scan has the same name on every page."
        ),
        figures=figures,
    )


def _cases(
    entry: Entry, model: ModelResult, series: Mapping[str, Series], split: str, look: RecordedLook | None
) -> list[_Case]:
    table = model.table.assign(
        n_missed=model.table["n_lesions"] - model.table["n_lesions_hit"],
        n_false=model.table["n_predicted"] - model.table["n_predicted_hit"],
    )
    opened: dict[str, tuple[Scan, dict[str, Volume], Failures]] = {}

    def opened_scan(series_id: str) -> tuple[Scan, dict[str, Volume], Failures]:
        if series_id not in opened:
            opened[series_id] = _read(entry, model, series[series_id], table, split, look)
        return opened[series_id]

    chosen: dict[str, str] = {}
    for kind in ("missed", "false"):
        column = table[f"n_{kind}"]
        most = table[column > 0].sort_values([f"n_{kind}", "series_id"], ascending=[False, True])
        sizes = {
            series_id: getattr(opened_scan(series_id)[2], f"largest_{kind}_mm3")
            for series_id in most["series_id"].head(MOST_SCANS)
        }
        if sizes:
            chosen[kind] = max(sizes, key=lambda series_id: (sizes[series_id], series_id))
    with_lesion = table[table["has_lesion"].astype(bool) & (table["dice"] < 1)]
    if len(with_lesion):
        chosen["worst"] = str(with_lesion.sort_values(["dice", "series_id"])["series_id"].iloc[0])
    cases = []
    for kind, series_id in chosen.items():
        scan, masks, found = opened_scan(series_id)
        row = table[table["series_id"] == series_id].iloc[0]
        cases.append(_Case(kind=kind, row=row, scan=scan, masks=masks, found=found))
    return cases


def _read(
    entry: Entry, model: ModelResult, item: Series, table: pd.DataFrame, split: str, look: RecordedLook | None
) -> tuple[Scan, dict[str, Volume], Failures]:
    row = table[table["series_id"] == item.series_id].iloc[0]
    scan = replace(read_series(item), slice_thickness_mm=float(row["slice_thickness_mm"]))
    label = read_label(item, like=scan, look=look)
    prediction = predicted_mask(entry, model.summary, split, item, scan)
    found = failures(prediction, label)
    masks = {
        "label": label,
        "prediction": prediction,
        "missed": label.with_data(found.missed),
        "false": label.with_data(found.false),
    }
    return scan, masks, found


def _figure(file: str, label: str, case: _Case, names: Mapping[str, str], context: ReportContext) -> ExtraFigure:
    row, found = case.row, case.found
    name = names[str(row["series_id"])]
    what = {
        "missed": f"largest missed lesion, {number(found.largest_missed_mm3, 1)} mm³",
        "false": f"largest false component, {number(found.largest_false_mm3, 1)} mm³",
        "worst": "lowest Dice",
    }[case.kind]
    has_dice = bool(row["has_lesion"]) and np.isfinite(row["dice"])
    dice = f"Dice {number(float(row['dice']), 2)}" if has_dice else "no lesion in the label"
    facts = (
        f"{name}, {row['slice_thickness_mm']:g} mm slices, {dice}; {found.n_missed} of "
        f"{plural(found.n_lesions, 'lesion')} missed, {plural(found.n_false, 'false component')}; volume "
        f"{number(float(row['volume_mm3']), 1)} mm³ for {number(float(row['label_volume_mm3']), 1)} mm³ labelled"
    )
    return drawn(
        file,
        f"{label}: {what}",
        f"{facts}.",
        failure_figure(case.scan.volume, case.masks, case.kind, f"{label}: {what}\n{facts}"),
        f"{label}; 1 scan of 1 patient, {context.split} split, seed {context.seed}",
        alt=f"{label}, {what}: {facts}.",
    )
