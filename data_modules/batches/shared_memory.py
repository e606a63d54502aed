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


def batch_bytes(config: DataConfig, labels: bool) -> int:
    """Size of a training batch (`CTDataModule`): image and label as float32, and where the loss counts."""
    voxel = 4 + (4 + 1 if labels else 0)
    return config.batch_size * math.prod(config.sampling.crop) * voxel + _SMALL


def check_shared_memory(config: DataConfig, labels: bool, devices: int = 1, folder: Path = SHARED) -> None:
    """Refuse loader processes whose batches have no room.

    Args:
        config: batches and number of processes.
        labels: whether batches hold labels.
        devices: processes of this machine that load at the same time.
        folder: the file system of shared memory; where there is none, nothing is checked.

    Raises:
        UserError: naming the settings and the option of a container that help.
    """
    workers = config.num_workers
    if not workers or not folder.is_dir():
        return
    batch = batch_bytes(config, labels)
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
