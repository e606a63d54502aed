"""The order in which samples come, and a loader that resumes inside an epoch."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from torch.utils.data import DataLoader, Dataset, Sampler


class PatchSampler(Sampler[tuple[int, int]]):
    """(epoch, index) of this device's samples; every index of the epoch comes once over all devices.

    Batch k of N devices together holds the samples of batch k of one device with N times the batch size, device 0
    the first of them. The order within an epoch is that of the indices: each sample is random by itself.

    Args:
        samples: samples in one epoch, over all devices; a multiple of their number.
        batch_size: samples a batch on one device.
        rank: this device.
        world: number of devices.
    """

    def __init__(self, samples: int, batch_size: int, rank: int = 0, world: int = 1) -> None:
        self.samples = samples
        self.batch_size = batch_size
        self.rank = rank
        self.world = world
        self.epoch = 0
        self.first_batch = 0

    def set_epoch(self, epoch: int) -> None:
        """Lightning calls this before each epoch."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[tuple[int, int]]:
        step = self.world * self.batch_size
        for start in range(self.first_batch * step, self.samples, step):
            share = min(step, self.samples - start) // self.world  # the last batch may be smaller
            for index in range(start + self.rank * share, start + (self.rank + 1) * share):
                yield self.epoch, index

    def __len__(self) -> int:
        """Samples of a whole epoch on this device."""
        return self.samples // self.world


class PatchLoader(DataLoader[Any]):
    """A DataLoader over a `PatchSampler` that knows where in an epoch it is, and resumes there.

    Lightning creates the first iterator of a resumed run before it tells the sampler the epoch, and loader workers
    would fetch samples of epoch 0 at once: here workers start when the first batch is asked for. Lightning finds
    `state_dict` and `load_state_dict`, and keeps the state in its checkpoints.

    Attributes:
        wait_s: how long this epoch's batches have been waited for, the start of the workers included.
    """

    sampler: PatchSampler

    def __init__(self, dataset: Dataset[Any], sampler: PatchSampler, **settings: Any) -> None:
        super().__init__(dataset, batch_size=sampler.batch_size, sampler=sampler, collate_fn=_as_it_is, **settings)
        self._batches = 0
        self._resume: tuple[int, int] | None = None
        self.wait_s = 0.0

    def __iter__(self) -> Any:
        sampler = self.sampler
        resume, self._resume = self._resume, None
        self._batches = resume[1] if resume is not None and resume[0] == sampler.epoch else 0
        sampler.first_batch = self._batches
        self.wait_s = 0.0
        asked = time.perf_counter()
        for batch in super().__iter__():
            self.wait_s += time.perf_counter() - asked
            self._batches += 1
            yield batch
            asked = time.perf_counter()

    def state_dict(self) -> dict[str, int]:
        """The epoch, and how many of its batches have been handed out."""
        return {"epoch": self.sampler.epoch, "batches": self._batches}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Leave out the batches that were handed out, if the next iteration is of the same epoch."""
        self._resume = state["epoch"], state["batches"]


def _as_it_is(batch: Any) -> Any:
    """Instead of collating: the dataset gives whole batches."""
    return batch
