"""What a run is in MLflow: the MLflow run that belongs to a run directory, its parameters, its provenance."""

from __future__ import annotations

import logging
import uuid
from typing import Any

from data_modules.files import write_text_atomic
from iac_lightning.config.dotted import flat
from iac_lightning.config.schema import ExperimentConfig
from iac_lightning.config.stored import config_dict, config_hash
from iac_lightning.runs.directory import Run
from iac_lightning.tracking.store import client_of, import_mlflow, tracking_uri

log = logging.getLogger(__name__)

_PARAMETER_LENGTH = 250
_PARAMETERS_AT_ONCE = 100


def continue_or_create(run: Run, experiment_id: str) -> tuple[str, bool]:
    """Id of the MLflow run, and whether its parameters are still to be logged."""
    client = client_of(tracking_uri(run.config))
    if run.mlflow_run_id is not None:
        try:
            found = client.get_run(run.mlflow_run_id)
        except import_mlflow().MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            found = None
        if found is not None and found.info.lifecycle_stage == "active":
            client.update_run(run.mlflow_run_id, status="RUNNING")
            return run.mlflow_run_id, not found.data.params
        log.warning(
            "tracking: the MLflow run %s of %s is not in the store any more; a new one continues",
            run.mlflow_run_id,
            run.config.name,
        )
    key, is_known = _run_key(run)
    if is_known:  # a process may have been killed between making the MLflow run and noting its id
        orphans = client.search_runs([experiment_id], f"tags.run_key = '{key}'", max_results=1)
        if orphans:
            found = orphans[0]
            run.mlflow_run_id = found.info.run_id
            return found.info.run_id, not found.data.params
    tags = {"task": run.config.task, "model": run.config.model.name, "config_hash": config_hash(run.config)}
    tags["run_key"] = key
    if run.config.tracking.parent_run_id:
        tags["mlflow.parentRunId"] = run.config.tracking.parent_run_id
    created = client.create_run(experiment_id, run_name=run.config.name, tags=tags)
    run.mlflow_run_id = created.info.run_id
    return created.info.run_id, True


def _run_key(run: Run) -> tuple[str, bool]:
    """What marks the MLflow run of a run directory, and whether an earlier process may have used it."""
    path = run.directory / "logs" / "mlflow_key"
    if path.exists():
        return path.read_text(encoding="ascii").strip(), True
    key = uuid.uuid4().hex
    write_text_atomic(path, key + "\n")
    return key, False


def log_parameters(client: Any, run_id: str, config: ExperimentConfig) -> None:
    """All settings by their dotted keys, cut to the length that MLflow takes."""
    from mlflow.entities import Param

    params = [Param(key, str(value)[:_PARAMETER_LENGTH]) for key, value in flat(config_dict(config)).items()]
    for first in range(0, len(params), _PARAMETERS_AT_ONCE):
        client.log_batch(run_id, params=params[first : first + _PARAMETERS_AT_ONCE])


def log_provenance(client: Any, run_id: str | None, run: Run) -> None:
    """provenance.json as an artifact, and what one filters by as tags; the latest code where a run was continued."""
    record = run.provenance
    if not record:
        return
    client.log_artifact(run_id, str(run.directory / "provenance.json"))
    git = [record, *record.get("continued", [])][-1].get("git") or {}
    tags = {
        "data_fingerprint": record.get("data_fingerprint"),
        "git_commit": git.get("commit"),
        "git_dirty": git.get("dirty"),
    }
    for key, value in tags.items():
        if value is not None:
            client.set_tag(run_id, key, str(value))
