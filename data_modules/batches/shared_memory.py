"""Whether the batches of loader processes fit into shared memory: where they do not, training hangs without a word."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

from data_modules.config import DataConfig
from data_modules.errors import UserError

SHARED = Path("/dev/shm")
"""Where Linux keeps it; a container gets 64 MB by default."""
PREFETCH = 2
"""Batches that torch lets each loader process make ahead."""
_SMALL = 3 * 4096
"""Bytes of the small tensors of a batch: each takes a page of its own."""


def batch_bytes(config: DataConfig, labels: bool, *, planned: bool = False) -> int:
    """Size of a training batch as loader processes hand it on (`patches`).

    Args:
        config: batches; the user's own transforms make HU and occupancy float32.
        labels: whether batches hold labels.
        planned: whether a GPU makes the batch from patches; otherwise it is whole: image and label as float32, and
            where the loss counts.
    """
    if not planned:
        voxel = 4 + (4 + 1 if labels else 0)
    else:
        voxel = 4 + (4 + 4 if labels else 0) if config.augmentation.extra_in_use else 2 + (1 + 2 if labels else 0)
    return config.batch_size * math.prod(config.sampling.crop) * voxel + _SMALL


def check_shared_memory(
    config: DataConfig, labels: bool, workers: int, devices: int = 1, folder: Path = SHARED, *, planned: bool = False
) -> None:
    """Refuse loader processes whose batches have no room.

    Args:
        config: batches.
        labels: whether batches hold labels.
        workers: loader processes of a device.
        devices: processes of this machine that load at the same time.
        folder: the file system of shared memory; where there is none, nothing is checked.
        planned: whether a GPU makes the batches from patches.

    Raises:
        UserError: naming the settings and the option of a container that help.
    """
    if not workers or not folder.is_dir():
        return
    batch = batch_bytes(config, labels, planned=planned)
    needed = devices * (workers * PREFETCH + 1) * batch  # one more is being trained on
    free = shutil.disk_usage(folder).free
    if needed <= free:
        return
    fitting = max(0, int((free / devices / batch - 1) // PREFETCH))
    raise UserError(
        f"data.num_workers={workers}: loader processes hand on batches in shared memory ({folder}), of which "
        f"{free / 1e6:,.0f} MB are free and {needed / 1e6:,.0f} MB are needed. Set data.num_workers={fitting}"
        f"{' (the training process loads)' if not fitting else ''}, a smaller data.batch_size, or give a container "
        f"more: docker run --shm-size={math.ceil(needed / 2**30)}g"
    )
