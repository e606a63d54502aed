from __future__ import annotations

from iac_lightning.evaluation.clinical.stress import compare_stress, summarise_stress
from iac_lightning.report.stress import write_stress_page
from tests.synthetic_stress import DICE, WANTED, table_of


def test_the_page_says_which_model_loses_more(stress_summary: dict, tmp_path) -> None:
    worse = {name: {mm: max(0.0, d - 0.02 * mm) for mm, d in rows.items()} for name, rows in DICE.items()}
    tables = {"vit": table_of(), "cnn": table_of(worse)}
    other = {key: stress_summary[key] for key in ("split", "settings", "failed")}
    summaries = {"vit": stress_summary, "cnn": other | summarise_stress(tables["cnn"], WANTED)}
    page = write_stress_page(tmp_path, tables, summaries, compare_stress(tables, WANTED))
    html = page.read_text()
    few = "0.0200 (3 patients: too few for an interval; 0.0200, 0.0200, 0.0200)"
    assert f"Which of vit and cnn loses more Dice is open (vit − cnn: {few} per mm)." in html
    assert "E_S1: no such file" in html
    assert "0.733" in html  # mean native Dice of the first model
    assert "http" not in html
    alone = write_stress_page(tmp_path / "one", {"vit": tables["vit"]}, {"vit": stress_summary}, []).read_text()
    assert "first − second" not in alone
