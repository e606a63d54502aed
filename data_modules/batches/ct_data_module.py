"""The batches of pre-training, fine-tuning and baselines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import lightning as L
import numpy as np
import SimpleITK as sitk
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader

from data_modules.batches.extra import read_transform
from data_modules.batches.loader import PatchLoader, PatchSampler
from data_modules.batches.patches import DevCrops, PatchDataset, PlannedBatch
from data_modules.batches.residency import DEVICE, choose_residency
from data_modules.batches.shared_memory import check_shared_memory
from data_modules.batches.volumes import volume_bytes
from data_modules.cohort.leakage import TRAINS_ON, check_leakage, check_trains_on
from data_modules.cohort.look import GUARDED
from data_modules.cohort.table import Cohort
from data_modules.config import DataConfig
from data_modules.errors import UserError
from data_modules.prepare.preparation import prepare_cohort
from data_modules.prepare.store import PreparedSeries, PreparedStore, open_store

DEV_CROPS = 4
"""Crops of each development series that validate pre-training."""
GPU_REGIONS = 16
"""Development regions of a validation batch on a GPU; elsewhere one."""


class CTDataModule(L.LightningDataModule):
    """Patches to train on, development series to validate on, and the guard that keeps them apart.

    Training batches (``B`` = `config.batch_size`; see `PatchDataset`):

    - ``image`` `[B, 1, X, Y, Z]` float32: HU clipped to `config.window_hu`, scaled to [-1, 1];
    - ``slice_thickness_mm`` `[B]` float32, ``series_index`` `[B]` and ``sample_index`` `[B]` int64;
    - ``condition`` `[B, K]` float32, where `condition_on` names anything: raw millimetres in that order (position along
      x, y, z; slice thickness; spacing along x, y, z);
    - segment only: ``label`` `[B, 1, X, Y, Z]` float32 occupancy, ``loss_region`` `[B, 1, X, Y, Z]` bool.

    Validation batches: for pretrain, fixed crops of development series without labels (`DevCrops`); for segment,
    ``series_index`` `[n]` into `dev_series`, whose whole regions the module predicts. Each device gets its share,
    none twice.

    Rank and number of devices are the trainer's, which must run with `use_distributed_sampler=False`.

    Args:
        config: cohort, grid, sampling, augmentation and loading.
        task: "pretrain" trains on the images of the splits pretrain and finetune, "segment" on the
            finetune split.
        seed: every sample, and the choice of labelled patients, follows from it.
        restrict_hu: the loss counts from this HU, and where labelled; None: everywhere.
        restrict_on: whose HU that is: "common", of a voxel of the common grid, or "native", of the brightest voxel of
            the scan that it overlaps.
        condition_on: what the network is told beside the image (`config.CONDITIONS`).
        needs_dev: whether a cohort without development series is refused.
    """

    def __init__(
        self,
        config: DataConfig,
        task: str,
        seed: int,
        restrict_hu: float | None = 100.0,
        *,
        restrict_on: str = "common",
        condition_on: Sequence[str] = (),
        needs_dev: bool = True,
    ) -> None:
        super().__init__()
        self.config = replace(config, augmentation=config.augmentation.of_task(task))
        self.task = task
        self.seed = seed
        self.restrict_hu = restrict_hu
        self.restrict_on = restrict_on
        self.condition_on = tuple(condition_on)
        self.needs_dev = needs_dev
        self._store: PreparedStore | None = None
        self._train_series: tuple[PreparedSeries, ...] = ()
        self._dataset: PatchDataset | None = None

    def prepare_data(self) -> None:
        """Prepare the volumes that are not prepared yet (Lightning: in one process of each node)."""
        prepare_cohort(self.config, self._splits)

    def setup(self, stage: str | None = None) -> None:
        """Open the prepared volumes and choose the training series.

        Raises:
            UserError: when the cohort leaks between splits, has nothing to train or to validate on, or lacks labels;
                when `data.augmentation.extra` names what is no transform.
        """
        assert GUARDED not in self._splits, "training never opens the test split"
        for text in self.config.augmentation.extra:  # refused before the first volume is opened
            read_transform(text)
        store = open_store(self.config, self._splits)
        check_leakage(store.cohort)
        train = store.split(*TRAINS_ON[self.task])
        dev = store.split("dev")
        for split, prepared, needed in ((" or ".join(TRAINS_ON[self.task]), train, True), ("dev", dev, self.needs_dev)):
            if needed and not prepared:
                raise UserError(
                    f"{self.config.cohort}: no prepared series in the split {split}, which {self.task} needs; assign "
                    f"splits, and see {store.directory / 'failed.csv'} for series that could not be prepared"
                )
        if self.task == "segment":
            train = _labelled_subset(train, self.config.labelled_fraction, self.seed)
            _check_labels((*train, *dev), self.config.cohort)
            _check_lesions(train, dev if self.needs_dev else (), self.config.cohort)
        check_trains_on([p.series for p in train], TRAINS_ON[self.task])
        shared = {p.series.patient_id for p in train} & {p.series.patient_id for p in dev}
        assert not shared, "a patient of both splits has passed the leakage check"
        self._store, self._train_series = store, train

    def train_dataloader(self) -> PatchLoader:
        """Random patches; `sampling.samples_per_epoch` of them in one epoch over all devices.

        Where a GPU trains, its batches are made by `transfer_batch_to_device`; the loader plans them.

        Raises:
            UserError: when the training volumes do not fit where `data.residency` wants them, or the batches of loader
                processes do not fit into shared memory.
        """
        sampling, workers, gpu = self.config.sampling, self.config.num_workers, self._device.type == "cuda"
        _check_even(sampling.samples_per_epoch, self._world)
        dataset, place = self._open_volumes()
        if place == DEVICE:
            workers = 0  # plans take no time
        check_shared_memory(self.config, self.task == "segment", workers, self._processes, planned=not dataset.finishes)
        sampler = PatchSampler(sampling.samples_per_epoch, self.config.batch_size, self._rank, self._world)
        return PatchLoader(
            dataset,
            sampler,
            num_workers=workers,
            persistent_workers=workers > 0,
            worker_init_fn=_one_thread,
            pin_memory=gpu and place != DEVICE,
            generator=torch.Generator().manual_seed(self.seed),  # a loader draws from the global one otherwise
        )

    def _open_volumes(self) -> tuple[PatchDataset, str]:
        """What patches are cut from, where `data.residency` keeps it, and that place; says it once."""
        labels, native = self.task == "segment", self.restrict_on == "native"
        peak = labels and native and self.restrict_hu is not None
        n_bytes = volume_bytes(self.train_series, labels=labels, peak=peak)
        residency = choose_residency(self.config, n_bytes, self._device, self._processes)
        if self.trainer and self._rank == 0:
            print(residency.describe(len(self.train_series), n_bytes))
        self._dataset = PatchDataset(
            self.train_series,
            self.config,
            self.seed,
            labels=labels,
            restrict_hu=self.restrict_hu,
            native=native,
            condition_on=self.condition_on,
            place=residency.place,
            device=self._device,
        )
        return self._dataset, residency.place

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Move a batch; one that is planned is made there, in the numbers of the network (`trainer.precision`)."""
        if isinstance(batch, PlannedBatch):
            assert self._dataset is not None, "only a training loader plans batches"
            made = self._dataset.finish(batch, device)
            # Lightning has done so with what the loader gave, of which a plan holds nothing yet.
            precision = getattr(self.trainer, "precision_plugin", None)
            return precision.convert_input(made) if precision else made
        return super().transfer_batch_to_device(batch, device, dataloader_idx)

    def val_dataloader(self) -> DataLoader[Any]:
        """This device's share of the development data, in fixed order."""
        pretrain = self.task == "pretrain"
        crops = DevCrops(self.dev_series, self.config, self.seed, DEV_CROPS, self.condition_on) if pretrain else None
        items: Any = crops if crops is not None else [{"series_index": i} for i in range(len(self.dev_series))]
        if len(items) < self._world:
            raise UserError(
                f"{self.config.cohort}: {len(items)} development items for {self._world} devices; every device needs "
                "one: use fewer devices or put more patients into the dev split"
            )
        return DataLoader(
            items,
            batch_size=self.config.batch_size if pretrain else GPU_REGIONS if self._device.type == "cuda" else 1,
            sampler=range(self._rank, len(items), self._world),
            pin_memory=self._device.type == "cuda",
            generator=torch.Generator().manual_seed(self.seed),
        )

    @property
    def cohort(self) -> Cohort:
        """The cohort table; after `setup`."""
        return self.store.cohort

    @property
    def store(self) -> PreparedStore:
        """The prepared series of this task's splits; after `setup`."""
        assert self._store is not None, "setup() comes first"
        return self._store

    @property
    def fingerprint(self) -> str:
        """Of the preparation settings and everything that was prepared for this task."""
        return self.store.fingerprint

    @property
    def train_series(self) -> tuple[PreparedSeries, ...]:
        """What patches are cut from: the chosen share of the fine-tuning patients, or all images of a pre-training."""
        assert self._store is not None, "setup() comes first"
        return self._train_series

    @property
    def dev_series(self) -> tuple[PreparedSeries, ...]:
        """Development series; ``series_index`` of a validation batch points into them."""
        return self.store.split("dev")

    @property
    def trained_patients(self) -> tuple[str, ...]:
        """Sorted ids of the patients that training looks at."""
        return tuple(sorted({p.series.patient_id for p in self.train_series}))

    @property
    def _splits(self) -> tuple[str, ...]:
        return (*TRAINS_ON[self.task], "dev")

    @property
    def _device(self) -> torch.device:
        strategy = getattr(self.trainer, "strategy", None)
        return strategy.root_device if strategy else torch.device("cpu")

    @property
    def _processes(self) -> int:
        """Training processes of this machine."""
        return self.trainer.num_devices if self.trainer else 1

    @property
    def _rank(self) -> int:
        return self.trainer.global_rank if self.trainer else 0

    @property
    def _world(self) -> int:
        return self.trainer.world_size if self.trainer else 1


def _labelled_subset(series: tuple[PreparedSeries, ...], fraction: float, seed: int) -> tuple[PreparedSeries, ...]:
    """The series of a share of the patients; with one seed, smaller shares lie within larger ones."""
    patients = sorted({p.series.patient_id for p in series})
    order = np.random.default_rng([seed]).permutation(len(patients))
    chosen = {patients[i] for i in order[: max(1, round(fraction * len(patients)))]}
    return tuple(p for p in series if p.series.patient_id in chosen)


def _check_labels(series: tuple[PreparedSeries, ...], cohort: str) -> None:
    missing = [p.series.series_id for p in series if p.series.label is None]
    if missing:
        raise UserError(
            f"{cohort}: {len(missing)} series of the splits finetune and dev have no label, such as "
            f"{', '.join(missing[:3])}; give each a mask (an empty one where there is no lesion), or move the patient "
            "to the pretrain split"
        )


def _check_lesions(train: tuple[PreparedSeries, ...], dev: tuple[PreparedSeries, ...], cohort: str) -> None:
    """Refuse, before the first step, labels from which nothing is learnt or by which nothing is judged.

    Raises:
        UserError: when no training series, or no development series, has a lesion in its region, or a label fills one.
    """
    lacking = [
        f"none of the {len(series)} {kind} series has a labelled voxel in its region of interest, so {consequence}"
        for kind, series, bears, consequence in (
            ("training", train, lambda s: len(s.components) > 0, "there is nothing to learn"),
            ("development", dev, lambda s: _labelled(s).any(), "neither a best epoch nor a threshold can be chosen"),
        )
        if series and not any(bears(s) for s in series)
    ]
    filled = [s.series.series_id for s in (*train, *dev) if _labelled(s).all()]
    if filled:
        lacking.append(
            f"the label of {len(filled)} series fills the whole region of interest, such as {', '.join(filled[:3])}"
        )
    if lacking:
        raise UserError(
            f"{cohort}: {'; '.join(lacking)}. See that the masks (column label) are those of these scans and hold 1 "
            "where there is calcium, or change the splits (or data.labelled_fraction)"
        )


def _labelled(series: PreparedSeries) -> NDArray[np.bool_]:
    label = series.native_label()
    assert label is not None, "series without a label were refused before"
    return label


def _check_even(samples: int, world: int) -> None:
    """Refuse an epoch whose last batch not every device would get alike: some would wait for the others for ever."""
    if samples % world:
        raise ValueError(f"{samples} samples of an epoch do not share out over {world} devices")


def _one_thread(worker: int) -> None:
    """Torch limits a worker to one thread; ITK, which TorchIO's affine runs on, is limited here."""
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
