"""One scan through thicker and thicker slices: re-imaged, predicted, and measured against the label of the thin one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from data_modules.cohort.look import RecordedLook, read_label
from data_modules.cohort.series import read_series
from data_modules.csv_files import read_typed
from data_modules.prepare.store import PREPARATION_VERSION, PreparedSeries
from data_modules.scan.geometry import Volume, place
from data_modules.scan.reimaging import TOLERANCE_MM, finest_mm, on_thin_slices, thicker
from data_modules.scan.scan import Scan, canonical_scan
from iac_lightning.evaluation.calibration.record import Calibration
from iac_lightning.evaluation.metrics.agatston import agatston
from iac_lightning.evaluation.metrics.ceiling import bound_dice, protocol_label
from iac_lightning.evaluation.metrics.series import SeriesMetrics, dice, series_metrics
from iac_lightning.evaluation.tables.series_table import COLUMNS, NAMES, series_row, write_series_table
from iac_lightning.inference import predict_scan
from iac_lightning.workflows.trained import TrainedModel, digest, network_for, prediction_key

VERSION = 2
"""Raised whenever the code re-images or measures differently, so that old rows are not taken for new ones."""

TRUTH = (
    "The label of the thin scan, on the thin scan's own voxels: re-imaging changes what is seen, not what is there. "
    "A mask of thick slices is brought back by giving each thin voxel the value of the thick one that covers most of "
    "it. Volumes are read on the thick slices, as in the clinic, and held against the thin label's."
)


def stress_series(
    model: TrainedModel,
    item: PreparedSeries,
    calibration: Calibration,
    thicknesses_mm: Sequence[float],
    spacing_ratio: float,
    folder: Path,
    look: RecordedLook | None = None,
) -> pd.DataFrame:
    """The native version of a series and each thicker one, predicted and measured; known rows are read.

    Args:
        model: the network.
        item: the series.
        calibration: of the run.
        thicknesses_mm: slices to make; only those thicker than the scan's own are made.
        spacing_ratio: distance over thickness of the new slices.
        folder: where the rows are kept, one file a series.
        look: needed for a series of the test split.
    """
    path = folder / f"{item.series.series_id}.csv"
    own_mm = item.slice_thickness_mm
    by_thickness = ("by_thickness",) if calibration.scaling.by_thickness else ()
    settings = {
        **prediction_key(model, item),
        "calibration": calibration.facts(("temperature", "bias", *by_thickness)),
        "cut": [calibration.point.rule, calibration.point.least_lesion_mm3],
        "true_volume_mm3": item.series.true_volume_mm3,
        "version": [VERSION, PREPARATION_VERSION, list(COLUMNS)],
    }
    if own_mm != item.series.slice_thickness_mm:  # rows were kept with the table's once
        settings["native_thickness_mm"] = own_mm

    def key(thickness_mm: float) -> str:
        thresholds = [cut.at(thickness_mm) for cut in (calibration.point.thresholds, calibration.plain)]
        ratio = 0.0 if thickness_mm == own_mm else spacing_ratio  # the native version has its own distance
        return digest({**settings, "thresholds": thresholds, "thickness_mm": thickness_mm, "spacing_ratio": ratio})

    known = read_rows(path)
    wanted = {mm: key(mm) for mm in (own_mm, *thicknesses_mm) if mm == own_mm or mm > own_mm + TOLERANCE_MM}
    missing = [mm for mm, name in wanted.items() if name not in set(known["key"])]
    if missing:
        thin, label, center_ras_mm = read_thin(item, look)
        for mm in missing:
            row: dict[str, Any] = {"key": wanted[mm]}
            if mm == own_mm:
                row |= measure_version(model, item, calibration, thin, thin, label, center_ras_mm)
            elif min(mm, mm * spacing_ratio) >= finest_mm(thin) - TOLERANCE_MM:
                thick = thicker(thin, mm, mm * spacing_ratio)
                row |= measure_version(model, item, calibration, thin, thick, label, center_ras_mm)
            else:
                continue
            known = pd.concat([*([] if known.empty else [known]), pd.DataFrame([row])], ignore_index=True)
            write_series_table(known, path)
        known = read_rows(path)  # as a continued run sees them, to the last digit
    return known[known["key"].isin(set(wanted.values()))].drop(columns="key")


def read_thin(item: PreparedSeries, look: RecordedLook | None = None) -> tuple[Scan, Volume, Any]:
    """A series as it came, its label on the same voxels, and the middle of its region of interest (RAS mm).

    Where the slice thickness changes within the scan, it is that of the region: its median for the profile, and each
    slice's for what may be made of it.
    """
    scan = read_series(item.series)
    label = read_label(item.series, like=scan, look=look)
    center_ras_mm = item.native_grid.center_ras_mm
    region = canonical_scan(scan).crop(center_ras_mm, item.native_grid.size_mm)
    if region.slice_thicknesses_mm is not None:
        thickest = max(region.slice_thicknesses_mm)
        per_slice = tuple(min(t, thickest) for t in scan.slice_thicknesses_mm or ())
        scan = replace(scan, slice_thickness_mm=region.slice_thickness_mm, slice_thicknesses_mm=per_slice)
    return scan, label, center_ras_mm


def measure_version(
    model: TrainedModel,
    item: PreparedSeries,
    calibration: Calibration,
    thin: Scan,
    scan: Scan,
    label: Volume,
    center_ras_mm: Any,
) -> dict[str, Any]:
    """One version of a scan through the path that every scan takes, against the label of the thin one.

    The native grid is the truth: a prediction on thick slices is brought back to the thin ones and held against the
    thin label there. The alternative, a label on the thick grid, moves the goal with the thickness: occupancy cut at
    one half loses small lesions, so that a model that finds them is punished for it, and a label by the protocol
    (≥ 130 HU) forgives whatever averaging has darkened. The protocol's label is the ceiling instead: it says how much
    of the decay is loss of information. Dice on the thin grid and volume in mm³ can be compared over thicknesses.

    Args:
        model: the network.
        item: the series.
        calibration: of the run; thresholds are those for the thickness of `scan`.
        thin: the scan as it came.
        scan: the version to predict, of `thicker`, or `thin` itself.
        label: on the grid of `thin`.
        center_ras_mm: middle of the region of interest, found once in the thin scan.

    Returns:
        A row as of an evaluation, with `native_thickness_mm`, `is_native`, `ceiling_dice`, `bound_dice` and
        `ceiling_volume_mm3`.
    """
    series, config = item.series, model.run.config
    is_native = scan is thin
    thickness_mm = item.slice_thickness_mm if is_native else scan.slice_thickness_mm
    region = canonical_scan(scan).crop(center_ras_mm, config.data.grid.roi_mm)
    raw = place(predict_scan(network_for(model, item), scan, region, config, model.device), scan.grid, 0.0)
    masks = calibration.masks(calibration.apply(raw, thickness_mm), scan.volume, thickness_mm)
    metrics, plain = (against_thin(mask, label, scan, thin) for mask in masks)
    ceiling = protocol_label(label, scan.volume)
    row = series_row(series.series_id, series.patient_id, thickness_mm, metrics, plain, series.true_volume_mm3)
    return {
        **row,
        "native_thickness_mm": float(item.slice_thickness_mm),
        "is_native": is_native,
        "ceiling_dice": dice(on_thin_slices(ceiling, thin.grid, thin.slice_axis).data, label.data),
        "bound_dice": bound_dice(label, scan.grid, thin.slice_axis),
        "ceiling_volume_mm3": float(ceiling.data.sum() * scan.grid.voxel_volume_mm3),
    }


def against_thin(mask: Volume, label: Volume, scan: Scan, thin: Scan) -> SeriesMetrics:
    """Metrics of a mask of `scan` on the thin slices; its volume and its Agatston-style score are read on its own."""
    if scan is thin:
        return series_metrics(mask, label, thin)
    metrics = series_metrics(on_thin_slices(mask, thin.grid, thin.slice_axis), label, thin)
    return replace(
        metrics,
        volume_mm3=float(mask.data.sum() * scan.grid.voxel_volume_mm3),
        agatston=agatston(mask, scan.volume, scan.slice_axis),
    )


def read_rows(path: Path) -> pd.DataFrame:
    """The rows of a series that an earlier call kept; none where there are none."""
    if not path.exists():
        return pd.DataFrame({"key": []})
    numbers = [column for column in COLUMNS if column not in NAMES]
    remedy = "delete the file, and the series is measured again"
    return read_typed(path, ("key", *NAMES), numbers, "rows of a series", remedy, "round_trip")
