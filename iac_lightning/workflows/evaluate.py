"""A trained run against the labels of a split, on native grids."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from data_modules.cohort.look import GUARDED, RecordedLook, read_label
from data_modules.cohort.series import read_series
from data_modules.files import write_json_atomic
from data_modules.prepare.preparation import prepare_cohort
from data_modules.prepare.sources import digest, sources_digest
from data_modules.prepare.store import PreparedSeries, select_series
from data_modules.prepare.warnings import summarise_warnings
from data_modules.scan.geometry import Grid, Volume, place
from data_modules.scan.nifti import write_nifti
from iac_lightning.cluster import sharding
from iac_lightning.config.stored import config_hash
from iac_lightning.evaluation.calibration.record import APPLIED, Calibration
from iac_lightning.evaluation.metrics.series import series_metrics
from iac_lightning.evaluation.statistics.strata import strata_from_edges
from iac_lightning.evaluation.tables.series_table import series_row, series_table, write_series_table
from iac_lightning.evaluation.tables.summary import summarise, write_summary
from iac_lightning.report.words import estimate
from iac_lightning.runs.directory import Run, is_main_process
from iac_lightning.runs.looks import count_looks, end_look, record_look
from iac_lightning.tracking import logger as tracking
from iac_lightning.workflows.calibrate import calibrate_together, calibration_file, uncalibrated_file
from iac_lightning.workflows.reports.evaluated import warnings_file
from iac_lightning.workflows.trained import (
    TrainedModel,
    labelled,
    load_trained,
    native_probability,
    prediction_key,
    refuse_known_patients,
    saved_prediction,
    write_prediction,
)


@sharding.together()
def evaluate(run: Run, split: str) -> dict[str, Any]:
    """Predict a split, write its NIfTI files, `evaluation/<split>.csv` and `<split>.json`, and track the values.

    Probabilities and thresholds are those of the run's calibration on the development split (`calibration.json`),
    which is made here if these weights have none. Saved probabilities are calibrated.
    A run that was killed here goes on with the scans that are missing. With several processes (`sharding`) each scan
    is predicted by one of them, and the first writes the tables.

    A look at the test split is recorded (`iac_lightning.runs.looks`) before anything of it is read.

    Returns:
        The summary, as in the JSON; nothing in processes other than the first.
    """
    if run.config.trainer.threads:
        torch.set_num_threads(run.config.trainer.threads)
    model = load_trained(run)
    dev = prepare_cohort(run.config.data, ("dev",))
    refuse_known_patients(dev.split("dev"), model)
    calibration = calibrate_together(model, dev)
    look = None
    if split == GUARDED:
        settings = config_hash(run.config, "inference", "evaluation")
        seen = what_is_seen(run, ("dev", split), calibration)
        look = sharding.on_first(
            lambda: record_look(run.directory, "evaluate", split, settings, model.checkpoint_sha256, seen)
        )
    store = prepare_cohort(run.config.data, tuple(dict.fromkeys(("dev", split))), look=look)
    series = labelled(store.split(split), split)
    refuse_known_patients(series, model)
    rows = sharding.share_out(
        lambda item: evaluate_series(model, item, split, calibration, look), series, f"{run.config.name}: {split}"
    )
    if not is_main_process():
        return {}
    table = series_table(rows)
    summary = {
        "run": run.config.name,
        **summarise(
            table,
            run.config.seed,
            split=split,
            threshold=calibration.plain.general,
            thickness_strata=strata_from_edges(run.config.evaluation.thickness_edges_mm),
        ),
        "prior_threshold": calibration.prior.general,
        "calibration": {"file": calibration_file(run).name, **calibration.facts(APPLIED)},
        "checkpoint_sha256": model.checkpoint_sha256,
        "data_fingerprint": store.fingerprint,
        "failed_series": store.failed,
        **({"test_looks": count_looks(run.directory)} if look else {}),
    }
    folder = run.directory / "evaluation"
    write_series_table(table, folder / f"{split}.csv")
    write_summary(summary, folder / f"{split}.json")
    write_json_atomic(warnings_file(folder, split), summarise_warnings([item.warnings for item in series]))
    tracking.log_summary(run, summary, split)
    end_look(look)
    return summary


def what_is_seen(run: Run, splits: Sequence[str], calibration: Calibration, *also: Any) -> str:
    """Digest of what a look shows, beside weights and settings: the scans and labels, and how they are calibrated.

    Args:
        run: that is looked at.
        splits: that are read.
        calibration: what is applied.
        also: other plain types that decide it.
    """
    cohort, series = select_series(run.config.data, splits)
    applied = calibration.to_dict()  # an early one has not all of it
    return digest([sources_digest(series, cohort.path.parent), [applied.get(name) for name in APPLIED], *also])


def evaluate_series(
    model: TrainedModel,
    item: PreparedSeries,
    split: str,
    calibration: Calibration,
    look: RecordedLook | None = None,
) -> dict[str, Any]:
    """Predict one series (or read its saved prediction), write it on the scan's own grid and measure it there.

    Args:
        model: the network.
        item: the series.
        split: that it belongs to.
        calibration: what is applied.
        look: needed for the test split.
    """
    series = item.series
    folder = model.run.directory / "predictions" / split
    stem = folder / series.series_id
    scan = read_series(series)
    label = read_label(series, like=scan, look=look)
    probability = calibrated_probability(model, item, Path(f"{stem}_probability.nii.gz"), scan.grid, calibration)
    mask, protocol_mask = calibration.masks(probability, scan.volume, item.slice_thickness_mm)
    write_nifti(mask, Path(f"{stem}_mask.nii.gz"))
    return series_row(
        series.series_id,
        series.patient_id,
        item.slice_thickness_mm,
        series_metrics(mask, label, scan),
        series_metrics(protocol_mask, label, scan) if model.run.config.inference.protocol_prior else None,
        series.true_volume_mm3,
        series_metrics(calibration.uncalibrated_mask(probability), label, scan),
    )


def calibrated_probability(
    model: TrainedModel, item: PreparedSeries, path: Path, grid: Grid, calibration: Calibration
) -> Volume:
    """Calibrated probability on the scan's own grid: read if it is saved, else made and written.

    Args:
        model: the network.
        item: the series.
        path: where it is kept.
        grid: of the scan.
        calibration: whose temperature and bias are applied.
    """
    raw_key = prediction_key(model, item)
    key = {**raw_key, "temperature": calibration.temperature, "bias": calibration.bias}
    saved = saved_prediction(path, key, like=grid)
    if saved is not None:
        return saved
    raw = saved_prediction(uncalibrated_file(model.run, item), raw_key, like=grid)  # development series have one
    if raw is None:
        raw = place(native_probability(model, item), grid, 0.0)
    probability = calibration.apply(raw)
    write_prediction(probability, path, key)
    return probability


def describe_evaluation(summary: dict[str, Any]) -> str:
    """The summary in a few lines, for the terminal."""
    lines = [f"{summary['run']}, {summary['split']}: {summary['n_series']} scans of {summary['n_patients']} patients"]
    for name, values in (
        ("plain", summary),
        ("after the protocol prior", summary.get("protocol_prior")),
        ("uncalibrated, at probability 0.5", summary.get("uncalibrated")),
    ):
        if values:
            parts = (f"{k} {estimate(values[k])}" for k in ("dice", "sensitivity", "ppv", "lesion_f1", "volume_icc"))
            lines.append(f"  {name}: {'; '.join(parts)}")
    return "\n".join(lines)
