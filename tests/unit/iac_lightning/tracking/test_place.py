"""Databases in folders of any name, and artifacts that move with them."""

from __future__ import annotations

import os
import shutil
import sqlite3
from pathlib import Path

import pytest

from data_modules.errors import UserError
from iac_lightning.config.schema import ExperimentConfig, TrackingConfig
from iac_lightning.tracking.place import database_of, follow, sqlite_uri
from iac_lightning.tracking.store import client_of, create_store, has_store, tracking_uri


def config(folder: Path) -> ExperimentConfig:
    return ExperimentConfig(name="a", runs_dir=str(folder), tracking=TrackingConfig(experiment="e"))


@pytest.mark.parametrize("name", ["plain", "a b", "50%", "a%20b", "what?", "a#b", "Müller & Söhne"])
def test_an_address_leads_back_to_its_file(name: str) -> None:
    database = Path("/runs") / name / "mlflow.db"
    assert database_of(sqlite_uri(database)) == database
    assert sqlite_uri(Path("/runs/mlflow.db")) == "sqlite:////runs/mlflow.db"


def test_a_store_in_a_folder_of_any_name_and_at_a_new_place(tmp_path: Path) -> None:
    old, new, copy = (tmp_path / name / "runs" for name in ("100%3F?", "renamed", "copy"))
    experiment = create_store(config(old))
    run = client_of(tracking_uri(config(old))).create_run(experiment).info
    assert (old / "mlflow.db").exists()
    assert [p.name for p in tmp_path.iterdir()] == [old.parent.name], "nothing lies elsewhere"
    assert has_store(config(old))
    assert run.artifact_uri == f"{(old / 'mlartifacts').as_uri()}/{run.run_id}/artifacts"
    os.rename(old.parent, new.parent)
    assert not has_store(config(old))
    shutil.copytree(new.parent, copy.parent)
    for place in (new, copy):
        assert create_store(config(place)) == experiment
        client = client_of(tracking_uri(config(place)))
        here = (place / "mlartifacts").as_uri()
        assert client.get_run(run.run_id).info.artifact_uri == f"{here}/{run.run_id}/artifacts"
        assert client.get_experiment(experiment).artifact_location == here
    assert not old.parent.exists(), "the old place was made anew"


def test_artifacts_elsewhere_are_left_alone(tmp_path: Path) -> None:
    database = tmp_path / "mlflow.db"
    with sqlite3.connect(database) as connection:
        connection.execute("CREATE TABLE experiments (artifact_location TEXT)")
        connection.execute("INSERT INTO experiments VALUES ('s3://bucket/mlartifacts'), ('file:///data/shared')")
    follow(database, "file:///new/mlartifacts")
    with sqlite3.connect(database) as connection:
        rows = connection.execute("SELECT * FROM experiments").fetchall()
    assert rows == [("s3://bucket/mlartifacts",), ("file:///data/shared",)]


def test_a_damaged_database_is_named(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_bytes(b"no database" * 1000)
    with pytest.raises(UserError, match=r"mlflow\.db: not a database, or damaged .* move it away"):
        create_store(config(tmp_path))
