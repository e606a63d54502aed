"""What single settings of the Trainer cost: the same training with one of them changed, in turn."""

from __future__ import annotations

import statistics
import tempfile
from copy import deepcopy
from pathlib import Path
from typing import Any

from benchmarks.device import open_device
from benchmarks.figures import reason
from benchmarks.process import alternate
from benchmarks.synthetic import Size, experiment, write_series
from benchmarks.trainer_step import trainer_step
from iac_lightning.config.keys import value_at

DEMO = Size((40, 40, 24), (192, 6, 3), (96, 2, 3), 8, 8)
"""Crop and encoder of the demo."""
CHANGES = (
    ("vit", "trainer.deterministic", "off", "strict"),
    ("vit", "trainer.deterministic", "off", "warn"),
    ("vit", "optimizer.ema_decay", 0.0, 0.98),
    ("mae", "trainer.compile", "off", "default"),
)
"""Network, setting, its cheaper value and the one whose cost is told."""


def bench_settings(seconds: float = 3.0, rounds: int = 3) -> list[dict[str, Any]]:
    """Milliseconds of a step with either value of each setting, and their ratio (median over rounds)."""
    device, rows = open_device("cpu", "32-true"), []
    with tempfile.TemporaryDirectory() as folder:
        series = write_series(Path(folder), 8)
        for network, key, cheap, dear in CHANGES:
            config = experiment(network, DEMO, batch=8 if network == "mae" else 2)
            values = []
            for value in (dear, cheap):
                changed = deepcopy(config)
                section, name = key.rsplit(".", 1)
                setattr(value_at(changed, section), name, value)
                values.append(changed)
            row = {"network": network, "setting": key, "from": cheap, "to": dear}
            try:
                a, b, ratio = alternate(
                    lambda: trainer_step(values[0], series, device, seconds).seconds,  # noqa: B023
                    lambda: trainer_step(values[1], series, device, seconds).seconds,  # noqa: B023
                    rounds,
                )
            except Exception as error:  # such as a compiler that is not there
                rows.append({**row, "problem": reason(error)})
                continue
            rows.append(
                {**row, "from_ms": 1e3 * statistics.median(b), "to_ms": 1e3 * statistics.median(a), "ratio": ratio}
            )
    return rows
