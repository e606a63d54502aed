from __future__ import annotations

import pandas as pd
import pytest

from iac_lightning.evaluation.tables.model_result import ModelResult
from iac_lightning.report.models.page import write_report
from iac_lightning.report.models.tables import model_tables
from tests.report_page import CONTEXT


@pytest.mark.usefixtures("undrawn")
def test_looks_stand_in_the_table_of_models(model_results, tmp_path):
    text = write_report(tmp_path, model_results, CONTEXT).read_text()
    assert [f"<td>{n} (2 settings)</td>" in text for n in (3, 4, 5)] == [True] * 3
    assert "how often the test split was evaluated, reported or compared" in text
    assert pd.read_csv(tmp_path / "models.csv")["test_looks"].tolist() == [3, 3, 4, 4, 5, 5]
    unguarded = {name: ModelResult(**{**vars(model), "looks": None}) for name, model in model_results.items()}
    more = model_tables(unguarded, CONTEXT)[1]
    assert "looks" not in [name for name, _ in more.header]
    assert "how often the test split" not in more.legend
