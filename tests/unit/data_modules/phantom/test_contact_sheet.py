from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from data_modules.phantom.contact_sheet import _choose, draw_contact_sheet


def test_it_shows_labelled_series_from_thin_to_thick() -> None:
    table = pd.DataFrame(
        {
            "patient_id": [f"P{k}" for k in range(20)],
            "series_id": [f"P{k}_S1" for k in range(20)],
            "label": ["" if k % 4 == 0 else "x" for k in range(20)],
            "slice_thickness_mm": np.arange(20, 0, -1.0),
            "true_volume_mm3": [0.0 if k in (5, 6) else 10.0 for k in range(20)],
        }
    )
    chosen = _choose(table)
    assert len(chosen) == 8
    assert chosen["slice_thickness_mm"].iloc[:7].is_monotonic_increasing
    assert chosen["slice_thickness_mm"].iloc[[0, 6]].tolist() == [1.0, 19.0]
    assert chosen["true_volume_mm3"].iloc[7] == 0
    assert (chosen["label"] == "x").all()


def test_a_cohort_without_labels_is_drawn(made: Path, tmp_path: Path) -> None:
    unlabelled = pd.read_csv(made / "cohort.csv").fillna({"label": ""}).query("label == ''")
    draw_contact_sheet(unlabelled, made, tmp_path / "sheet.png")
    assert (tmp_path / "sheet.png").stat().st_size > 20_000
