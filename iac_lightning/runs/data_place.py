"""Where a run's data lie now: a cohort that was moved is taken at its new place, if it holds the same data."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data_modules.cohort.leakage import TRAINS_ON
from data_modules.errors import UserError
from data_modules.prepare.preparation import prepare_cohort
from iac_lightning.config.schema import ExperimentConfig

PLACES = ("data.cohort", "data.prepared_dir", "data.grid.template")
"""Settings that name files whose content decides, wherever they lie."""


def check_same_data(directory: Path, config: ExperimentConfig, provenance: Mapping[str, Any]) -> None:
    """Refuse another place whose data are not those that a run began with.

    Prepares there what is not prepared yet: the fingerprint is of the content of every scan and label that the run
    trained and was developed on.

    Args:
        directory: of the run.
        config: its settings, with the new place.
        provenance: of the run, with the fingerprint of its data.

    Raises:
        UserError: when they are others, or the run does not know its own.
    """
    began = provenance.get("data_fingerprint")
    if began is None:
        raise UserError(
            f"{directory}: does not know the fingerprint of its data (provenance.json), so no other place can be "
            f"compared: bring {config.data.cohort} back to where config.yaml has it"
        )
    now = prepare_cohort(config.data, (*TRAINS_ON[config.task], "dev")).fingerprint
    if now != began:
        raise UserError(
            f"data.cohort: {config.data.cohort} does not hold the data of {directory} (fingerprint {began[:16]} when "
            f"it was trained, {now[:16]} there): scans, labels, splits or the template differ. Give the place that its "
            "own data were moved to."
        )
