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


def test_weights_training_and_looks_stand_once_for_each_model(model_results):
    main, behind = model_tables(model_results, CONTEXT)
    assert [row[:2] for row in main.rows[:2]] == [["VIT", "0.40"], ["+ threshold alone", "0.30"]]
    assert behind.rows[0][5:] == ["1,234,567", "7 min", "3 (2 settings)", "vit"]
    assert behind.rows[1][0] == "+ threshold alone"
    assert behind.rows[1][5:] == [""] * 4
    assert all(len(row) == len(table.header) for table in (main, behind) for row in table.rows)
