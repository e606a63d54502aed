from __future__ import annotations

from iac_lightning.evaluation.tables.model_result import model_rows


def test_rows_have_one_line_a_variant(model_results):
    rows = model_rows(model_results)
    assert [(r["run"], r["variant"]) for r in rows][:2] == [("vit", "result"), ("vit", "plain")]
    assert len(rows) == 6
