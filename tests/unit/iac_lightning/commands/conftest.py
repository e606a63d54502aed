from __future__ import annotations

import pytest


@pytest.fixture
def a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """`load_run` gives the path itself, so that wiring can be seen without runs."""
    monkeypatch.setattr("iac_lightning.runs.directory.load_run", lambda path, overrides=(): ("run", path, *overrides))
