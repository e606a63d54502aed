from __future__ import annotations

import pickle
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor

from data_modules.batches import ct_data_module
from data_modules.batches.ct_data_module import CTDataModule
from data_modules.batches.loader import PatchSampler
from data_modules.batches.patches import PatchDataset, PlannedBatch, normalise, uniform_corner
from data_modules.batches.residency import DEVICE, Residency
from data_modules.config import AugmentationConfig, DataConfig
from tests.unit.data_modules.batches.conftest import (
    CROP,
    NOTHING,
    ROWS,
    assert_same,
    build,
    changed_table,
    joined,
    on_rank,
)


class TestNormalise:
    def test_by_hand(self) -> None:
        hu = np.array([-1024, -200, 100, 400, 700, 1000, 3071], dtype=np.int16)
        image = normalise(hu, (-200.0, 1000.0))
        assert image.dtype == np.float32
        np.testing.assert_allclose(image, [-1, -1, -0.5, 0, 0.5, 1, 1], atol=1e-6)
        assert (image.min(), image.max()) == (-1, 1)

    def test_leaves_float_input_as_it_is(self) -> None:
        hu = np.array([[0.0, 500.0]], dtype=np.float32)
        np.testing.assert_allclose(normalise(hu, (0.0, 1000.0)), [[-1, 0]], atol=1e-6)
        assert hu.tolist() == [[0.0, 500.0]]


class TestUniformCorner:
    def test_the_patch_lies_inside_everywhere_equally_often(self) -> None:
        rng = np.random.default_rng(3)
        corners = np.array([uniform_corner((11, 8, 6), (8, 7, 6), rng) for _ in range(3000)])
        assert corners.min(axis=0).tolist() == [0, 0, 0]
        assert corners.max(axis=0).tolist() == [3, 1, 0]
        for axis, places in ((0, 4), (1, 2)):
            assert stats.chisquare(np.bincount(corners[:, axis], minlength=places)).pvalue > 0.01

    def test_a_smaller_volume_is_padded_evenly(self) -> None:
        assert uniform_corner((4, 4, 5), (8, 7, 6), np.random.default_rng(0)) == (-2, -1, 0)


class TestSamples:
    def test_batches_of_segmentation(self, config: DataConfig) -> None:
        data = build(config)
        for batch in data.train_dataloader():
            assert set(batch) == {
                "image", "label", "loss_region", "slice_thickness_mm", "series_index", "sample_index"
            }  # fmt: skip
            assert batch["image"].shape == batch["label"].shape == batch["loss_region"].shape == (4, 1, *CROP)
            assert (batch["image"].dtype, batch["label"].dtype) == (torch.float32, torch.float32)
            assert batch["loss_region"].dtype == torch.bool
            assert batch["image"].min() >= -1
            assert batch["image"].max() <= 1
            assert batch["label"].min() >= 0
            assert batch["label"].max() <= 1
            assert batch["slice_thickness_mm"].shape == (4,)
            assert batch["slice_thickness_mm"].min() >= 3.0

    def test_a_sample_is_cut_from_its_series(self, config: DataConfig) -> None:
        """Without augmentation, everything in a sample can be found in the prepared volumes."""
        data = build(replace(config, augmentation=AugmentationConfig(enabled=False)))
        dataset = data.train_dataloader().dataset
        assert isinstance(dataset, PatchDataset)
        lesions = 0
        for index in range(24):
            sample = dataset[0, index]
            place = dataset.plan(0, [index])
            prepared = data.train_series[int(place.series[0])]
            assert sample["series_index"] == place.series[0]
            assert sample["sample_index"] == index
            x, y, z = (c + 10 for c in place.corner[0])
            box = np.s_[x : x + CROP[0], y : y + CROP[1], z : z + CROP[2]]
            hu = np.pad(np.asarray(prepared.hu()), 10, constant_values=-1024)[box]
            occupancy = prepared.occupancy()
            assert occupancy is not None
            expected = np.pad(np.asarray(occupancy) / 255, 10)[box]
            np.testing.assert_allclose(sample["label"][0], expected, atol=1e-6)
            np.testing.assert_allclose(sample["image"][0], np.clip((hu - 400.0) / 600, -1, 1), atol=1e-6)
            np.testing.assert_array_equal(sample["loss_region"][0], (hu >= 100) | (expected > 0))
            assert sample["slice_thickness_mm"] == 3.0
            lesions += bool(expected.any())
            assert not place.around_lesion[0] or expected.any()
        assert lesions > 8

    @pytest.mark.parametrize(("restrict_hu", "share"), [(None, (1.0, 1.0)), (100.0, (0.0, 0.01)), (-100.0, (0.2, 0.6))])
    def test_the_loss_region(self, config: DataConfig, restrict_hu: float | None, share: tuple[float, float]) -> None:
        data = build(replace(config, augmentation=AugmentationConfig(enabled=False)), restrict_hu=restrict_hu)
        batch = joined(data.train_dataloader())
        assert share[0] <= batch["loss_region"].float().mean() <= share[1]
        assert batch["loss_region"][batch["label"] > 0].all()

    def test_the_loss_region_is_that_before_intensity_changes(self, config: DataConfig) -> None:
        quiet = replace(NOTHING, affine_probability=1, thickness_probability=1)
        loud = replace(quiet, noise_probability=1, noise_hu=2000)
        a, b = (joined(build(replace(config, augmentation=s)).train_dataloader()) for s in (quiet, loud))
        assert torch.equal(a["loss_region"], b["loss_region"])
        assert torch.equal(a["label"], b["label"])
        assert not torch.equal(a["image"], b["image"])
        assert a["loss_region"][a["label"] > 0].all()

    def test_thicker_slices_are_told(self, config: DataConfig) -> None:
        thick = AugmentationConfig(thickness_probability=1, thickness_range_mm=(4.0, 6.0))
        batch = joined(build(replace(config, augmentation=thick)).train_dataloader())
        assert batch["slice_thickness_mm"].min() > 4
        assert len(set(batch["slice_thickness_mm"].tolist())) == 24

    def test_the_label_is_flipped_with_the_image(self, config: DataConfig) -> None:
        flip = replace(config, augmentation=replace(NOTHING, flip_probability=1))
        batch = joined(build(flip).train_dataloader())
        bright = batch["image"] > 0.4  # lesions alone reach 700 HU
        assert bright.any()
        assert torch.equal(bright, batch["label"] > 0.9)

    def test_pretraining_looks_at_no_label(self, config: DataConfig, tmp_path: Path) -> None:
        unlabelled = changed_table(config, tmp_path, label={row[1]: "" for row in ROWS})
        unlabelled = replace(unlabelled, prepared_dir=str(tmp_path / "prepared"))
        data = build(unlabelled, "pretrain")
        batch = joined(data.train_dataloader())
        assert set(batch) == {"image", "slice_thickness_mm", "series_index", "sample_index"}
        assert data.trained_patients == ("p0", "p1", "p2", "p3", "p6")
        labelled = joined(build(config, "pretrain").train_dataloader())
        assert_same(batch, labelled)

    def test_a_cohort_without_lesions(
        self, config: DataConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(ct_data_module, "_check_lesions", lambda *_: None)  # which refuses it for a training
        empty = str(Path(config.cohort).parent / "s3_label.nii")
        free = changed_table(config, tmp_path, label={s: empty for _, s, split, _ in ROWS if split != "pretrain"})
        batch = joined(build(replace(free, prepared_dir=str(tmp_path / "prepared"))).train_dataloader())
        assert not batch["label"].any()
        assert len(batch["image"]) == 24


class TestDeterminism:
    def test_the_number_of_workers_changes_nothing(self, config: DataConfig) -> None:
        config = replace(config, sampling=replace(config.sampling, samples_per_epoch=10))
        alone = build(config).train_dataloader()
        epochs = []
        for epoch in (0, 3):
            alone.sampler.set_epoch(epoch)
            epochs.append(joined(alone))
        with_workers = build(replace(config, num_workers=2)).train_dataloader()
        for epoch, expected in zip((0, 3), epochs, strict=True):
            with_workers.sampler.set_epoch(epoch)
            assert_same(joined(with_workers), expected)
        assert not torch.equal(epochs[0]["image"], epochs[1]["image"])
        assert epochs[0]["sample_index"].tolist() == list(range(10))

    def test_two_devices_see_together_what_one_sees(self, config: DataConfig) -> None:
        """24 samples: batch k of 2 × 5 is batch k of 10, and the last one, of 4, is shared evenly."""
        one = list(build(replace(config, batch_size=10)).train_dataloader())
        small = replace(config, batch_size=5)
        two = [list(on_rank(small, rank, 2).train_dataloader()) for rank in range(2)]
        assert [len(b["image"]) for b in two[0]] == [5, 5, 2]
        assert [len(loader) for loader in two] == [3, 3]
        for whole, first, second in zip(one, *two, strict=True):
            assert_same(whole, joined([first, second]))

    def test_seeds_and_epochs_change_every_sample(self, config: DataConfig) -> None:
        images = []
        for seed, epoch in ((0, 0), (0, 1), (1, 0)):
            loader = build(config, seed=seed).train_dataloader()
            loader.sampler.set_epoch(epoch)
            images.append(joined(loader)["image"])
        for a, b in ((0, 1), (0, 2), (1, 2)):
            assert not (images[a] == images[b]).flatten(1).all(dim=1).any()

    def test_global_generators_are_left_alone(self, config: DataConfig) -> None:
        state = torch.get_rng_state()
        for task in ("segment", "pretrain"):
            data = build(config, task)
            list(data.train_dataloader())
            list(data.val_dataloader())
        assert torch.equal(torch.get_rng_state(), state)

    def test_a_data_set_travels_to_spawned_workers(self, config: DataConfig) -> None:
        dataset = build(config).train_dataloader().dataset
        assert_same(pickle.loads(pickle.dumps(dataset))[2, 3], dataset[2, 3])


class TestSampler:
    @pytest.mark.parametrize(("samples", "batch_size", "world"), [(24, 4, 1), (10, 4, 1), (24, 3, 4), (14, 3, 2)])
    def test_each_index_once(self, samples: int, batch_size: int, world: int) -> None:
        samplers = [PatchSampler(samples, batch_size, rank, world) for rank in range(world)]
        for sampler in samplers:
            sampler.set_epoch(7)
        keys = [list(sampler) for sampler in samplers]
        assert sorted(index for part in keys for _, index in part) == list(range(samples))
        assert {epoch for part in keys for epoch, _ in part} == {7}
        assert [len(s) for s in samplers] == [len(part) for part in keys]

    def test_order_by_hand(self) -> None:
        first, second = (list(PatchSampler(12, 2, rank, 2)) for rank in range(2))
        assert [index for _, index in first] == [0, 1, 4, 5, 8, 9]
        assert [index for _, index in second] == [2, 3, 6, 7, 10, 11]

    def test_an_epoch_that_devices_cannot_share_is_refused(self, config: DataConfig) -> None:
        odd = replace(config, sampling=replace(config.sampling, samples_per_epoch=25))
        with pytest.raises(ValueError, match="25 samples of an epoch do not share out over 2 devices"):
            on_rank(odd, 0, 2).train_dataloader()
        assert len(list(build(odd).train_dataloader())) == 7


class TestResume:
    @pytest.mark.parametrize("workers", [0, 2])
    def test_inside_an_epoch(self, config: DataConfig, workers: int) -> None:
        config = replace(config, num_workers=workers)
        whole = build(config).train_dataloader()
        whole.sampler.set_epoch(2)
        iterator: Iterator[dict[str, Tensor]] = iter(whole)
        for _ in range(2):
            next(iterator)
        state = whole.state_dict()
        assert state == {"epoch": 2, "batches": 2}
        expected = joined(iterator)

        resumed = build(config).train_dataloader()
        resumed.load_state_dict(state)
        rest = iter(resumed)
        resumed.sampler.set_epoch(2)  # Lightning names the epoch after it has made the iterator
        first = next(rest)
        assert resumed.state_dict() == {"epoch": 2, "batches": 3}
        assert_same(joined([first, *rest]), expected)
        resumed.sampler.set_epoch(3)
        assert joined(resumed)["sample_index"].tolist() == list(range(24))

    def test_a_finished_epoch_is_not_cut_short(self, config: DataConfig) -> None:
        loader = build(config).train_dataloader()
        loader.load_state_dict({"epoch": 2, "batches": 6})
        loader.sampler.set_epoch(3)
        assert len(list(loader)) == 6


class Recorder(L.LightningModule):
    """Notes what comes; learns nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: list[tuple[int, list[int], float]] = []
        self.validated: list[int] = []

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        self.seen.append((self.current_epoch, batch["sample_index"].tolist(), float(batch["image"].double().sum())))
        return self.weight * 0

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        self.validated += batch["series_index"].tolist()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.filterwarnings("ignore:.*does not have many workers:UserWarning")
def test_lightning_resumes_inside_an_epoch_with_the_samples_that_were_left(
    config: DataConfig, tmp_path: Path, workers: int
) -> None:
    """Checkpoints every 2 of 6 batches; two of them, in the middle and at the end of epoch 1, are gone on from."""
    config = replace(config, num_workers=workers)

    def fit(module: Recorder, checkpoint: Path | None = None) -> None:
        trainer = L.Trainer(
            accelerator="cpu",
            max_epochs=3,
            use_distributed_sampler=False,
            num_sanity_val_steps=0,
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=tmp_path,
            callbacks=[L.pytorch.callbacks.ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=2, save_top_k=-1)],
        )
        trainer.fit(module, datamodule=CTDataModule(config, "segment", 5), ckpt_path=checkpoint, weights_only=True)

    whole = Recorder()
    fit(whole)
    assert [epoch for epoch, _, _ in whole.seen] == [0] * 6 + [1] * 6 + [2] * 6
    assert len({total for _, _, total in whole.seen}) == 18
    assert whole.validated == [0, 1] * 3

    (checkpoint,) = tmp_path.glob("step=10*.ckpt")  # 6 + 4 batches
    resumed = Recorder()
    fit(resumed, checkpoint)
    assert resumed.seen == whole.seen[10:]
    at_the_end = Recorder()
    (checkpoint,) = tmp_path.glob("step=12.ckpt")  # 6 + 6: after the last batch of epoch 1
    fit(at_the_end, checkpoint)
    assert at_the_end.seen == whole.seen[12:]


@pytest.mark.filterwarnings("ignore:.*does not have many workers:UserWarning")
def test_lightning_has_planned_batches_made_where_it_trains(
    config: DataConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As on a GPU that holds the volumes: the loader plans, the batch is made at its transfer."""
    config = replace(config, num_workers=2)

    def fit() -> Recorder:
        module = Recorder()
        trainer = L.Trainer(
            accelerator="cpu", max_epochs=2, use_distributed_sampler=False, num_sanity_val_steps=0, logger=False,
            enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        )  # fmt: skip
        trainer.fit(module, datamodule=CTDataModule(config, "segment", 5))
        return module

    expected = fit().seen
    assert re.search(r"training volumes: 5 series, 0\.05\d? MB, in memory\n", capsys.readouterr().out)
    planned: list[PlannedBatch] = []
    finish = PatchDataset.finish
    monkeypatch.setattr(
        PatchDataset, "finish", lambda self, batch, to: planned.append(batch) or finish(self, batch, to)
    )
    monkeypatch.setattr(ct_data_module, "choose_residency", lambda *_: Residency(DEVICE))
    assert fit().seen == expected
    assert len(planned) == 12
    assert all(batch.patches is None for batch in planned)
    assert "MB, on the GPU\n" in capsys.readouterr().out


@pytest.mark.filterwarnings("ignore:.*does not have many workers:UserWarning")
@pytest.mark.parametrize(("precision", "dtype"), [("bf16-true", torch.bfloat16), ("64-true", torch.float64)])
def test_a_batch_that_is_made_where_it_trains_has_the_numbers_of_the_network(
    config: DataConfig, monkeypatch: pytest.MonkeyPatch, precision: Any, dtype: torch.dtype
) -> None:
    """Lightning converts what the loader gives, and a plan holds no numbers yet."""
    seen: set[torch.dtype] = set()

    class Typed(Recorder):
        def on_train_batch_start(self, batch: dict[str, Tensor], batch_idx: int) -> None:
            seen.update((batch["image"].dtype, batch["label"].dtype))

    monkeypatch.setattr(ct_data_module, "choose_residency", lambda *_: Residency(DEVICE))
    trainer = L.Trainer(
        accelerator="cpu", max_epochs=1, use_distributed_sampler=False, limit_val_batches=0, logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, precision=precision,
    )  # fmt: skip
    trainer.fit(Typed(), datamodule=CTDataModule(config, "segment", 5))
    assert seen == {dtype}


def test_one_process_says_where_the_volumes_are(config: DataConfig, capsys: pytest.CaptureFixture[str]) -> None:
    for rank, lines in ((0, 1), (1, 0)):
        on_rank(config, rank, 2).train_dataloader()
        assert capsys.readouterr().out.count("training volumes: 5 series") == lines


def test_scans_that_are_not_axial_are_thickened_from_the_grid(config: DataConfig) -> None:
    """Slices along x leave z as fine as the grid, however thick they are; the thickness told is the larger one."""
    data = build(config)
    series = [replace(p, slice_axis=0, slice_thickness_mm=9.0) for p in data.train_series]
    thick = replace(NOTHING, thickness_probability=1, thickness_range_mm=(6.0, 6.0))
    images: list[NDArray[np.float32]] = []
    for settings in (AugmentationConfig(enabled=False), thick):
        dataset = PatchDataset(series, replace(config, augmentation=settings), 0, labels=False)
        sample = dataset[0, 0]
        images.append(sample["image"].numpy())
        assert sample["slice_thickness_mm"] == 9.0
    assert not np.allclose(images[0], images[1])
