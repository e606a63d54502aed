"""Several trained runs as one model: a run directory that names its members."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from data_modules.cohort.leakage import TRAINS_ON
from data_modules.errors import UserError
from data_modules.prepare.preparation import prepare_cohort
from iac_lightning.config.keys import leaves, value_at
from iac_lightning.config.schema import ExperimentConfig
from iac_lightning.config.values import show
from iac_lightning.evaluation.calibration.record import Calibration
from iac_lightning.runs.directory import Run, open_run
from iac_lightning.runs.members import FILE, Member, members_of, write_members
from iac_lightning.workflows.calibrate import calibrate_run
from iac_lightning.workflows.trained import file_digest, load_trained

SHARED = ("data.cohort", "data.window_hu", "data.grid.", "loss.restrict_hu")
"""What members must have alike: whom they are judged on, the grid on which their probabilities are averaged, the window
they look through, and the darkest voxel that they can predict."""


def make_ensemble(runs: Sequence[Run], name: str, runs_dir: str | None = None) -> tuple[Run, Calibration]:
    """Make the run directory of an ensemble, and calibrate it as one model on the development set.

    The mean of the members' probabilities, before any calibration, is what it predicts. Members that held out
    different folds have all of those patients as their development set, each predicted by the members that have not
    seen it; patients of the test split are predicted by all. Settings that members may differ in are those of the first
    in the new run. One that was interrupted is gone on with.

    Args:
        runs: finished segmentation runs.
        name: of the ensemble's run.
        runs_dir: parent of its directory; None: that of the first member.

    Returns:
        The run of the ensemble, and its calibration.

    Raises:
        UserError: when the runs cannot be members of one ensemble, or the directory holds something else.
    """
    members = [as_member(run) for run in runs]
    if len({member.run.resolve() for member in members}) < max(2, len(members)):
        raise UserError("an ensemble takes two runs at least, each once")
    configs = [run.config for run in runs]
    if problems := [*differing(configs)]:
        raise UserError("\n  ".join(["the runs cannot be members of one ensemble:", *problems]))
    config = ensemble_config(configs, name, runs_dir)
    directory = Path(config.runs_dir) / config.name
    if (directory / "config.yaml").exists() and describe(members_of(directory)) != describe(members):
        what = "is an ensemble of other runs" if (directory / FILE).exists() else "is a run of its own"
        raise UserError(f"{directory}: {what}; give the ensemble another name (--name), or delete that directory")
    with open_run(config) as run:
        write_members(run.directory, members)
        run.write_provenance(prepare_cohort(config.data, (*TRAINS_ON["segment"], "dev")).fingerprint)
        model = load_trained(run)
        calibration = calibrate_run(run)
        run.mark_finished({"parameters": sum(weight.numel() for weight in model.network.parameters())})
    return run, calibration


def as_member(run: Run) -> Member:
    """What an ensemble notes of a run.

    Raises:
        UserError: when it is an ensemble itself, or no finished segmentation.
    """
    if (run.directory / FILE).exists():
        raise UserError(f"{run.directory}: is an ensemble itself; give its members")
    if run.config.task != "segment":
        raise UserError(f"{run.directory}: is a pre-training, which segments nothing; give runs of `iac finetune`")
    path = run.best_checkpoint
    if path is None or not run.is_finished:
        raise UserError(f"{run.directory}: its training is not finished; run it again, and it continues")
    return Member(run.directory, run.config.name, file_digest(path), run.config.data.fold)


def describe(members: Sequence[Member]) -> list[tuple[str, str]]:
    """Which weights of which runs, wherever they lie."""
    return [(member.name, member.checkpoint_sha256) for member in members]


def differing(configs: Sequence[ExperimentConfig]) -> Iterator[str]:
    """The settings that members must share and do not, with their values."""
    for key in (key for key in leaves(ExperimentConfig) if key.startswith(SHARED)):
        values = [value_at(config, key) for config in configs]
        if key == "data.cohort":
            values = [os.path.realpath(value) for value in values]
        if len({show(value) for value in values}) > 1:
            told = (f"{show(value)} in {c.name}" for value, c in zip(values, configs, strict=True))
            yield f"{key}: {'; '.join(dict.fromkeys(told))}; expected the same for all"
    folds = [config.data.fold for config in configs]
    if None in folds and any(fold is not None for fold in folds):
        names = ", ".join(config.name for config in configs if config.data.fold is None)
        yield f"data.fold: null in {names}, a fold in the others; expected a fold for all, or for none"


def ensemble_config(configs: Sequence[ExperimentConfig], name: str, runs_dir: str | None) -> ExperimentConfig:
    """The settings of the ensemble's run: the first member's, and the folds that any member held out."""
    config = copy.deepcopy(configs[0])
    config.name, config.runs_dir = name, runs_dir or config.runs_dir
    folds = sorted({fold for c in configs if c.data.fold is not None for fold in (c.data.fold, *c.data.more_folds)})
    config.data.fold, config.data.more_folds = (folds[0], tuple(folds[1:])) if folds else (None, ())
    return config
