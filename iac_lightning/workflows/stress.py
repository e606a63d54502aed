"""How models bear thicker slices: the same heads, re-imaged through true slice profiles."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from tqdm import tqdm

from data_modules.cohort.look import GUARDED
from data_modules.cohort.table import Series
from data_modules.errors import UserError
from data_modules.files import remove_leftovers, replacing
from data_modules.prepare.preparation import prepare_cohort
from data_modules.prepare.store import PreparedSeries, PreparedStore
from iac_lightning.config.stored import config_hash
from iac_lightning.evaluation.calibration.record import DECIDING
from iac_lightning.evaluation.clinical.stress import compare_stress, comparison_table, summarise_stress
from iac_lightning.evaluation.metrics.ceiling import BOUND, CEILING
from iac_lightning.evaluation.tables.series_table import write_series_table
from iac_lightning.evaluation.tables.summary import write_summary
from iac_lightning.figures.stress import stress_figure
from iac_lightning.figures.style import png
from iac_lightning.report.stress import write_stress_page
from iac_lightning.runs.directory import Run
from iac_lightning.runs.looks import end_look, record_look
from iac_lightning.tracking import logger as tracking
from iac_lightning.workflows.calibrate import trained_calibration
from iac_lightning.workflows.evaluate import what_is_seen
from iac_lightning.workflows.guard import judged_set, register_look
from iac_lightning.workflows.reports.evaluated import model_labels
from iac_lightning.workflows.stress_series import TRUTH, stress_series
from iac_lightning.workflows.trained import TrainedModel, labelled, load_trained, refuse_known_patients


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
        tables = dict(zip(model_labels([run.config for run in runs]), (table for table, _ in results), strict=True))
        summaries = dict(zip(tables, (summary for _, summary in results), strict=True))
        comparisons = compare_stress(tables, wanted)
        write_series_table(comparison_table(comparisons), out / "comparison.csv")
        write_summary({"split": split, "models": summaries, "comparisons": comparisons}, out / "comparison.json")
        write_stress_page(out, tables, summaries, comparisons)
    return [summary for _, summary in results]


def stress_run(
    model: TrainedModel, split: str, thicknesses_mm: Sequence[float], spacing_ratio: float = 1.0
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Table and summary of one run, written into its folder.

    A scan that cannot be prepared, read or measured is listed under `failed` with the reason, and the others go on;
    of a patient whose thinnest scan cannot be prepared the next is taken. A look at the test split is recorded first.

    Raises:
        UserError: when no scan could be measured, or the model knows a patient.
    """
    run = model.run
    if run.config.trainer.threads:
        torch.set_num_threads(run.config.trainer.threads)
    calibration = trained_calibration(model)
    look, settings = None, config_hash(run.config, "inference", "evaluation")
    if split == GUARDED:
        seen = what_is_seen(run, (split,), calibration, list(thicknesses_mm), spacing_ratio)
        look = record_look(run.directory, "stress", split, settings, model.checkpoint_sha256, seen)
    store = prepare_cohort(run.config.data, (split,), look=look)
    series = thinnest(store, split)
    refuse_known_patients(series, model)
    if look is not None:
        judged = judged_set(
            store.cohort.path, store.cohort.series, ((p.series, p.image_digests) for p in store.split(split))
        )
        register_look(judged, look, "stress", model.checkpoint_sha256, run.config.name, settings)
    folder = run.directory / "stress" / split
    folder.mkdir(parents=True, exist_ok=True)
    remove_leftovers(folder)
    failed = failed_preparation(store, split, run.config.data.cohort)
    tables = []
    for item in tqdm(series, desc=f"{run.config.name}: re-imaging {split}", unit="head", disable=None):
        try:
            tables.append(stress_series(model, item, calibration, thicknesses_mm, spacing_ratio, folder, look))
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
        **summarise_stress(table, thicknesses_mm),
        "failed": failed,
        "calibration": calibration.facts(DECIDING),
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
    end_look(look)
    return table, summary


def thinnest(store: PreparedStore, split: str) -> tuple[PreparedSeries, ...]:
    """The labelled series with the thinnest slices of each patient, in the order of the patients; ties by series id.

    Raises:
        UserError: when no series of the split has a label.
    """
    by_patient: dict[str, PreparedSeries] = {}
    series = [item for item in store.split(split) if item.series.label is not None]
    for item in sorted(series, key=lambda item: (item.slice_thickness_mm, item.series.series_id)):
        by_patient.setdefault(item.series.patient_id, item)
    return labelled(tuple(by_patient[patient] for patient in sorted(by_patient)), split)


def failed_preparation(store: PreparedStore, split: str, cohort: str) -> dict[str, str]:
    """Reason by series id of the labelled series that could not be prepared."""
    concerned: list[Series] = [s for s in store.cohort.split(split) if s.label is not None]
    return {s.series_id: reason(store.failed[s.series_id], cohort) for s in concerned if s.series_id in store.failed}


def reason(error: Exception | str, cohort: str) -> str:
    """What went wrong, in one line, without the folder that the cohort lies in."""
    text = " ".join((error.kept if isinstance(error, UserError) else str(error)).split()).replace(
        f"{Path(cohort).absolute().parent}/", ""
    )
    return text if isinstance(error, UserError | str) else f"{type(error).__name__}: {text}"
