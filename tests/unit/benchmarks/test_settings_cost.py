"""A setting's cost is that of one change."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks import settings_cost as module
from benchmarks.settings_cost import CHANGES, bench_settings
from benchmarks.trainer_step import TrainerStep
from iac_lightning.config.keys import value_at
from iac_lightning.config.schema import ExperimentConfig
from iac_lightning.config.stored import diff


def test_each_row_changes_one_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[ExperimentConfig] = []

    def trainer_step(config: ExperimentConfig, *_: Any) -> TrainerStep:
        seen.append(config)
        if config.trainer.compile == "default":
            raise RuntimeError("no compiler\nis there")
        dear = config.trainer.deterministic == "strict" or config.optimizer.ema_decay == 0.98
        return TrainerStep(0.3 if dear else 0.2, 3, 0.0, None, None)

    monkeypatch.setattr(module, "trainer_step", trainer_step)
    rows = bench_settings(1.0, 2)
    assert [row["setting"] for row in rows] == [key for _, key, *_ in CHANGES]
    assert rows[0]["ratio"] == pytest.approx(1.5)
    assert (rows[0]["from_ms"], rows[0]["to_ms"]) == (pytest.approx(200), pytest.approx(300))
    assert rows[-1]["problem"] == "RuntimeError: no compiler"
    for k, (_, key, cheap, dear) in enumerate(CHANGES[:-1]):
        pair = seen[4 * k : 4 * k + 2]
        assert [value_at(config, key) for config in pair] == [dear, cheap]
        assert len(diff(*pair)) == 1
