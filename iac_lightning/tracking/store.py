"""The store that MLflow keeps runs in: where it is, making it, reaching it."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

from filelock import FileLock

from data_modules.files import replacing
from iac_lightning.config.schema import ExperimentConfig
from iac_lightning.tracking.place import ARTIFACTS, database_of, follow, is_file, sqlite_uri

LOCK_WAIT_S = 60.0
"""Longest wait for another process that makes the database."""


def tracking_uri(config: ExperimentConfig) -> str:
    """The store: what the config says, or a sqlite database in the runs directory."""
    return config.tracking.uri or sqlite_uri(Path(config.runs_dir).resolve() / "mlflow.db")


def has_store(config: ExperimentConfig) -> bool:
    """Whether there is a store: one that is a file can have been left behind by a run that was moved or copied."""
    uri = tracking_uri(config)
    return not is_file(uri) or database_of(uri).exists()


def create_store(config: ExperimentConfig) -> str:
    """Create the database and the experiment where they do not exist yet; returns the experiment's id.

    A sqlite database is created and migrated under a file lock: several processes that meet a new file at once would
    run the migration into each other.
    """
    uri = tracking_uri(config)
    if not is_file(uri):
        return _experiment_id(uri, config.tracking.experiment, None)
    database = database_of(uri)
    database.parent.mkdir(parents=True, exist_ok=True)
    artifacts = (database.parent / ARTIFACTS).resolve()
    with FileLock(f"{database}.lock", timeout=LOCK_WAIT_S):
        if not database.exists():
            _make(database)
        follow(database, artifacts.as_uri())
        return _experiment_id(uri, config.tracking.experiment, artifacts.as_uri())


def _make(database: Path) -> None:
    """MLflow's tables in a new file, whole or not at all: one that a kill left half made is of no use for ever."""
    for left in database.parent.glob(f".{database.name}.*.tmp*"):  # by a killed process; nobody else holds the lock
        left.unlink(missing_ok=True)
    with replacing(database) as temporary:
        client_of(sqlite_uri(temporary)).search_experiments(max_results=1)


def client_of(uri: str) -> Any:
    """A client of a store."""
    return import_mlflow().MlflowClient(uri)


def import_mlflow() -> Any:
    """The mlflow module, without its chatter, its telemetry and its minutes of retries; importing it takes seconds."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    import mlflow

    for name in ("alembic", "mlflow.pyfunc", "mlflow.tracking"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for name in ("mlflow.store.db.utils", "sqlalchemy.pool"):  # tracebacks beside the exception, which is dealt with
        logging.getLogger(name).setLevel(logging.CRITICAL)
    return mlflow


def _experiment_id(uri: str, name: str, artifacts: str | None) -> str:
    client = client_of(uri)
    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return str(client.create_experiment(name, artifact_location=artifacts))
        except import_mlflow().MlflowException:
            found = client.get_experiment_by_name(name)  # another process was faster
            if found is None:
                raise
    return str(found.experiment_id)
