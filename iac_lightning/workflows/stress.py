"""How models bear thicker slices: the same heads, re-imaged through true slice profiles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from data_modules.cohort import Series, read_cohort
from data_modules.ct import Scan, canonical_scan, read_mask, read_scan
from data_modules.errors import UserError
from data_modules.geometry import Grid, Volume, place
from data_modules.reimaging import TOLERANCE_MM, finest_mm, on_thin_slices, thick_slice_of, thicker
from data_modules.resampling import resample_occupancy
from data_modules.store import PREPARATION_VERSION, PreparedSeries, PreparedStore, prepare_cohort
from iac_lightning import tracking
from iac_lightning.evaluation.agatston import agatston
from iac_lightning.evaluation.calibration import apply
from iac_lightning.evaluation.figures import png
from iac_lightning.evaluation.lesions import protocol_prior
from iac_lightning.evaluation.overlap import SeriesMetrics, dice, series_metrics
from iac_lightning.evaluation.stress import METRICS, compare_stress, comparison_table, summarise_stress
from iac_lightning.evaluation.stress_figures import stress_figure
from iac_lightning.evaluation.stress_page import write_stress_page
from iac_lightning.evaluation.summary import series_row, write_series_table, write_summary
from iac_lightning.files import remove_leftovers, replacing
from iac_lightning.inference import predict_scan
from iac_lightning.runs import Run
from iac_lightning.workflows.calibrate import threshold_for, trained_calibration
from iac_lightning.workflows.report import model_labels
from iac_lightning.workflows.trained import (
    TrainedModel,
    digest,
    labelled,
    load_trained,
    prediction_key,
    refuse_known_patients,
)

VERSION = 1
"""Raised whenever the code re-images or measures differently, so that old rows are not taken for new ones."""

TRUTH = (
    "The label of the thin scan, on the thin scan's own voxels: re-imaging changes what is seen, not what is there. "
    "A mask of thick slices is brought back by giving each thin voxel the value of the thick one that covers most of "
    "it. Volumes are read on the thick slices, as in the clinic, and held against the thin label's."
)

CEILING = (
    "Dice against the same truth of the label that the annotation protocol makes of the thick slices (voxels that the "
    "thin label touches, at least 130 HU after re-imaging, none alone): what a faultless reader of them reaches. What "
    "it loses, the slices have lost; a model that loses more reaches a smaller share of it. A model may exceed it."
)

BOUND = "The highest Dice that any mask of the thick voxels can have, chosen with the truth in hand."


def stress(
    runs: Sequence[Run],
    split: str,
    thicknesses_mm: Sequence[float],
    out: Path | None = None,
    spacing_ratio: float = 1.0,
) -> list[dict[str, Any]]:
    """Re-image the thinnest scan of each patient, predict and measure every version, compare the runs.

    Each run gets `stress/<split>.csv` (a row a series and thickness), `<split>.json` and `<split>.png`; `out`, if
    given, `index.html`, `comparison.csv` and `comparison.json`, with the difference of slopes of each two runs (the
    run given last is the baseline). Rows are kept one by one: a killed run goes on; a row whose weights,
    calibration, scan or settings have changed is computed anew.

    Args:
        runs: calibrated segmentation runs.
        split: `dev` or `test`.
        thicknesses_mm: slices to make, at right angles to them. What is not thicker than a scan's own is not made.
        out: folder of the comparison.
        spacing_ratio: distance of the new slices over their thickness; 1 for slices that touch, above for gaps.

    Returns:
        The summary of each run, as in its JSON.

    Raises:
        UserError: for thicknesses or names that make no sense, a run that is not calibrated or knows these patients,
            or when nothing could be measured.
    """
    wanted = sorted(set(thicknesses_mm))
    if not wanted or wanted[0] <= 0:
        raise UserError(f"--thickness {' '.join(f'{mm:g}' for mm in thicknesses_mm)}: expected millimetres above 0")
    if not spacing_ratio > 0:
        raise UserError(f"--spacing-ratio {spacing_ratio:g}: expected a number above 0, 1 for slices that touch")
    names = [run.config.name for run in runs]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f"more than one run is called {', '.join(twice)}: give each run once, under a name of its own")
    models = [load_trained(run) for run in runs]
    for model in models:
        trained_calibration(model)  # before the first scan: an uncalibrated run is known at once
    results = [stress_run(model, split, wanted, spacing_ratio) for model in models]
    if out is not None:
        seed = runs[0].config.seed
        tables = dict(zip(model_labels([run.config for run in runs]), (table for table, _ in results), strict=True))
        summaries = dict(zip(tables, (summary for _, summary in results), strict=True))
        comparisons = compare_stress(tables, wanted, seed)
        write_series_table(comparison_table(comparisons), out / "comparison.csv")
        write_summary({"split": split, "models": summaries, "comparisons": comparisons}, out / "comparison.json")
        write_stress_page(out, tables, summaries, comparisons)
    return [summary for _, summary in results]


def stress_run(
    model: TrainedModel, split: str, thicknesses_mm: Sequence[float], spacing_ratio: float = 1.0
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Table and summary of one run, written into its folder.

    A scan that cannot be prepared, read or measured is listed under `failed` with the reason, and the others go on;
    of a patient whose thinnest scan cannot be prepared the next is taken.
    """
    run = model.run
    if run.config.trainer.threads:
        torch.set_num_threads(run.config.trainer.threads)
    calibration = trained_calibration(model)
    store = prepare_cohort(run.config.data, (split,))
    series = thinnest(store, split)
    refuse_known_patients(series, model)
    folder = run.directory / "stress" / split
    folder.mkdir(parents=True, exist_ok=True)
    remove_leftovers(folder)
    failed = failed_preparation(store, split, run.config.data.cohort)
    tables = []
    for item in tqdm(series, desc=f"{run.config.name}: re-imaging {split}", unit="head", disable=None):
        try:
            tables.append(stress_series(model, item, calibration, thicknesses_mm, spacing_ratio, folder))
        except Exception as error:  # one bad scan among thousands must not stop the rest
            failed[item.series.series_id] = reason(error, run.config.data.cohort)
    if not tables:
        name, why = next(iter(failed.items()))
        raise UserError(f"none of the {len(series)} scans of '{split}' could be measured. The first, {name}: {why}")
    table = pd.concat(tables).sort_values(["series_id", "slice_thickness_mm"], ignore_index=True)
    summary = {
        "run": run.config.name,
        "split": split,
        "settings": {
            "thickness_mm": list(thicknesses_mm),
            "spacing_ratio": spacing_ratio,
            "profile": "exact overlap, variance matched",
            "truth": TRUTH,
            "ceiling": CEILING,
            "bound": BOUND,
        },
        **summarise_stress(table, thicknesses_mm, run.config.seed),
        "failed": failed,
        "calibration": {key: calibration[key] for key in ("temperature", "bias", "threshold", "thickness")},
        "checkpoint_sha256": model.checkpoint_sha256,
        "data_fingerprint": store.fingerprint,
    }
    write_series_table(table, folder.parent / f"{split}.csv")
    write_summary(summary, folder.parent / f"{split}.json")
    (label,) = model_labels([run.config])
    chart = stress_figure({label: table}, {label: summary})
    with replacing(folder.parent / f"{split}.png") as temporary:
        temporary.write_bytes(png(chart))
    tracking.log_summary(
        run, {key: summary[key] for key in ("native", "slope_within_patients_per_mm")}, f"stress_{split}"
    )
    return table, summary


def thinnest(store: PreparedStore, split: str) -> tuple[PreparedSeries, ...]:
    """The labelled series with the thinnest slices of each patient, in the order of the patients; ties by series id.

    Raises:
        UserError: when no series of the split has a label.
    """
    found: dict[str, PreparedSeries] = {}
    series = [item for item in store.split(split) if item.series.label is not None]
    for item in sorted(series, key=lambda item: (item.series.slice_thickness_mm, item.series.series_id)):
        found.setdefault(item.series.patient_id, item)
    return labelled(tuple(found[patient] for patient in sorted(found)), split)


def stress_series(
    model: TrainedModel,
    item: PreparedSeries,
    calibration: dict[str, Any],
    thicknesses_mm: Sequence[float],
    spacing_ratio: float,
    folder: Path,
) -> pd.DataFrame:
    """The native version of a series and each thicker one, predicted and measured; known rows are read.

    Args:
        model: the network.
        item: the series.
        calibration: of the run.
        thicknesses_mm: slices to make; only those thicker than the scan's own are made.
        spacing_ratio: distance over thickness of the new slices.
        folder: where the rows are kept, one file a series.
    """
    path = folder / f"{item.series.series_id}.csv"
    own_mm = item.series.slice_thickness_mm
    settings = {
        **prediction_key(model, item),
        "calibration": {key: calibration[key] for key in ("temperature", "bias")},
        "true_volume_mm3": item.series.true_volume_mm3,
        "version": [VERSION, PREPARATION_VERSION],
    }

    def key(thickness_mm: float) -> str:
        thresholds = [threshold_for(calibration, thickness_mm, prior=prior) for prior in (False, True)]
        ratio = 0.0 if thickness_mm == own_mm else spacing_ratio  # the native version has its own distance
        return digest({**settings, "thresholds": thresholds, "thickness_mm": thickness_mm, "spacing_ratio": ratio})

    known = read_rows(path)
    wanted = {mm: key(mm) for mm in (own_mm, *thicknesses_mm) if mm == own_mm or mm > own_mm + TOLERANCE_MM}
    missing = [mm for mm, name in wanted.items() if name not in set(known["key"])]
    if missing:
        thin, label, center_ras_mm = read_thin(item)
        for mm in missing:
            row: dict[str, Any] = {"key": wanted[mm]}
            if mm == own_mm:
                row |= measure(model, item, calibration, thin, thin, label, center_ras_mm)
            elif min(mm, mm * spacing_ratio) >= finest_mm(thin) - TOLERANCE_MM:
                thick = thicker(thin, mm, mm * spacing_ratio)
                row |= measure(model, item, calibration, thin, thick, label, center_ras_mm)
            else:
                continue
            known = pd.concat([*([] if known.empty else [known]), pd.DataFrame([row])], ignore_index=True)
            write_series_table(known, path)
        known = read_rows(path)  # as a continued run sees them, to the last digit
    return known[known["key"].isin(set(wanted.values()))].drop(columns="key")


def read_thin(item: PreparedSeries) -> tuple[Scan, Volume, Any]:
    """A series as it came, its label on the same voxels, and the middle of its region of interest (RAS mm).

    Where the slice thickness changes within the scan, it is that of the region: its median for the profile, and each
    slice's for what may be made of it.
    """
    series = item.series
    scan = read_scan(
        series.image,
        series=series.extra.get("dicom_series") or None,
        slice_thickness_mm=None if series.image.is_dir() else series.slice_thickness_mm,
    )
    assert series.label is not None
    label = read_mask(series.label, like=scan.grid)
    center_ras_mm = item.native_grid.center_ras_mm
    region = canonical_scan(scan).crop(center_ras_mm, item.native_grid.size_mm)
    if region.slice_thicknesses_mm is not None:
        thickest = max(region.slice_thicknesses_mm)
        per_slice = tuple(min(t, thickest) for t in scan.slice_thicknesses_mm or ())
        scan = replace(scan, slice_thickness_mm=region.slice_thickness_mm, slice_thicknesses_mm=per_slice)
    return scan, label, center_ras_mm


def measure(
    model: TrainedModel,
    item: PreparedSeries,
    calibration: dict[str, Any],
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
    thickness_mm = series.slice_thickness_mm if is_native else scan.slice_thickness_mm
    region = canonical_scan(scan).crop(center_ras_mm, config.data.grid.roi_mm)
    raw = place(predict_scan(model.network, scan, region, config, model.device), scan.grid, 0.0)
    probability = raw.with_data(apply(raw.data, calibration["temperature"], calibration["bias"]))

    def above(prior: bool) -> Volume:
        return probability.with_data(probability.data >= threshold_for(calibration, thickness_mm, prior=prior))

    metrics = against_thin(above(False), label, scan, thin)
    prior = None
    if config.inference.protocol_prior:
        prior = against_thin(protocol_prior(above(True), scan.volume), label, scan, thin)
    touched = resample_occupancy(label, scan.grid).data > 1e-4  # rounding is no lesion
    ceiling = protocol_prior(scan.volume.with_data(touched), scan.volume)
    row = series_row(series.series_id, series.patient_id, thickness_mm, metrics, prior, series.true_volume_mm3)
    return {
        **row,
        "native_thickness_mm": float(series.slice_thickness_mm),
        "is_native": is_native,
        "ceiling_dice": dice(on_thin_slices(ceiling, thin.grid, thin.slice_axis).data, label.data),
        "bound_dice": bound_dice(label, scan.grid, thin.slice_axis),
        "ceiling_volume_mm3": float(ceiling.data.sum() * scan.grid.voxel_volume_mm3),
    }


def against_thin(mask: Volume, label: Volume, scan: Scan, thin: Scan) -> SeriesMetrics:
    """Figures of a mask of `scan` on the thin slices; its volume and its Agatston-style score are read on its own."""
    if scan is thin:
        return series_metrics(mask, label, thin)
    metrics = series_metrics(on_thin_slices(mask, thin.grid, thin.slice_axis), label, thin)
    return replace(
        metrics,
        volume_mm3=float(mask.data.sum() * scan.grid.voxel_volume_mm3),
        agatston=agatston(mask, scan.volume, scan.slice_axis),
    )


def bound_dice(label: Volume, thick: Grid, slice_axis: int) -> float:
    """The highest Dice that a mask on thick slices can have against a label of thin ones; 1 for an empty label.

    Dice is 2·Σg / (Σn + |G|) over the masked thick voxels, of n thin voxels each, g of them labelled. Of a ratio of
    two sums, the best choice takes voxels by falling g/n, down to some point; all points are tried.
    """
    number = thick_slice_of(thick, label.grid, slice_axis)
    inside = number >= 0
    per_slice = np.bincount(number[inside], minlength=thick.shape[slice_axis])
    planes = np.moveaxis(label.data, slice_axis, 0)
    labelled_voxels = np.zeros((len(per_slice), *planes.shape[1:]), dtype=np.int64)
    np.add.at(labelled_voxels, number[inside], planes[inside])
    where = np.nonzero(labelled_voxels)
    g, n, total = labelled_voxels[where], per_slice[where[0]], int(label.data.sum())
    if not total:
        return 1.0
    order = np.argsort(-g / n, kind="stable")
    return float(np.max(2 * g[order].cumsum() / (n[order].cumsum() + total), initial=0.0))


def read_rows(path: Path) -> pd.DataFrame:
    """The rows of a series that an earlier call kept; none where there are none."""
    if not path.exists():
        return pd.DataFrame({"key": []})
    return pd.read_csv(path, dtype={"series_id": str, "patient_id": str, "key": str}, float_precision="round_trip")


def failed_preparation(store: PreparedStore, split: str, cohort: str) -> dict[str, str]:
    """Reason by series id of the labelled series that could not be prepared."""
    concerned: list[Series] = [s for s in read_cohort(cohort).split(split) if s.label is not None]
    return {s.series_id: reason(store.failed[s.series_id], cohort) for s in concerned if s.series_id in store.failed}


def reason(error: Exception | str, cohort: str) -> str:
    """What went wrong, in one line, without the folder that the cohort lies in."""
    text = " ".join(str(error).split()).replace(f"{Path(cohort).absolute().parent}/", "")
    return text if isinstance(error, UserError | str) else f"{type(error).__name__}: {text}"


def describe(summary: dict[str, Any]) -> str:
    """The summary in a few lines, for the terminal."""
    own = summary["native"]
    low, _, high = own["thickness_mm"]
    lines = [
        f"{summary['run']}, {summary['split']}: {summary['n_patients']} heads, {summary['n_with_lesion']} with lesions",
        f"  native ({low:g} to {high:g} mm): {_line(own)}",
        *(f"  {part['thickness_mm']:g} mm: {_line(part)}" for part in summary["thickness"]),
    ]
    slope = summary["slope_within_patients_per_mm"]
    lines.append("  per mm, same heads: " + "; ".join(f"{m} {_signed(slope[m])}" for m in METRICS if m != "ppv"))
    lines += [f"  failed: {name}: {why}" for name, why in summary["failed"].items()]
    return "\n".join(lines)


def _line(part: dict[str, Any]) -> str:
    dice_, ceiling, ratio = (part[key]["value"] for key in ("dice", "ceiling_dice", "volume_ratio"))
    figures = (("Dice", dice_), ("ceiling", ceiling), ("volume ratio", ratio))
    return f"{part['n_patients']} heads; " + "; ".join(
        f"{name} {'–' if value is None else f'{value:.3f}'}" for name, value in figures
    )


def _signed(slope: dict[str, Any]) -> str:
    if slope["value"] is None:
        return "–"
    low, high = slope["ci95"]
    ends = "" if low is None else f" [{low:+.4f}; {high:+.4f}]"
    return f"{slope['value']:+.4f}{ends}"
