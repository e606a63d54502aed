"""Runs of the tests, and what MLflow has of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mlflow import MlflowClient

from iac_lightning.config.reading import load_experiment
from iac_lightning.config.schema import ExperimentConfig
from iac_lightning.runs.directory import Run
from iac_lightning.tracking.store import tracking_uri


def config_of(runs_dir: Path, name: str, *overrides: str) -> ExperimentConfig:
    return load_experiment(None, [f"name={name}", f"runs_dir={runs_dir}", *overrides])


def stored(run: Run) -> Any:
    return MlflowClient(tracking_uri(run.config)).get_run(run.mlflow_run_id)


def artifacts(run: Run, folder: str | None = None) -> list[str]:
    client = MlflowClient(tracking_uri(run.config))
    return sorted(a.path for a in client.list_artifacts(run.mlflow_run_id, folder))
