from __future__ import annotations

from pathlib import Path

from data_modules.cohort.table import Series
from iac_lightning.workflows.reports.about import phantom_sentence


def series(name: str, split: str, true_volume_mm3: float | None) -> Series:
    return Series(
        series_id=name,
        patient_id=name,
        image=Path(f"/nowhere/{name}.nii.gz"),
        label=None,
        split=split,
        slice_thickness_mm=None,
        true_volume_mm3=true_volume_mm3,
    )


def test_simulated_heads_are_said():
    cohort = [series("a", "test", 0.0), series("b", "test", 12.0), series("c", "dev", None)]
    assert phantom_sentence(cohort, "test").startswith("All 2 series of the test split are simulated heads (phantoms)")
    assert phantom_sentence(cohort, "dev") == ""
    some = phantom_sentence([*cohort, series("d", "test", None)], "test")
    assert some.startswith("2 of the 3 series of the test split are simulated heads")
