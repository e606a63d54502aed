from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def _first_process(monkeypatch, tmp_path):
    for name in ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)  # MLflow must not leave an `mlruns` here


@pytest.fixture(scope="module")
def runs_dir(tmp_path_factory) -> Path:
    """One store for all tests of a module: creating it takes seconds."""
    return tmp_path_factory.mktemp("tracked") / "runs"
