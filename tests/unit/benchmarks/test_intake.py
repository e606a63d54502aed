"""The benchmark of an import, at a small size."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from benchmarks.intake import bench_import


def test_imports_and_tables_are_measured(tmp_path: Path) -> None:
    found = bench_import(tmp_path, (3,), 8)
    assert [r["series"] for r in found["imports"]] == [1, 3]
    assert found["imports"][1].get("series_a_minute", 1) > 0  # none where so few series take no more than one
    assert len(pd.read_csv(tmp_path / "out3" / "cohort.csv")) == 2  # of three series of two examinations
    inventory = pd.read_csv(tmp_path / "tables" / "out" / "inventory.csv")
    assert len(inventory) == inventory.series_id.nunique() == 8
    assert inventory.patient_id.nunique() == 2
    assert (inventory.n_files == 30).all()
    assert found["tables"]["peak_memory_gib"] < 0.5
