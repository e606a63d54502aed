"""The store that MLflow keeps runs in: where it is, making it, reaching it, showing it."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import Any

from filelock import FileLock

from data_modules.errors import UserError
from iac_lightning.config.schema import ExperimentConfig


def tracking_uri(config: ExperimentConfig) -> str:
    """The store: what the config says, or a sqlite database in the runs directory."""
    return config.tracking.uri or f"sqlite:///{Path(config.runs_dir).resolve() / 'mlflow.db'}"


def create_store(config: ExperimentConfig) -> str:
    """Create the database and the experiment where they do not exist yet; returns the experiment's id.

    A sqlite database is created and migrated under a file lock: several processes that meet a new file at once would
    run the migration into each other.
    """
    uri = tracking_uri(config)
    if not uri.startswith("sqlite:///"):
        return _experiment_id(uri, config.tracking.experiment, None)
    database = Path(uri.removeprefix("sqlite:///"))
    database.parent.mkdir(parents=True, exist_ok=True)
    artifacts = (database.parent / "mlartifacts").resolve()
    with FileLock(f"{database}.lock"):
        return _experiment_id(uri, config.tracking.experiment, artifacts.as_uri())


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


def serve_command(runs_dir: Path, port: int = 5000) -> list[str]:
    """The command that shows the runs of a directory in the browser, on this machine only.

    Raises:
        UserError: when nothing was tracked there.
    """
    database = Path(runs_dir).resolve() / "mlflow.db"
    if not database.exists():
        raise UserError(f"{database}: there is no tracking database yet. Train first, or name another runs directory.")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # for the command, which inherits both
    os.environ.setdefault("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "false")  # eight more processes, of no use here
    return [
        *(sys.executable, "-m", "mlflow", "server"),
        *("--backend-store-uri", f"sqlite:///{database}"),
        *("--artifacts-destination", str(database.parent / "mlartifacts")),
        *("--host", "127.0.0.1", "--port", str(port), "--workers", "1"),
    ]


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
