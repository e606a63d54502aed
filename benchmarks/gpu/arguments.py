"""Options that all parts share."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

from benchmarks.device import Device, open_device
from benchmarks.figures import Figures
from benchmarks.synthetic import FULL, TINY, Size


@dataclass(frozen=True)
class Task:
    """What a part is asked to measure.

    Attributes:
        device: where.
        figures: where they go, and how much time is left.
        size: of networks and crops.
        precision: as `trainer.precision`.
        workers: loader processes.
        each_s: about how long one figure is measured.
        options: the part's own.
    """

    device: Device
    figures: Figures
    size: Size
    precision: str
    workers: int
    each_s: float
    options: argparse.Namespace

    @property
    def is_trial(self) -> bool:
        """On a CPU, only the path is tried: a few figures at a tiny size."""
        return not self.device.is_cuda


def parser(part: str, description: str) -> argparse.ArgumentParser:
    """With the options of every part."""
    result = argparse.ArgumentParser(prog=f"python -m benchmarks.gpu {part}", description=description)
    result.add_argument("--device", choices=["cuda", "cpu"], default="cuda", help="cpu tries the path at a tiny size")
    result.add_argument("--seconds", type=float, default=200, help="no figure is begun after so many (default 200)")
    result.add_argument("--out", type=Path, default=Path("bench_gpu.jsonl"), help="file that figures are added to")
    result.add_argument("--precision", help="as trainer.precision (default bf16-mixed; on a CPU 32-true)")
    result.add_argument("--peak-tflops", type=float, help="of the device, where its name does not tell")
    result.add_argument("--workers", type=int, help="loader processes (default 2; on a CPU 0)")
    return result


def begin(part: str, options: argparse.Namespace) -> Task:
    """Open the device and the file of figures."""
    cuda = options.device == "cuda"
    precision = options.precision or ("bf16-mixed" if cuda else "32-true")
    device = open_device(options.device, precision, options.peak_tflops)
    figures = Figures(options.out, part, device, options.seconds)
    workers = options.workers if options.workers is not None else 2 * cuda
    size, each_s = (FULL, 1.5) if cuda else (TINY, 0.1)
    return Task(device, figures, size, precision, workers, each_s, options)
