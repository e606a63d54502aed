"""Predictions of another program and the registry of the test set that they are judged on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from data_modules.cohort.look import RecordedLook
from data_modules.cohort.registry import register_use, registry_of
from data_modules.cohort.table import Cohort, Series
from data_modules.files import sha256
from data_modules.prepare.images import digests_of
from data_modules.prepare.sources import digest
from iac_lightning.workflows.guard import implausible, judged_set, look_facts, register_look


def registered(
    directory: Path,
    model: tuple[str, str],
    cohort: Cohort,
    series: Sequence[Series],
    look: RecordedLook | None,
    folders: tuple[Path, Path | None],
    workers: int,
) -> dict[str, Any]:
    """Register the scans that thresholds are chosen by, and the look with its test set (`workflows.guard`).

    Args:
        directory: that is written to.
        model: its name, and the hash of what decides its values.
        cohort: with the labels.
        series: that are evaluated.
        look: at the test split, None for another split.
        folders: of the predictions, and of those of the development split.
        workers: processes that read scans whose content is not known yet.
    """
    registry = registry_of(cohort.path, cohort.series)
    developed = cohort.split("dev") if folders[1] else ()
    needed = [*(series if look else ()), *developed]
    digests = digests_of(needed, cohort.path, registry.folders, workers)
    register_use(cohort.path, cohort.series, ((s, digests[s.series_id]) for s in developed))
    if look is None:
        return {}
    judged = judged_set(cohort.path, cohort.series, ((s, digests[s.series_id]) for s in series))
    which = digest([[path.name, sha256(path)] for path in prediction_files(folders[0])])[:16]
    register_look(judged, look, "evaluate", which, *model)
    return look_facts(judged, directory, which, model[1])


def with_findings(guard: Mapping[str, Any], table: pd.DataFrame, threshold: float | None) -> dict[str, Any]:
    """What goes into the summary under `guard`, with what the table and the threshold tell; nothing without a look.

    Args:
        guard: from `registered`.
        table: a row a series.
        threshold: that was given by hand.
    """
    if not guard:
        return {}
    found = [*guard["findings"], *implausible(table)]
    if threshold is not None:
        found.append(
            f"The threshold {threshold:g} was given by hand: nothing shows that it was not chosen on the test split."
        )
    return {"guard": {**guard, "findings": found}}


def prediction_files(folder: Path) -> list[Path]:
    """The predictions in a folder, by name."""
    return sorted(path for path in folder.iterdir() if path.name.endswith((".nii", ".nii.gz", ".npz")))
