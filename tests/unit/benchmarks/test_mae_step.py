"""Each of MONAI's arms is measured in turn with ours."""

from __future__ import annotations

import pytest

from benchmarks import mae_step as module
from benchmarks.autoencoders import Sizes
from benchmarks.mae_step import bench_mae_step


def test_both_arms_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def alternate(a: object, b: object, rounds: int) -> tuple[list[float], list[float], float]:
        calls.append((a, b))
        return [4.0, 5.0, 9.0], [2.0, 3.0, 3.0], 2.0

    monkeypatch.setattr(module, "alternate", alternate)
    found = bench_mae_step(3, sizes=Sizes((16, 16, 8), (8, 8, 8), (48, 2, 2), (24, 1, 2)))
    assert found["tokens"] == 4
    assert found["seconds"] == 3
    assert found["peers"] == {name: {"seconds": 5.0, "ratio": 2.0} for name in ("einsum", "flash")}
    assert calls[0][1] is calls[1][1], "ours is one network"
    assert calls[0][0] is not calls[1][0]
