"""The MLflow run that the cells of a sweep are children of."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from data_modules.files import write_text_atomic
from iac_lightning.config.schema import ExperimentConfig
from iac_lightning.config.stored import config_hash
from iac_lightning.sweeps.state import PLAN, Sweep
from iac_lightning.tracking.store import create_store, tracking_uri

log = logging.getLogger(__name__)
_ID = "mlflow_run_id"


def parent_run_id(directory: Path) -> str | None:
    """Id of a sweep's MLflow run; None before it began, or without tracking."""
    path = Path(directory) / _ID
    return path.read_text(encoding="utf-8").strip() or None if path.exists() else None


def start_parent(sweep: Sweep, config: ExperimentConfig) -> None:
    """Begin or continue the sweep's MLflow run; makes the store, so that cells that start at once find it.

    Args:
        sweep: whose run.
        config: of any cell; its tracking settings count.
    """
    if not config.tracking.enabled:
        return
    try:
        experiment = create_store(config)
        client = _client(config)
        known = parent_run_id(sweep.directory)
        if known is not None and client.get_run(known).info.lifecycle_stage == "active":
            client.update_run(known, status="RUNNING")
        else:
            tags = {"task": "sweep", "config_hash": config_hash(config)}
            known = client.create_run(experiment, run_name=sweep.plan["name"], tags=tags).info.run_id
            write_text_atomic(sweep.directory / _ID, known + "\n")
        client.log_artifact(known, str(sweep.directory / PLAN))
    except Exception as error:  # whatever a store throws: it may not stop a sweep
        log.warning("tracking: the sweep's MLflow run could not be made (%s); its cells go on", error)


def finish_parent(sweep: Sweep, config: ExperimentConfig, status: str, report: Path | None = None) -> None:
    """Set the status (`FINISHED`, `FAILED`, `KILLED`) and keep the report there."""
    known = parent_run_id(sweep.directory)
    if known is None or not config.tracking.enabled:
        return
    try:
        client = _client(config)
        if report is not None:
            client.log_artifacts(known, str(report), "report")
        client.set_terminated(known, status)
    except Exception as error:  # see start_parent
        log.warning("tracking: the end of the sweep was not stored in MLflow (%s)", error)


def _client(config: ExperimentConfig) -> Any:
    import mlflow

    return mlflow.MlflowClient(tracking_uri(config))
