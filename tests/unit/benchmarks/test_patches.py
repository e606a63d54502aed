"""Ours is the faster of two ways; each peer has its ratio or its reason."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from benchmarks import patches as module
from benchmarks.loaders import Stream
from benchmarks.patches import CORES, OWN, compare, processor_ms, streams
from benchmarks.synthetic import write_series


def constant(name: str) -> Callable[[], Stream]:
    def begin() -> Iterator[int]:
        if name == "absent":
            raise ModuleNotFoundError("…", name="nnunetv2")
        while True:
            yield 4

    return begin


def test_ratios_are_ours_over_theirs(monkeypatch: pytest.MonkeyPatch) -> None:
    rates = {OWN[0]: [10.0, 12.0, 11.0], OWN[1]: [20.0, 30.0, 25.0], "peer": [4.0, 5.0, 2.5]}

    def in_turn(able: dict[str, object], seconds: float, rounds: int) -> dict[str, list[float]]:
        assert list(able) == list(rates)
        return rates

    monkeypatch.setattr(module, "in_turn", in_turn)
    found = compare({name: (constant(name), 1) for name in (*rates, "absent")}, 1.0, 3)
    assert found["patches_per_s"] == 25
    assert found["ways"] == {OWN[0]: 11, OWN[1]: 25}
    assert found["peers"] == {
        "peer": {"patches_per_s": 4.0, "ratio": 6.0},  # of 5, 6 and 10
        "absent": {"problem": "nnU-Net is not installed"},
    }


def test_every_side_has_the_same_cores(tmp_path: Path) -> None:
    named = streams(write_series(tmp_path, 2, (100, 100, 50)), tmp_path, True)
    assert list(named)[:2] == list(OWN)
    configs = {name: begin.args[0] for name, (begin, _) in named.items() if "Queue" not in name}  # type: ignore[attr-defined]
    workers = {name: config.data.num_workers for name, config in configs.items()}
    assert (workers[OWN[0]], workers[OWN[1]], workers["our TorchIO engine"]) == (0, CORES, CORES)
    assert configs["our TorchIO engine"].data.augmentation.engine == "torchio"
    queues = [begin.keywords for name, (begin, _) in named.items() if "Queue" in name]  # type: ignore[attr-defined]
    assert [(k["per_volume"], k["workers"], k["augment"]) for k in queues] == [(1, CORES, True), (16, CORES, True)]


def test_a_core_is_counted_by_its_own_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    def fresh_rate(begin: Callable[[], Stream], seconds: float, lot: int, *, processor: bool) -> float:
        assert processor
        return 10.0 * next(begin())

    monkeypatch.setattr(module, "fresh_rate", fresh_rate)
    names = ("ours, one process", OWN[1], "peer", "absent")
    assert processor_ms({name: (constant(name), 1) for name in names}, 0.1) == {"ours, one process": 25, "peer": 25}
