"""Training samples and the order they come in: each depends on (seed, epoch, index) and on nothing else.

Neither the number of loader workers nor the number of devices changes a sample, and a run that is interrupted inside
an epoch goes on with the sample it would have seen next.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from data_modules.batches.augmentation import Augmentation
from data_modules.batches.sampling import Corner, PlaceSampler, cut, uniform_corner
from data_modules.config import DataConfig
from data_modules.prepare.store import PreparedSeries
from data_modules.scan.geometry import AIR_HU

Batch = dict[str, Tensor]

_SLICE_AXIS = 2
_OPEN_SERIES = 128  # memory maps a process keeps open; each holds a file descriptor
_DEV_STREAM = 1  # a fourth number keeps development crops apart from every (seed, epoch, index)


def normalise(hu: NDArray[Any], window_hu: tuple[float, float]) -> NDArray[np.float32]:
    """Clip HU to a fixed window and scale it to [-1, 1].

    Args:
        hu: HU of any shape and type; left as it is.
        window_hu: values that become -1 and 1.
    """
    image = np.array(hu, dtype=np.float32)
    _normalise_in_place(torch.from_numpy(image), window_hu)
    return image


class PatchDataset(Dataset[Batch]):
    """Random patches of prepared series, whole batches at a time.

    Arrays are cut from the memory maps straight into the batch: at this speed, allocating and copying is most of the
    work.

    Args:
        series: what patches are cut from.
        config: grid, window, sampling and augmentation.
        seed: with epoch and index, decides a sample.
        labels: whether labels are used: for lesion-centred places, and in the samples. Otherwise none is opened.
        restrict_hu: voxels count in the loss from this HU (before intensity augmentation) or where labelled;
            None: all count.
    """

    def __init__(
        self,
        series: Sequence[PreparedSeries],
        config: DataConfig,
        seed: int,
        *,
        labels: bool,
        restrict_hu: float | None = None,
    ) -> None:
        self.series = tuple(series)
        self.config = config
        self.seed = seed
        self.labels = labels
        self.restrict_hu = restrict_hu
        self._place = PlaceSampler(self.series, config.sampling, labels=labels)
        self._augmentation = Augmentation(config.augmentation, config.grid.spacing_mm)

    def __len__(self) -> int:
        return self.config.sampling.samples_per_epoch

    def __getitem__(self, key: tuple[int, int]) -> Batch:
        """One sample: row 0 of the batch of this key alone."""
        return {name: values[0] for name, values in self.__getitems__([key]).items()}

    def __getitems__(self, keys: Sequence[tuple[int, int]]) -> Batch:
        """A batch.

        Args:
            keys: (epoch, index) of each sample, as `PatchSampler` yields them.

        Returns:
            ``image`` `[B, 1, X, Y, Z]` float32 in [-1, 1], ``slice_thickness_mm`` `[B]`, ``series_index`` `[B]`,
            ``sample_index`` `[B]` and, with labels, ``label`` `[B, 1, X, Y, Z]` float32 occupancy and ``loss_region``
            `[B, 1, X, Y, Z]` bool.
        """
        shape = (len(keys), 1, *self.config.sampling.crop)
        batch = {"image": torch.empty(shape)}
        if self.labels:
            batch |= {"label": torch.empty(shape), "loss_region": torch.empty(shape, dtype=torch.bool)}
        rows = [{name: values.numpy()[k, 0] for name, values in batch.items()} for k in range(len(keys))]
        facts = [self._sample(key, **row) for key, row in zip(keys, rows, strict=True)]
        series_index, thickness_mm = zip(*facts, strict=True)
        return batch | {
            "slice_thickness_mm": torch.tensor(thickness_mm, dtype=torch.float32),
            "series_index": torch.tensor(series_index),
            "sample_index": torch.tensor([index for _, index in keys]),
        }

    def _sample(
        self,
        key: tuple[int, int],
        image: NDArray[np.float32],
        label: NDArray[np.float32] | None = None,
        loss_region: NDArray[np.bool_] | None = None,
    ) -> tuple[int, float]:
        """Write one sample into its rows of the batch; returns its series and slice thickness."""
        rng = np.random.default_rng([self.seed, *key])
        place = self._place(rng)
        prepared = self.series[place.series]
        cut(_hu(prepared), place.corner, image, AIR_HU)
        if label is not None:
            labelled = _cut_label(prepared, place.corner, label)
        axial = prepared.slice_axis == _SLICE_AXIS  # other scans are as thick along z as the grid is
        own_mm = prepared.slice_thickness_mm if axial else self.config.grid.spacing_mm[_SLICE_AXIS]
        hu, occupancy, thickness_mm = self._augmentation.spatial(image, label, own_mm, rng)
        if label is not None and loss_region is not None and occupancy is not None:
            np.greater_equal(hu, -np.inf if self.restrict_hu is None else self.restrict_hu, out=loss_region)
            if occupancy is label:
                loss_region[labelled] = True
            else:
                np.copyto(label, occupancy)
                loss_region |= label > 0
        hu = self._augmentation.intensity(hu, rng)
        if hu is not image:
            np.copyto(image, hu)
        _normalise_in_place(torch.from_numpy(image), self.config.window_hu)
        return place.series, max(thickness_mm, prepared.slice_thickness_mm)


class DevCrops(Dataset[Batch]):
    """Fixed unlabelled crops of development series: the same ones at every validation of every run with this seed.

    Args:
        series: what crops are cut from.
        config: window and crop.
        seed: decides where.
        crops: crops a series.
    """

    def __init__(self, series: Sequence[PreparedSeries], config: DataConfig, seed: int, crops: int) -> None:
        self.series = tuple(series)
        self.config = config
        self.seed = seed
        self.crops = crops

    def __len__(self) -> int:
        return len(self.series) * self.crops

    def __getitem__(self, index: int) -> Batch:
        """``image`` `[1, X, Y, Z]` float32 in [-1, 1], ``slice_thickness_mm``, ``series_index``, ``sample_index``."""
        prepared = self.series[index % len(self.series)]  # any first part of the crops covers many series
        crop = self.config.sampling.crop
        rng = np.random.default_rng([self.seed, 0, index, _DEV_STREAM])
        image = torch.empty((1, *crop))
        cut(prepared.hu(), uniform_corner(prepared.grid.shape, crop, rng), image.numpy()[0], AIR_HU)
        _normalise_in_place(image, self.config.window_hu)
        return {
            "image": image,
            "slice_thickness_mm": torch.tensor(prepared.slice_thickness_mm, dtype=torch.float32),
            "series_index": torch.tensor(index % len(self.series)),
            "sample_index": torch.tensor(index),
        }


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


class PatchLoader(DataLoader[Batch]):
    """A DataLoader over a `PatchSampler` that knows where in an epoch it is, and resumes there.

    Lightning creates the first iterator of a resumed run before it tells the sampler the epoch, and loader workers
    would fetch samples of epoch 0 at once: here workers start when the first batch is asked for. Lightning finds
    `state_dict` and `load_state_dict`, and keeps the state in its checkpoints.

    Attributes:
        wait_s: how long this epoch's batches have been waited for, the start of the workers included.
    """

    sampler: PatchSampler

    def __init__(self, dataset: PatchDataset, sampler: PatchSampler, **settings: Any) -> None:
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


@lru_cache(maxsize=_OPEN_SERIES)
def _hu(prepared: PreparedSeries) -> NDArray[np.int16]:
    return prepared.hu()


@lru_cache(maxsize=_OPEN_SERIES)
def _occupancy(prepared: PreparedSeries) -> NDArray[np.uint8]:
    occupancy = prepared.occupancy()
    assert occupancy is not None, "series without a label are refused before training"
    return occupancy


def _cut_label(prepared: PreparedSeries, corner: Corner, out: NDArray[np.float32]) -> tuple[NDArray[np.int32], ...]:
    """Write a patch of occupancy in [0, 1], and say where it is labelled: few voxels, which the components list."""
    voxels = prepared.components[:, 1:]
    voxels = voxels[((voxels >= corner) & (voxels < np.add(corner, out.shape))).all(axis=1)]
    labelled = tuple((voxels - np.asarray(corner, dtype=np.int32)).T)
    out.fill(0)
    out[labelled] = _occupancy(prepared)[tuple(voxels.T)] / np.float32(255)
    return labelled


def _normalise_in_place(hu: Tensor, window_hu: tuple[float, float]) -> None:
    low, high = window_hu
    scale = 2 / (high - low)
    torch.add(torch.tensor(-scale * (low + high) / 2), hu, alpha=scale, out=hu)  # one pass over memory
    hu.clamp_(-1, 1)


def _as_it_is(batch: Any) -> Any:
    """Instead of collating: the dataset gives whole batches."""
    return batch
