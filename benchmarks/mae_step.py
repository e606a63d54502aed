"""One CPU training step of the masked autoencoder against MONAI's."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from benchmarks.autoencoders import Loss, Sizes, monai, ours
from benchmarks.device import open_device
from benchmarks.process import alternate
from benchmarks.steps import training_step

SIZES = Sizes((128, 128, 64), (8, 8, 8), (384, 6, 6), (192, 2, 6))
PEERS = {"einsum": False, "flash": True}
"""MONAI's attention: its default, and its option."""


def bench_mae_step(rounds: int = 5, batch: int = 1, sizes: Sizes = SIZES) -> dict[str, Any]:
    """Forward, backward, AdamW: same sizes, same loss, same tokens, each of MONAI's arms in turn with ours."""
    image = torch.randn(batch, 1, *sizes.crop, generator=torch.Generator().manual_seed(0))
    own = timed_step(*ours(sizes), image)
    results: dict[str, Any] = {"tokens": sizes.tokens, "batch": batch, "threads": torch.get_num_threads(), "peers": {}}
    for name, flash in PEERS.items():
        peer = timed_step(*monai(sizes, flash=flash), image)
        for step in (own, peer):
            step()
        a, b, ratio = alternate(peer, own, rounds)
        results["peers"][name] = {"seconds": statistics.median(a), "ratio": ratio}
        results.setdefault("seconds", statistics.median(b))
    return results


def timed_step(network: torch.nn.Module, loss: Loss, image: torch.Tensor) -> Callable[[], float]:
    """A function that does one step and returns its seconds."""
    optimizer = torch.optim.AdamW(network.train().parameters(), lr=1e-4)
    step = training_step(lambda: loss(image), optimizer, "32-true", open_device("cpu", "32-true"))

    def timed() -> float:
        start = time.perf_counter()
        step()
        return time.perf_counter() - start

    return timed
