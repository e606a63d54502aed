"""Training samples: each depends on (seed, epoch, index) and on nothing else.

Neither the number of loader workers nor the number of devices changes a sample. A batch is planned on the host
(`plan`), cut out of the volumes (`volumes`) and finished here, in torch, on the device that trains or on the host.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from data_modules.batches import transforms, transforms_torchio
from data_modules.batches.condition import SLICE_AXIS, Acquisition, condition_values, position_mm
from data_modules.batches.extra import ExtraTransforms
from data_modules.batches.plan import PatchPlan, PatchPlanner
from data_modules.batches.residency import DEVICE, DISK, HOST
from data_modules.batches.volumes import Corner, DeviceVolumes, HostVolumes, Patches, cut, to_device
from data_modules.config import DataConfig
from data_modules.prepare.store import PreparedSeries
from data_modules.scan.geometry import AIR_HU

Batch = dict[str, Tensor]

_CPU = torch.device("cpu")
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


class PlannedBatch:
    """A batch that its device is to make: the plan, and the patches where the device does not hold the volumes."""

    def __init__(self, plan: PatchPlan, patches: Patches | None) -> None:
        self.plan = plan
        self.patches = patches

    def pin_memory(self) -> PlannedBatch:
        """With patches in page-locked memory, from which a GPU copies them by itself; called by torch's loader."""
        return PlannedBatch(self.plan, self.patches and self.patches.map(torch.Tensor.pin_memory))


class PatchDataset(Dataset[Any]):
    """Random patches of prepared series, whole batches at a time.

    Attributes:
        plan: draws the plan of a batch.
        finishes: whether the data set itself makes batches; otherwise it plans them (and cuts, where the device does
            not hold the volumes), and `finish` makes them on the GPU.

    Args:
        series: what patches are cut from.
        config: grid, window, sampling and augmentation.
        seed: with epoch and index, decides a sample.
        labels: whether labels are used: for lesion-centred positions, and in the samples. Otherwise none is opened.
        restrict_hu: the loss counts from this HU (before changes of intensity), or where labelled; None: everywhere.
        native: whether that is the HU of the brightest native voxel that a voxel overlaps.
        condition_on: what the network is told beside the image, in this order (`config.CONDITIONS`).
        place: where the volumes are kept ("device", "host" or "disk", see `residency`).
        device: the one that trains.
    """

    def __init__(
        self,
        series: Sequence[PreparedSeries],
        config: DataConfig,
        seed: int,
        *,
        labels: bool,
        restrict_hu: float | None = None,
        native: bool = False,
        condition_on: Sequence[str] = (),
        place: str = DISK,
        device: torch.device = _CPU,
    ) -> None:
        self.config = config
        self.restrict_hu = restrict_hu
        self.condition_on = tuple(condition_on)
        self.plan = PatchPlanner(series, config, seed, labels=labels)
        peak = labels and native and restrict_hu is not None
        self._volumes: HostVolumes | DeviceVolumes
        if place == DEVICE:
            self._volumes = DeviceVolumes(series, labels=labels, peak=peak, device=device)
        else:
            self._volumes = HostVolumes(series, labels=labels, peak=peak, in_memory=place == HOST)
        self._extra = ExtraTransforms(config.augmentation.extra_in_use, config.grid.spacing_mm, seed)
        self.finishes = device.type != "cuda" or config.augmentation.engine == "torchio"

    def __len__(self) -> int:
        return self.config.sampling.samples_per_epoch

    def __getitem__(self, key: tuple[int, int]) -> Any:
        """One sample: row 0 of the batch of this key alone."""
        return {name: values[0] for name, values in self.__getitems__([key]).items()}

    def __getitems__(self, keys: Sequence[tuple[int, int]]) -> Any:
        """A batch (see `finish`), or what a GPU makes it from.

        Args:
            keys: (epoch, index) of each sample, all of one epoch, as `PatchSampler` yields them.
        """
        epochs, indices = zip(*keys, strict=True)
        plan = self.plan(epochs[0], indices)
        if isinstance(self._volumes, DeviceVolumes):
            return PlannedBatch(plan, None)
        patches = self._volumes.cut(plan, self.config.sampling.crop, small=not self.finishes)
        if self._extra:
            patches = self._extra(plan, patches)
        batch = PlannedBatch(plan, patches)
        return self.finish(batch, _CPU) if self.finishes else batch

    def finish(self, planned: PlannedBatch, device: torch.device) -> Batch:
        """Make a batch on a device, which the host does not wait for.

        Returns:
            ``image`` `[B, 1, X, Y, Z]` float32 in [-1, 1], ``slice_thickness_mm`` `[B]`, ``series_index`` `[B]`,
            ``sample_index`` `[B]`; where the network is told anything, ``condition`` `[B, K]` float32 in millimetres
            (`condition_values`); and, with labels, ``label`` `[B, 1, X, Y, Z]` float32 occupancy and ``loss_region``
            `[B, 1, X, Y, Z]` bool.
        """
        plan, patches = planned.plan, planned.patches
        if patches is None:
            assert isinstance(self._volumes, DeviceVolumes), "only volumes of the device are cut there"
            patches = self._volumes.cut(plan, self.config.sampling.crop)
        elif device.type == "cuda":
            patches = patches.map(lambda tensor: tensor.to(device, non_blocking=True))
        augment = transforms.augment if self.config.augmentation.engine == "batched" else transforms_torchio.augment
        image, label, region = augment(
            patches.hu, patches.occupancy, patches.peak_hu, plan, self.config, self.restrict_hu, patches.labelled
        )
        batch = {"image": image} | _facts(plan, self.condition_on, device)
        return batch if label is None or region is None else batch | {"label": label, "loss_region": region}


class DevCrops(Dataset[Batch]):
    """Fixed unlabelled crops of development series: the same ones at every validation of every run with this seed.

    Args:
        series: what crops are cut from.
        config: window and crop.
        seed: decides where.
        crops: crops a series.
        condition_on: as of `PatchDataset`.
    """

    def __init__(
        self,
        series: Sequence[PreparedSeries],
        config: DataConfig,
        seed: int,
        crops: int,
        condition_on: Sequence[str] = (),
    ) -> None:
        self.condition_on = tuple(condition_on)
        self.series = tuple(series)
        self.config = config
        self.seed = seed
        self.crops = crops

    def __len__(self) -> int:
        return len(self.series) * self.crops

    def occupancy(self, index: int) -> NDArray[np.uint8]:
        """`[X, Y, Z]` share of each voxel that is labelled (255 = full), of the crop of this index; 0 outside."""
        prepared, crop = self.series[index % len(self.series)], self.config.sampling.crop
        whole = prepared.occupancy()
        assert whole is not None, "only crops of labelled series are asked for"
        rng = np.random.default_rng([self.seed, 0, index, _DEV_STREAM])
        part = np.empty(crop, dtype=np.uint8)
        cut(whole, uniform_corner(prepared.grid.shape, crop, rng), part, 0)
        return part

    def __getitem__(self, index: int) -> Batch:
        """``image`` `[1, X, Y, Z]` float32 in [-1, 1], ``slice_thickness_mm``, ``series_index``, ``sample_index``.

        Where the network is told anything, also ``condition`` `[K]`.
        """
        prepared = self.series[index % len(self.series)]  # any first part of the crops covers many series
        crop = self.config.sampling.crop
        rng = np.random.default_rng([self.seed, 0, index, _DEV_STREAM])
        image = torch.empty((1, *crop))
        corner = uniform_corner(prepared.grid.shape, crop, rng)
        cut(prepared.hu(), corner, image.numpy()[0], AIR_HU)
        _normalise_in_place(image, self.config.window_hu)
        facts = {
            "image": image,
            "slice_thickness_mm": torch.tensor(prepared.slice_thickness_mm, dtype=torch.float32),
            "series_index": torch.tensor(index % len(self.series)),
            "sample_index": torch.tensor(index),
        }
        if not self.condition_on:
            return facts
        spacing_mm = self.config.grid.spacing_mm
        place_mm = position_mm([corner], crop, prepared.grid.shape, spacing_mm)
        made = Acquisition.of_series(prepared)
        thickness_mm = made.told_thickness_mm(spacing_mm[SLICE_AXIS])
        (told,) = condition_values(self.condition_on, place_mm, thickness_mm, made.spacing_mm)
        return facts | {"condition": torch.from_numpy(told)}


def uniform_corner(shape: tuple[int, int, int], crop: tuple[int, int, int], rng: np.random.Generator) -> Corner:
    """Corner of a patch anywhere inside a volume of `shape`; where the patch is larger, it is padded evenly."""
    x, y, z = (
        int(rng.integers(size - length + 1)) if size >= length else -((length - size) // 2)
        for size, length in zip(shape, crop, strict=True)
    )
    return x, y, z


def _facts(plan: PatchPlan, condition_on: Sequence[str], device: torch.device) -> Batch:
    """What the batch tells of each sample."""
    facts: dict[str, NDArray[Any]] = {
        "slice_thickness_mm": plan.slice_thickness_mm,
        "series_index": plan.series,
        "sample_index": plan.index,
    }
    if condition_on:
        facts["condition"] = condition_values(condition_on, plan.position_mm, plan.slice_thickness_mm, plan.spacing_mm)
    return {name: to_device(torch.tensor(values), device) for name, values in facts.items()}


def _normalise_in_place(hu: Tensor, window_hu: tuple[float, float]) -> None:
    low, high = window_hu
    scale = 2 / (high - low)
    torch.add(torch.tensor(-scale * (low + high) / 2), hu, alpha=scale, out=hu)  # one pass over memory
    hu.clamp_(-1, 1)
