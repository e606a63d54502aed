"""Patches a second on two CPU cores: the data module's engines against a TorchIO queue and nnU-Net's loader."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from contextlib import suppress
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.figures import reason
from benchmarks.loaders import (
    Stream,
    fresh_rate,
    in_turn,
    nnunet_stream,
    own_stream,
    queue_lot,
    queue_stream,
    ratio,
    write_nifti_pairs,
)
from benchmarks.synthetic import FULL, experiment, write_series
from data_modules.prepare.store import PreparedSeries
from iac_lightning.config.schema import ExperimentConfig

PATCH = (96, 96, 48)
SHAPE = (160, 128, 96)
"""Of a region of interest at 0.5 mm."""
CORES = 2
OWN = ("ours, one process", "ours, two workers")
"""The data module in the training process with a thread a core, and in a loader process a core."""


def bench_patches(folder: Path, seconds: float = 3.0, rounds: int = 3) -> dict[str, Any]:
    """Rates of all loaders, measured in turn on two cores, with augmentation and without.

    Peers have two processes, as is best for them; ours is the faster of `OWN`.

    Args:
        folder: for volumes.
        seconds: of one measurement.
        rounds: how often each is measured.

    Returns:
        For ``augmented`` and ``bare``: ``patches_per_s`` of ours, and of each of the ``peers`` ``patches_per_s`` and
        ``ratio`` (ours to it, the median over rounds), or the ``problem`` that leaves it out; ``processor_ms`` of each.
    """
    series = write_series(folder / "prepared", 8, SHAPE, (0.5, 0.5, 0.5))
    write_nifti_pairs(series, folder / "nifti")
    results: dict[str, Any] = {"patch": PATCH, "volumes": len(series), "volume_shape": SHAPE, "cores": CORES}
    threads = torch.get_num_threads()
    torch.set_num_threads(CORES)
    try:
        for name, augmented in (("augmented", True), ("bare", False)):
            found = compare(streams(series, folder / "nifti", augmented), seconds, rounds)
            torch.set_num_threads(1)
            alone = streams(series, folder / "nifti", augmented, workers=0)
            results[name] = found | {"processor_ms": processor_ms(alone, seconds)}
            torch.set_num_threads(CORES)
    finally:
        torch.set_num_threads(threads)
    return results


def streams(
    series: tuple[PreparedSeries, ...], nifti: Path, augmented: bool, workers: int = CORES
) -> dict[str, tuple[Callable[[], Stream], int]]:
    """What begins each loader, and its lot; ours first. Peers have so many `workers`."""
    device, config = torch.device("cpu"), settings(augmented)
    reference = deepcopy(config)
    reference.data.augmentation.engine, reference.data.num_workers = "torchio", workers
    in_workers = deepcopy(config)
    in_workers.data.num_workers = workers
    queue = partial(queue_stream, config, nifti, device, augment=augmented, workers=workers)
    return {
        OWN[0]: (partial(own_stream, config, series, device), 1),
        OWN[1]: (partial(own_stream, in_workers, series, device), 1),
        "our TorchIO engine": (partial(own_stream, reference, series, device), 1),
        "tio.Queue, 1 a volume": (partial(queue, per_volume=1), queue_lot(1)),
        "tio.Queue, 16 a volume": (partial(queue, per_volume=16), queue_lot(16)),
        "nnU-Net's loader": (partial(nnunet_stream, config, series, device, augment=augmented, workers=workers), 1),
    }


def processor_ms(named: dict[str, tuple[Callable[[], Stream], int]], seconds: float) -> dict[str, float]:
    """Milliseconds of one core that a patch takes in a process of one thread: other load disturbs this little."""
    found = {}
    for name, (begin, lot) in named.items():
        if name != OWN[1]:
            with suppress(ModuleNotFoundError):
                found[name] = 1000 / fresh_rate(begin, seconds, lot, processor=True)
    return found


def settings(augmented: bool) -> ExperimentConfig:
    """Batches of four labelled patches."""
    config = experiment("cnn", FULL, batch=4)
    config.data.sampling.crop = PATCH
    config.data.grid.spacing_mm = (0.5, 0.5, 0.5)
    config.data.augmentation.enabled = augmented
    return config


def compare(named: dict[str, tuple[Callable[[], Stream], int]], seconds: float, rounds: int) -> dict[str, Any]:
    """Rates of our faster way and of each peer, and ours over theirs."""
    able, problems = {}, {}
    for name, (begin, lot) in named.items():
        try:
            next(stream := begin())
            stream.close()  # type: ignore[attr-defined]
            able[name] = (begin, lot)
        except ModuleNotFoundError as error:
            problems[name] = {"problem": reason(error)}
    rates = in_turn(able, seconds, rounds)
    own = max((rates[name] for name in OWN), key=statistics.median)
    peers = {
        name: {"patches_per_s": statistics.median(found), "ratio": ratio(own, found)}
        for name, found in rates.items()
        if name not in OWN
    }
    ways = {name: statistics.median(rates[name]) for name in OWN}
    return {"patches_per_s": statistics.median(own), "ways": ways, "peers": {**peers, **problems}}
