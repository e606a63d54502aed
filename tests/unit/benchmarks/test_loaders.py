"""Streams are measured by the lot, in turn, each begun anew and ended."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from benchmarks import loaders as module
from benchmarks.loaders import fresh_rate, in_turn, own_stream, queue_lot, queue_stream, rate, ratio, write_nifti_pairs
from benchmarks.synthetic import TINY, experiment, write_series

CPU = torch.device("cpu")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds that only the test moves."""
    now = [0.0]
    monkeypatch.setattr(module.time, "perf_counter", lambda: now[0])
    return now


def test_rate_counts_patches_not_batches(clock: list[float]) -> None:
    def batches() -> Iterator[int]:
        for size in itertools.cycle([4, 2]):
            clock[0] += 0.5  # a batch takes half a second
            yield size

    assert rate(batches(), 2.0) == pytest.approx(6.0)  # 4 + 2 + 4 + 2 in 2 s
    assert rate(batches(), 2.2) == pytest.approx(16 / 2.5)  # a batch that was begun counts, and so does its time
    assert rate(batches(), 0.1, lot=12) == pytest.approx(6.0)  # a whole lot, however short the time


def test_rate_by_what_a_core_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.time, "process_time", itertools.count(0, 0.5).__next__)
    assert rate(itertools.repeat(4), 2.0, processor=True) == pytest.approx(8.0)


def test_streams_take_turns_and_none_works_meanwhile(clock: list[float]) -> None:
    order: list[str] = []

    def stream(name: str, seconds: float) -> Iterator[int]:
        order.append(f"{name} begins")
        try:
            yield 1  # made ahead: taken before the clock starts
            while True:
                clock[0] += seconds
                yield 1
        finally:
            order.append(f"{name} ends")

    streams = {"a": (lambda: stream("a", 0.5), 1), "b": (lambda: stream("b", 0.25), 1)}
    assert in_turn(streams, 4.0, 2) == {"a": [2.0, 2.0], "b": [4.0, 4.0]}
    assert order == ["a begins", "a ends", "b begins", "b ends"] * 2
    assert ratio([8, 10, 90], [4, 2, 10]) == 5  # the median of 2, 5 and 9


def test_patches_of_own_and_of_a_queue(tmp_path: Path) -> None:
    series = write_series(tmp_path / "prepared", 2, (40, 40, 20))
    config = experiment("cnn", TINY, batch=2)
    assert next(own_stream(config, series, CPU)) == 2
    assert config.data.sampling.samples_per_epoch == 200, "the caller's settings are left alone"
    write_nifti_pairs(series, tmp_path / "nifti")
    for augment in (True, False):
        queue = queue_stream(config, tmp_path / "nifti", CPU, per_volume=4, augment=augment, workers=0)
        assert fresh_rate(lambda: queue, 0.0, queue_lot(4)) > 0  # noqa: B023


def test_a_lot_is_what_a_queue_holds() -> None:
    assert queue_lot(1) == 16
    assert queue_lot(16) == 64
