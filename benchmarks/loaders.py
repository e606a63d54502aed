"""Training batches as endless streams: the data module's, a TorchIO queue's, nnU-Net's.

Each stream gives the number of patches of its next batch, once that batch lies on the device.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from benchmarks.synthetic import data_module
from data_modules.config import AugmentationConfig
from iac_lightning.config.schema import ExperimentConfig

if TYPE_CHECKING:
    from data_modules.prepare.store import PreparedSeries

Stream = Iterator[int]
QUEUE_VOLUMES = 4
"""Volumes whose patches a queue holds, where each gives several."""
_REPEATED = 1000
"""How often an epoch of a peer goes through its volumes, so that its workers are not started again and again."""


def rate(stream: Stream, seconds: float, lot: int = 1, *, processor: bool = False) -> float:
    """Patches a second of a stream.

    Args:
        stream: sizes of batches.
        seconds: at least so long.
        lot: patches that the stream makes at one go; whole lots are timed, at least one.
        processor: seconds are those in which a core computes for this process, whatever else the machine does.
    """
    clock = time.process_time if processor else time.perf_counter
    start, count = clock(), next(stream)
    while (elapsed := clock() - start) < seconds or count % lot:
        count += next(stream)
    return count / elapsed


def own_stream(config: ExperimentConfig, series: tuple[PreparedSeries, ...], device: torch.device) -> Stream:
    """Of the data module, moved to the device as Lightning would, in the loader processes that the settings ask for."""
    config = deepcopy(config)
    config.data.sampling.samples_per_epoch = 10_000_000
    data = data_module(config, series)
    if device.type == "cuda":  # which the data module knows from its trainer
        strategy = SimpleNamespace(root_device=device)
        trainer: Any = SimpleNamespace(strategy=strategy, num_devices=1, global_rank=0, world_size=1)
        data.trainer = trainer
    data.setup("fit")
    for batch in data.train_dataloader():
        batch = data.transfer_batch_to_device(batch, device, 0)
        batch = data.on_after_batch_transfer(batch, 0)
        _wait_for(device)
        yield len(batch["image"])


def queue_stream(
    config: ExperimentConfig, folder: Path, device: torch.device, *, per_volume: int, augment: bool, workers: int
) -> Stream:
    """Of a TorchIO queue over NIfTI files, with transforms of the same kind and probability.

    Its transforms see whole volumes, as a queue's do: patches of one volume share one augmentation.

    Args:
        config: crop, batch and augmentation.
        folder: with files `*_image.nii.gz` and `*_label.nii.gz`.
        device: batches are moved to.
        per_volume: patches that each opened volume gives.
        augment: whether volumes are transformed.
        workers: processes that open and transform volumes.
    """
    import torchio as tio

    images = sorted(folder.glob("*_image.nii.gz"))
    subjects = [
        tio.Subject(image=tio.ScalarImage(p), label=tio.LabelMap(str(p).replace("_image", "_label"))) for p in images
    ]
    transform = queue_transform(config.data.augmentation) if augment else None
    dataset = tio.SubjectsDataset(subjects * _REPEATED, transform=transform)
    queue = tio.Queue(
        dataset,
        max_length=queue_lot(per_volume),
        samples_per_volume=per_volume,
        sampler=tio.UniformSampler(config.data.sampling.crop),
        num_workers=workers,
    )
    for batch in tio.SubjectsLoader(queue, batch_size=config.data.batch_size, num_workers=0):
        image = batch["image"][tio.DATA].to(device, non_blocking=True)
        batch["label"][tio.DATA].to(device, non_blocking=True)
        _wait_for(device)
        yield len(image)


def queue_lot(per_volume: int) -> int:
    """Patches that a queue holds, and makes at one go."""
    return QUEUE_VOLUMES * max(per_volume, 4)


def queue_transform(settings: AugmentationConfig) -> Any:
    """TorchIO's transforms of the kinds that the project draws."""
    import torchio as tio

    return tio.Compose(
        [
            tio.RandomFlip(axes=0, flip_probability=settings.flip_probability),
            tio.RandomAffine(
                scales=settings.scale,
                degrees=settings.rotation_deg,
                default_pad_value=-1024,
                p=settings.affine_probability,
            ),
            tio.RandomAnisotropy(axes=2, downsampling=(4, 12), p=settings.thickness_probability),
            tio.RandomBlur(std=(0, settings.blur_mm), p=settings.blur_probability),
            tio.RandomNoise(std=(0, settings.noise_hu), p=settings.noise_probability),
        ]
    )


def nnunet_stream(
    config: ExperimentConfig, series: Sequence[PreparedSeries], device: torch.device, *, augment: bool, workers: int
) -> Stream:
    """Of nnU-Net v2's loader over volumes in memory (no file is read: its best case), with its default augmentation.

    Args:
        config: crop and batch.
        series: volumes.
        device: batches are moved to.
        augment: its transforms, on larger patches that rotation does not cut, or none.
        workers: its processes; 0: in this one.
    """
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        os.environ.setdefault(name, "unused")  # it warns otherwise
    from batchgenerators.dataloading.nondet_multi_threaded_augmenter import NonDetMultiThreadedAugmenter
    from batchgenerators.dataloading.single_threaded_augmenter import SingleThreadedAugmenter
    from nnunetv2.training.data_augmentation.compute_initial_patch_size import get_patch_size
    from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    crop = config.data.sampling.crop
    angle = (-np.pi / 6, np.pi / 6)
    wide = get_patch_size(np.array(crop), angle, angle, angle, (0.85, 1.25)) if augment else crop
    transform = nnUNetTrainer.get_training_transforms(crop, angle, None, (0, 1, 2), False) if augment else None
    loader = nnUNetDataLoader(
        _InMemory(series),
        config.data.batch_size,
        wide,
        crop,
        SimpleNamespace(all_labels=[1], has_ignore_label=False),
        oversample_foreground_percent=0.33,
        transforms=transform,
    )
    if workers:
        batches = NonDetMultiThreadedAugmenter(loader, None, workers, max(6, workers // 2), pin_memory=False)
    else:
        batches = SingleThreadedAugmenter(loader, None)
    try:
        for batch in batches:
            image = torch.as_tensor(batch["data"]).to(device)
            torch.as_tensor(batch["target"]).to(device)
            _wait_for(device)
            yield len(image)
    finally:
        if workers:
            batches._finish()


class _InMemory:
    """What nnU-Net's loader asks of a data set."""

    def __init__(self, series: Sequence[PreparedSeries]) -> None:
        self.identifiers = [s.series.series_id for s in series]
        self._cases = {}
        for s in series:
            label = np.asarray(s.occupancy())[None] > 127
            voxels = np.argwhere(label)
            image = np.asarray(s.hu(), dtype=np.float32)[None] / 500
            self._cases[s.series.series_id] = (image, label.astype(np.int16), None, {"class_locations": {1: voxels}})

    def load_case(self, name: str) -> Any:
        """Image and label `[1, X, Y, Z]`, no earlier label, and where the label is."""
        return self._cases[name]


def write_nifti_pairs(series: Sequence[PreparedSeries], folder: Path) -> None:
    """Image and label of each series as `.nii.gz`, for a peer."""
    from data_modules.scan.geometry import Volume
    from data_modules.scan.nifti import write_nifti

    folder.mkdir(parents=True, exist_ok=True)
    for s in series:
        write_nifti(Volume(np.asarray(s.hu()), s.grid), folder / f"{s.series.series_id}_image.nii.gz")
        write_nifti(Volume(np.asarray(s.occupancy()), s.grid), folder / f"{s.series.series_id}_label.nii.gz")


def in_turn(
    streams: dict[str, tuple[Callable[[], Stream], int]], seconds: float, rounds: int
) -> dict[str, list[float]]:
    """Rates of several streams, measured in turn (A B C A B C …).

    Each stream is begun anew for each measurement, and what it has made ahead is taken out before its clock starts: no
    stream works while another is timed.

    Args:
        streams: what begins a stream, and its lot (`rate`).
        seconds: of each measurement.
        rounds: how often each is measured.
    """
    rates: dict[str, list[float]] = {name: [] for name in streams}
    for _ in range(rounds):
        for name, (begin, lot) in streams.items():
            rates[name].append(fresh_rate(begin, seconds, lot))
    return rates


def fresh_rate(begin: Callable[[], Stream], seconds: float, lot: int = 1, *, processor: bool = False) -> float:
    """Rate (as `rate`) of a stream that is begun, warmed up and ended."""
    stream = begin()
    try:
        rate(stream, seconds / 4, lot, processor=processor)
        return rate(stream, seconds, lot, processor=processor)
    finally:
        stream.close()  # type: ignore[attr-defined] # a generator: its workers end here


def ratio(a: Sequence[float], b: Sequence[float]) -> float:
    """Median of the ratios a / b, pair by pair."""
    return statistics.median(x / y for x, y in zip(a, b, strict=True))


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
