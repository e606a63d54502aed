"""The device that is measured: its clock, its memory, its peak, and how much of the time it computes."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

BF16_PEAK_TFLOPS = {
    "B200": 2250,
    "GH200": 989,
    "H200": 989,
    "H100 NVL": 835,
    "H100 PCIe": 756,
    "H100": 989,
    "A100": 312,
    "L40S": 362,
    "A40": 150,
    "A30": 165,
    "A10": 125,
    "L4": 121,
}
"""Dense bfloat16 with float32 sums, as the data sheets give it; the first name that a device's name holds counts."""


def known_peak_tflops(name: str, precision: str) -> float | None:
    """Peak of a device at a precision (as `trainer.precision`); None where it is not known."""
    words = set(name.replace("-", " ").split())
    if not precision.startswith("bf16") or "MIG" in words:
        return None
    return next((float(peak) for known, peak in BF16_PEAK_TFLOPS.items() if set(known.split()) <= words), None)


@dataclass(frozen=True)
class Device:
    """What is measured on.

    Attributes:
        torch: the device.
        name: as the driver gives it; "CPU".
        peak_tflops: at the precision that is measured; None: not known.
    """

    torch: torch.device
    name: str
    peak_tflops: float | None

    @property
    def is_cuda(self) -> bool:
        """Whether it is a CUDA device."""
        return self.torch.type == "cuda"

    def synchronise(self) -> None:
        """Wait for all that was asked of it."""
        if self.is_cuda:
            torch.cuda.synchronize(self.torch)

    def forget_peak_memory(self) -> None:
        """Begin to count memory anew."""
        if self.is_cuda:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.torch)

    def peak_memory_gib(self) -> float | None:
        """Most memory that tensors have taken since `forget_peak_memory`; None on a CPU."""
        return torch.cuda.max_memory_allocated(self.torch) / 2**30 if self.is_cuda else None

    def share_of_peak(self, flops: float, seconds: float) -> float | None:
        """Share of the peak that so many floating-point operations in so many seconds are."""
        return flops / seconds / 1e12 / self.peak_tflops if self.peak_tflops else None


def open_device(kind: str, precision: str, peak_tflops: float | None = None) -> Device:
    """The CPU or the first GPU.

    Raises:
        RuntimeError: where there is no GPU.
    """
    if kind == "cpu":
        return Device(torch.device("cpu"), "CPU", peak_tflops)
    if not torch.cuda.is_available():
        raise RuntimeError("no GPU is visible to torch; DEVICE=cpu tries the same at a small size")
    torch.set_float32_matmul_precision("high")
    name = torch.cuda.get_device_name(0)
    return Device(torch.device("cuda", 0), name, peak_tflops or known_peak_tflops(name, precision))


def seconds_a_step(step: Callable[[], object], device: Device, seconds: float, warm: int = 3) -> tuple[float, int]:
    """Mean seconds of a step, and how many were timed.

    The queue of a GPU is emptied before and after, not between: steps may overlap as they do in a training.

    Args:
        step: what is timed.
        device: where it computes.
        seconds: about how long to measure; at least three steps.
        warm: steps before, of which the last gives a first estimate.
    """
    for _ in range(warm):
        device.synchronise()
        start = time.perf_counter()
        step()
        device.synchronise()
    n = max(3, int(seconds / max(time.perf_counter() - start, 1e-6)))
    start = time.perf_counter()
    for _ in range(n):
        step()
    device.synchronise()
    return (time.perf_counter() - start) / n, n


def busy_s(step: Callable[[], object], device: Device, steps: int = 5) -> float | None:
    """Seconds of a step in which a GPU computes or copies; None on a CPU.

    Recording slows the host down and leaves the GPU's own times as they are: divided by the seconds of a step that
    was not recorded, this is the share of the time in which the GPU is busy.
    """
    if not device.is_cuda:
        return None
    with profile(activities=[ProfilerActivity.CUDA]) as recorded:
        for _ in range(steps):
            step()
        device.synchronise()
    return kernels_s(recorded) / steps


def kernels_s(recorded: profile) -> float:
    """Seconds of a recording in which at least one kernel or copy ran."""
    events = recorded.events() or ()
    spans = [(e.time_range.start, e.time_range.end) for e in events if e.device_type == DeviceType.CUDA]
    return covered(spans) / 1e6


def covered(spans: list[tuple[float, float]]) -> float:
    """Length of the union of spans."""
    total, reached = 0.0, float("-inf")
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total
