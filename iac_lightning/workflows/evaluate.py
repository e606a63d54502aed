"""A trained run against the labels of a split, on native grids."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from data_modules.cohort.look import GUARDED, RecordedLook
from data_modules.files import write_json_atomic
from data_modules.prepare.images import alike_elsewhere
from data_modules.prepare.preparation import prepare_cohort
from data_modules.prepare.sources import digest, sources_digest
from data_modules.prepare.store import PreparedSeries, PreparedStore, open_store, select_series
from data_modules.prepare.warnings import summarise_warnings
from data_modules.processes import Helpers
from iac_lightning.cluster import sharding
from iac_lightning.config.stored import config_hash
from iac_lightning.evaluation.calibration.held_out import describe_reliability, reliability_of_scans
from iac_lightning.evaluation.calibration.record import APPLIED, Calibration
from iac_lightning.evaluation.statistics.strata import strata_from_edges
from iac_lightning.evaluation.tables.controls import CONTROLS_ENDING, WORDS, control_table, summarise_controls
from iac_lightning.evaluation.tables.series_table import series_table, write_series_table
from iac_lightning.evaluation.tables.summary import summarise, write_summary
from iac_lightning.models.controls import CONTROLS, controls_of
from iac_lightning.report.words import estimate
from iac_lightning.runs.directory import Run, is_main_process
from iac_lightning.runs.looks import count_looks, end_look, record_look
from iac_lightning.tracking import logger as tracking
from iac_lightning.workflows.calibrate import calibrate_together, calibration_file
from iac_lightning.workflows.control_series import ControlWork, control_dice
from iac_lightning.workflows.guard import implausible, judged_set, keep_signed, look_facts, register_look
from iac_lightning.workflows.one_series import Evaluated, EvaluationWork, evaluate_series
from iac_lightning.workflows.reports.evaluated import warnings_file
from iac_lightning.workflows.trained import (
    TrainedModel,
    labelled,
    load_trained,
    on_host,
    refuse_known_patients,
    series_work,
)


@sharding.together()
def evaluate(run: Run, split: str) -> dict[str, Any]:
    """Predict a split, write its NIfTI files, `evaluation/<split>.csv` and `<split>.json`, and track the values.

    A ViT is then predicted with twice more under controls (`models.controls`), unless `evaluation.controls` is false:
    Dice of each series goes to `<split>_controls.csv`, what tokens and attention are worth into the summary.

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
    _, concerned = select_series(run.config.data, tuple(dict.fromkeys(("dev", split))))
    with sharding.helpers_for(run.config.evaluation.workers, len(concerned)) as helpers:
        return evaluate_model(model, split, helpers)


def evaluate_model(model: TrainedModel, split: str, helpers: Helpers) -> dict[str, Any]:
    """`evaluate` of a network at hand.

    Args:
        model: the network.
        split: that is predicted.
        helpers: for the host's part of each series, and for parts of the summary.
    """
    run = model.run
    dev = prepare_cohort(run.config.data, ("dev",))
    refuse_known_patients(dev.split("dev"), model)
    calibration = calibrate_together(model, dev, helpers=helpers)
    controls = controls_of(model.network) if run.config.evaluation.controls else ()
    look = None
    if split == GUARDED:
        settings = config_hash(run.config, "inference", "evaluation")
        seen = what_is_seen(run, ("dev", split), calibration, *controls)
        look = sharding.on_first(
            lambda: record_look(run.directory, "evaluate", split, settings, model.checkpoint_sha256, seen)
        )
    store = prepare_cohort(run.config.data, tuple(dict.fromkeys(("dev", split))), look=look)
    series = labelled(store.split(split), split)
    unverified = refuse_known_patients(series, model)
    guard = sharding.on_first(lambda: guard_facts(model, store, series, look)) if look else {}

    def measured(mine: Sequence[PreparedSeries]) -> Iterator[Evaluated]:
        works = [evaluation_work(model, item, split, calibration, look) for item in mine]
        return on_host(model, works, evaluate_series, helpers)

    found = sharding.share_out(measured, series, f"{run.config.name}: {split}")
    under = {name: under_control(model, name, series, split, calibration, look, helpers) for name in controls}
    if not is_main_process():
        return {}
    table = series_table([each.row for each in found])
    patients = [item.series.patient_id for item in series]
    controlled = control_table(table, [item.series.series_id for item in series], under)
    summary = {
        "run": run.config.name,
        **summarise(
            table,
            split=split,
            threshold=calibration.point.thresholds.general,
            thickness_strata=strata_from_edges(run.config.evaluation.thickness_edges_mm),
            each=helpers.results,
        ),
        "plain_threshold": calibration.plain.general,
        **({"controls": summarise_controls(controlled, controls)} if controls else {}),
        "reliability": reliability_of_scans([each.sums for each in found], patients),
        "calibration": {"file": calibration_file(run).name, **calibration.facts(APPLIED)},
        "checkpoint_sha256": model.checkpoint_sha256,
        "data_fingerprint": store.fingerprint,
        "failed_series": store.failed,
        **({"test_looks": count_looks(run.directory)} if look else {}),
    }
    if guard:
        guard["findings"] += [*unverified, *implausible(table)]
        summary["guard"] = guard
    folder = run.directory / "evaluation"
    write_series_table(table, folder / f"{split}.csv")
    if controls:
        write_series_table(controlled, folder / f"{split}{CONTROLS_ENDING}")
    else:
        (folder / f"{split}{CONTROLS_ENDING}").unlink(missing_ok=True)
    write_summary(summary, folder / f"{split}.json")
    write_json_atomic(warnings_file(folder, split), summarise_warnings([item.warnings for item in series]))
    keep_signed(run.directory, split, store.cohort, look)
    tracking.log_summary(run, summary, split)
    end_look(look)
    return summary


def guard_facts(
    model: TrainedModel, store: PreparedStore, series: Sequence[PreparedSeries], look: RecordedLook
) -> dict[str, Any]:
    """Register the look with its test set; what is known of it (`workflows.guard.look_facts`).

    Args:
        model: that is judged.
        store: opened for the look.
        series: that are judged.
        look: on record.
    """
    run = model.run
    judged = judged_set(store.cohort.path, store.cohort.series, ((p.series, p.image_digests) for p in series))
    settings = config_hash(run.config, "inference", "evaluation")
    register_look(judged, look, "evaluate", model.checkpoint_sha256, run.config.name, settings)
    facts = look_facts(judged, run.directory, model.checkpoint_sha256, settings)
    seen = open_store(run.config.data).series  # all that is prepared, but for the test split
    facts["findings"] += alike_elsewhere(series, seen)
    return facts


def under_control(
    model: TrainedModel,
    control: str,
    series: Sequence[PreparedSeries],
    split: str,
    calibration: Calibration,
    look: RecordedLook | None,
    helpers: Helpers,
) -> list[dict[str, float]]:
    """Dice of each series while the network is under a control, with the calibration and thresholds of the run.

    Args:
        model: the network.
        control: one of `models.controls.CONTROLS`.
        series: of the split, in the order of what is returned.
        split: that is evaluated.
        calibration: of the network as it is.
        look: needed for the test split.
        helpers: for the host's part of each series.
    """

    def measured(mine: Sequence[PreparedSeries]) -> Iterator[dict[str, float]]:
        works = [evaluation_work(model, item, split, calibration, look) for item in mine]
        return on_host(model, [ControlWork(**vars(work), control=control) for work in works], control_dice, helpers)

    with CONTROLS[control](model.network):
        return sharding.share_out(measured, series, f"{model.run.config.name}: {split}, {control.replace('_', ' ')}")


def what_is_seen(run: Run, splits: Sequence[str], calibration: Calibration, *also: Any) -> str:
    """Digest of what a look shows, beside weights and settings: the scans and labels, and how they are calibrated.

    Args:
        run: that is looked at.
        splits: that are read.
        calibration: what is applied.
        also: other plain types that decide it.
    """
    cohort, series = select_series(run.config.data, splits)
    known = [name for name in APPLIED if name in calibration.to_dict()]  # an early one has not all of it
    return digest([sources_digest(series, cohort.path.parent), calibration.facts(known), *also])


def evaluation_work(
    model: TrainedModel,
    item: PreparedSeries,
    split: str,
    calibration: Calibration,
    look: RecordedLook | None = None,
) -> EvaluationWork:
    """What the host does of a series that is measured, before the network has said anything.

    Args:
        model: the network.
        item: the series.
        split: that it belongs to.
        calibration: what is applied.
        look: needed for the test split.
    """
    return EvaluationWork(
        **vars(series_work(model, item)),
        folder=model.run.directory / "predictions" / split,
        calibration=calibration,
        look=look,
    )


def describe_evaluation(summary: dict[str, Any]) -> str:
    """The summary in a few lines, for the terminal."""
    lines = [f"{summary['run']}, {summary['split']}: {summary['n_series']} scans of {summary['n_patients']} patients"]
    for name, values in (
        ("at the operating point", summary),
        ("threshold alone", summary.get("plain")),
        ("uncalibrated, at probability 0.5", summary.get("uncalibrated")),
    ):
        if values:
            parts = (f"{k} {estimate(values[k])}" for k in ("dice", "sensitivity", "ppv", "lesion_f1", "volume_icc"))
            lines.append(f"  {name}: {'; '.join(parts)}")
    lines += describe_reliability(summary.get("reliability"))
    for control, found in summary.get("controls", {}).items():
        lines.append(
            f"  {control.replace('_', ' ')}: dice {estimate(found['dice'])}; so the network's {WORDS[control]} "
            f"{'are' if WORDS[control].endswith('s') else 'is'} worth {estimate(found['difference'], sign=True)}"
        )
    return "\n".join([*lines, *(f"  attention: {text}" for text in summary.get("guard", {}).get("findings", ()))])
