from __future__ import annotations

import pytest

from iac_lightning.evaluation.clinical.analysis import analyse
from tests.report_page import PNG
from tests.unit.iac_lightning.conftest import QUALITY


@pytest.fixture(scope="session")
def dev_tables(make_table):
    tables = {name: make_table(quality, k, patients=30) for k, (name, quality) in enumerate(QUALITY.items())}
    return {
        name: t.assign(patient_id="d" + t["patient_id"], series_id="d" + t["series_id"]) for name, t in tables.items()
    }


@pytest.fixture(scope="session")
def analysis(model_results, dev_tables):
    tables = {name: model.table for name, model in model_results.items()}
    return analyse(tables, dev_tables, baseline="cnn")


@pytest.fixture
def undrawn(monkeypatch):
    """What figures show is tested elsewhere."""
    monkeypatch.setattr("iac_lightning.report.page.png", lambda figure: PNG)
