"""The Trainer's step is timed once it is warm, and ended by the clock."""

from __future__ import annotations

from pathlib import Path

from benchmarks.device import open_device
from benchmarks.synthetic import TINY, experiment, write_series
from benchmarks.trainer_step import WARM, trainer_step

CPU = open_device("cpu", "32-true")


def test_the_trainer_is_timed_behind_the_gate(tmp_path: Path) -> None:
    config = experiment("mae", TINY, patch=16)
    gates: list[int] = []
    found = trainer_step(config, write_series(tmp_path, 2, (40, 40, 20)), CPU, 0.0, lambda: gates.append(1))
    assert gates == [1]
    assert found.steps == 3  # the fewest, however short the time
    assert WARM > 2
    assert 0 < found.seconds < 5
    assert 0 <= found.data_wait_share < 1
    assert found.busy_s is None
    assert config.data.sampling.samples_per_epoch == 200, "the caller's settings are left alone"
