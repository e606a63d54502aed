"""Names that MLflow takes."""

from __future__ import annotations

import numpy as np

from iac_lightning.tracking.names import metric_name, numbers_of


def test_only_finite_numbers_are_metrics() -> None:
    summary = {"dice": {"mean": np.float64(0.5), "ci": [0.1, 0.9]}, "n": np.int64(3), "ok": True, "nan": np.nan}
    assert numbers_of(summary) == [("dice/mean", 0.5), ("n", 3.0)]
    assert [type(value) for _, value in numbers_of(summary)] == [float, float]


def test_foreign_characters_and_long_names_are_cut() -> None:
    assert metric_name("dev/n (%) µ") == "dev/n ___ _"
    assert metric_name("a_b-c.d e/f") == "a_b-c.d e/f"
    assert len(metric_name("x" * 300)) == 250
