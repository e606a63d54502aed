"""Peaks by name, time by clock, and how much of it a device computes."""

from __future__ import annotations

import pytest
import torch

from benchmarks import device as module
from benchmarks.device import Device, busy_s, covered, known_peak_tflops, open_device, seconds_a_step


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H200", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA H100 NVL", 835),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA A10", 125),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", None),
        ("NVIDIA GeForce GTX 1080", None),
    ],
)
def test_the_peak_goes_by_the_whole_name(name: str, peak: float | None) -> None:
    assert known_peak_tflops(name, "bf16-mixed") == peak
    assert known_peak_tflops(name, "32-true") is None


def test_a_share_of_the_peak() -> None:
    device = Device(torch.device("cpu"), "CPU", 100.0)
    assert device.share_of_peak(25e12, 0.5) == pytest.approx(0.5)
    assert Device(torch.device("cpu"), "CPU", None).share_of_peak(25e12, 0.5) is None


def test_spans_that_overlap_count_once() -> None:
    assert covered([(4, 5), (0, 2), (1, 3), (1.5, 1.75)]) == 4
    assert covered([]) == 0


def test_steps_are_timed_behind_the_warm_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, steps = [0.0], []

    def step() -> None:
        clock[0] += 10.0 if not steps else 0.5  # the first one compiles
        steps.append(1)

    monkeypatch.setattr(module.time, "perf_counter", lambda: clock[0])
    assert seconds_a_step(step, open_device("cpu", "32-true"), seconds=4.0, warm=2) == (0.5, 8)
    assert len(steps) == 10
    assert seconds_a_step(step, open_device("cpu", "32-true"), seconds=0.0) == (0.5, 3)


def test_a_cpu_has_no_share_of_a_gpu() -> None:
    device = open_device("cpu", "32-true")
    assert busy_s(lambda: None, device) is None
    assert device.peak_memory_gib() is None


def test_no_gpu_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(RuntimeError, match="DEVICE=cpu"):
        open_device("cuda", "bf16-mixed")


@pytest.mark.gpu
def test_a_gpu_is_busy_while_it_multiplies() -> None:
    device = open_device("cuda", "32-true")
    a = torch.randn(4096, 4096, device=device.torch)
    seconds, _ = seconds_a_step(lambda: a @ a, device, 0.2)
    busy = busy_s(lambda: a @ a, device)
    assert busy is not None
    assert 0.5 < busy / seconds < 1.5
