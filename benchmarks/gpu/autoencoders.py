"""(c) A bare training step of the masked autoencoder against MONAI's and nnssl's EvaMAE, at equal sizes."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn

from benchmarks import autoencoders as peers
from benchmarks.autoencoders import Loss, Sizes
from benchmarks.device import seconds_a_step
from benchmarks.figures import reason, table
from benchmarks.gpu.arguments import Task, begin, parser
from benchmarks.steps import training_step

Build = Callable[[], tuple[nn.Module, Loss]]
PRECISIONS = ("bf16-mixed", "bf16-true", "32-true")
ROUNDS = 3
COLUMNS = {
    **{name: name for name in ("tokens", "batch", "precision", "network", "parameters")},
    "samples_per_s": "samples/s",
    "ms": "ms a step",
    "to_ours": "÷ ours",
    "memory_gib": "GiB",
    "problem": "left out",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Measure ours and each peer."""
    options = parser("autoencoders", __doc__ or "")
    options.add_argument("--batches", nargs="+", type=int, help="samples a step (default 32 128; on a CPU 1)")
    options.add_argument("--patches", nargs="+", type=int, help="edges of patches (default 8 4; on a CPU 8)")
    task = begin("autoencoders", options.parse_args(argv))
    cuda = task.device.is_cuda
    for patch in task.options.patches or ([8, 4] if cuda else [8]):
        for batch in task.options.batches or ([32, 128] if cuda else [1]):
            for precision in PRECISIONS if cuda else ("32-true",):
                for sizes, builds in pairs(task, patch):
                    measure(task, sizes, batch, precision, builds)
    print(table(COLUMNS, task.figures.rows))
    return task.figures.status


def pairs(task: Task, patch: int) -> list[tuple[Sizes, dict[str, Build]]]:
    """Sizes and who has them, ours first. EvaMAE's decoder is as wide as its encoder, and its heads a multiple of 6."""
    light = Sizes(task.size.crop, (patch,) * 3, task.size.vit or (384, 12, 6), task.size.mae_decoder)
    dim, depth, _ = light.encoder
    heads = dim // 48 if dim >= 96 else dim // 24
    wide = Sizes(light.crop, light.patch, (dim, depth, heads), (dim, 2 if depth > 2 else 1, heads))
    return [
        (
            light,
            {
                "ours": partial(peers.ours, light),
                "MONAI, einsum": partial(peers.monai, light, flash=False),
                "MONAI, flash": partial(peers.monai, light, flash=True),
            },
        ),
        (wide, {"ours, wide decoder": partial(peers.ours, wide), "nnssl's EvaMAE": partial(peers.nnssl, wide)}),
    ]


def measure(task: Task, sizes: Sizes, batch: int, precision: str, builds: dict[str, Build]) -> None:
    """Ours, then its peers, each the fastest of `ROUNDS`: a device that does nothing else repeats itself closely."""
    if task.figures.seconds_left < 0:
        return
    named = {"tokens": sizes.tokens, "patch": sizes.patch[0], "batch": batch, "precision": precision}
    rounds = ROUNDS if task.device.is_cuda else 1
    own_s: float | None = None
    for name, build in builds.items():
        gc.collect()
        try:
            found = measure_one(task, sizes, batch, precision, build, rounds)
        except Exception as error:  # a peer that fails or is not there ends no other
            task.figures.add(**named, network=name, problem=reason(error))
            continue
        own_s = own_s or found["seconds"]
        seconds = found.pop("seconds")
        found |= {"samples_per_s": batch / seconds, "ms": 1000 * seconds, "to_ours": seconds / own_s}
        task.figures.add(**named, network=name, **found)


def measure_one(task: Task, sizes: Sizes, batch: int, precision: str, build: Build, rounds: int) -> dict[str, Any]:
    """Seconds of a step (the least of some rounds), parameters and memory."""
    device = task.device
    torch.manual_seed(0)
    dtype = torch.bfloat16 if precision == "bf16-true" else torch.float32
    network, loss = build()
    network = network.to(device.torch, dtype).train()
    image = torch.rand((batch, 1, *sizes.crop), device=device.torch, dtype=dtype) * 2 - 1
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4, fused=device.is_cuda)
    device.forget_peak_memory()
    step = training_step(lambda: loss(image), optimizer, precision, device)
    seconds = min(seconds_a_step(step, device, task.each_s / rounds)[0] for _ in range(rounds))
    found = {"seconds": seconds, "memory_gib": device.peak_memory_gib()}
    found["parameters"] = sum(p.numel() for p in network.parameters())
    return found
