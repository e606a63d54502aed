from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from data_modules.batches import ct_data_module
from data_modules.batches.ct_data_module import DEV_CROPS
from data_modules.batches.patches import DevCrops, normalise
from data_modules.config import AugmentationConfig, DataConfig
from data_modules.errors import UserError
from data_modules.prepare.store import PreparedStore, open_store
from tests.unit.data_modules.batches.conftest import (
    CROP,
    ROWS,
    assert_same,
    build,
    changed_table,
    joined,
    on_rank,
)


class TestValidation:
    def test_segmentation_gives_each_series_once(self, config: DataConfig) -> None:
        data = build(config)
        assert [b["series_index"].tolist() for b in data.val_dataloader()] == [[0], [1]]
        assert [p.series.series_id for p in data.dev_series] == ["s5", "s6"]
        shares = [[int(b["series_index"]) for b in on_rank(config, rank, 2).val_dataloader()] for rank in range(2)]
        assert shares == [[0], [1]]
        on_gpu = on_rank(config, 0, 1)
        on_gpu.trainer.strategy.root_device = torch.device("cuda:0")  # type: ignore[union-attr]
        assert [b["series_index"].tolist() for b in on_gpu.val_dataloader()] == [[0, 1]], "a GPU takes many at once"

    def test_pretraining_gives_fixed_crops_without_labels(self, config: DataConfig) -> None:
        first = joined(build(config, "pretrain").val_dataloader())
        loader = build(config, "pretrain").val_dataloader()
        assert set(first) == {"image", "slice_thickness_mm", "series_index", "sample_index"}
        assert first["sample_index"].tolist() == list(range(2 * DEV_CROPS))
        assert sorted(first["series_index"].tolist()) == [0] * DEV_CROPS + [1] * DEV_CROPS
        for _ in range(2):
            assert_same(joined(loader), first)
        other = joined(build(config, "pretrain", seed=6).val_dataloader())
        assert not torch.equal(other["image"], first["image"])

    def test_a_dev_crop_is_cut_from_its_series(self, config: DataConfig) -> None:
        data = build(config, "pretrain")
        batch = joined(data.val_dataloader())
        for image, index in zip(batch["image"], batch["series_index"].tolist(), strict=True):
            volume = normalise(np.asarray(data.dev_series[index].hu()), config.window_hu)
            windows = np.lib.stride_tricks.sliding_window_view(volume, CROP)
            assert (np.abs(windows - image[0].numpy()).max(axis=(3, 4, 5)) < 1e-6).sum() == 1

    def test_the_label_of_a_dev_crop_is_cut_where_its_image_is(self, config: DataConfig) -> None:
        data = build(config, "pretrain")
        crops = DevCrops(data.dev_series, data.config, data.seed, DEV_CROPS)
        labelled = 0
        for k in range(len(crops)):
            series = data.dev_series[k % len(data.dev_series)]
            volume = normalise(np.asarray(series.hu()), config.window_hu)
            windows = np.lib.stride_tricks.sliding_window_view(volume, CROP)
            (corner,) = np.argwhere(np.abs(windows - crops[k]["image"][0].numpy()).max(axis=(3, 4, 5)) < 1e-6)
            whole = series.occupancy()
            assert whole is not None
            part = tuple(slice(c, c + n) for c, n in zip(corner, CROP, strict=True))
            assert np.array_equal(crops.occupancy(k), whole[part])
            labelled += int(crops.occupancy(k).any())
        assert labelled > 0

    def test_devices_share_the_crops(self, config: DataConfig) -> None:
        whole = joined(build(config, "pretrain").val_dataloader())
        parts = [joined(on_rank(config, rank, 3, "pretrain").val_dataloader()) for rank in range(3)]
        assert sorted(i for part in parts for i in part["sample_index"].tolist()) == list(range(8))
        assert_same(parts[1], {name: values[1::3] for name, values in whole.items()})

    def test_more_devices_than_series(self, config: DataConfig) -> None:
        with pytest.raises(UserError, match="2 development items for 3 devices"):
            on_rank(config, 0, 3).val_dataloader()


class TestAugmentation:
    def test_pretraining_moves_patches_and_changes_no_hu(self, config: DataConfig) -> None:
        names = ("thickness", "noise", "blur", "intensity", "gamma", "window")
        still = {"flip_probability": 0.0, "affine_probability": 0.0}
        often = AugmentationConfig(**still, **{f"{name}_probability": 1.0 for name in names})  # type: ignore[arg-type]

        def images(augmentation: AugmentationConfig, task: str = "pretrain") -> torch.Tensor:
            return joined(build(replace(config, augmentation=augmentation), task).train_dataloader())["image"]

        unchanged = images(AugmentationConfig(enabled=False))
        assert torch.equal(images(often), unchanged)
        assert not torch.equal(images(replace(often, pretraining="all")), unchanged)
        assert not torch.equal(images(replace(often, flip_probability=1.0)), unchanged)
        assert not torch.equal(images(often, "segment"), images(AugmentationConfig(enabled=False), "segment"))


class TestPatients:
    def test_each_task_trains_on_its_splits(self, config: DataConfig) -> None:
        assert build(config).trained_patients == ("p0", "p1", "p2", "p3")
        assert build(config, "pretrain").trained_patients == ("p0", "p1", "p2", "p3", "p6")

    def test_the_test_split_is_not_even_prepared(self, config: DataConfig, tmp_path: Path) -> None:
        fresh = replace(config, prepared_dir=str(tmp_path))
        assert {p.series.split for p in build(fresh).store.series} == {"finetune", "dev"}
        assert not list(tmp_path.rglob("s8"))

    @pytest.fixture(autouse=True)
    def _whatever_is_labelled(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A share of so few patients may have no lesion, which is refused elsewhere."""
        monkeypatch.setattr(ct_data_module, "_check_lesions", lambda *_: None)

    def test_labelled_fractions_are_nested_and_by_patient(self, config: DataConfig) -> None:
        for seed in range(6):
            fractions = [replace(config, labelled_fraction=f) for f in (0.01, 0.25, 0.5, 0.75, 1.0)]
            chosen = [set(build(c, seed=seed).trained_patients) for c in fractions]
            assert [len(patients) for patients in chosen] == [1, 1, 2, 3, 4]
            assert all(small <= large for small, large in pairwise(chosen))
        quarters = {build(replace(config, labelled_fraction=0.25), seed=seed).trained_patients for seed in range(12)}
        assert len(quarters) > 2

    def test_a_patients_series_stay_together(self, config: DataConfig) -> None:
        for seed in range(6):
            data = build(replace(config, labelled_fraction=0.5), seed=seed)
            assert len(data.train_series) == len(data.trained_patients) + ("p0" in data.trained_patients)

    def test_pretraining_uses_all_images_whatever_is_labelled(self, config: DataConfig) -> None:
        assert len(build(replace(config, labelled_fraction=0.25), "pretrain").trained_patients) == 5

    def test_fingerprint_and_cohort(self, config: DataConfig) -> None:
        data = build(config)
        assert data.fingerprint == open_store(config, ("finetune", "dev")).fingerprint
        assert data.cohort.patients("dev") == ("p4", "p5")


class TestGuard:
    def test_a_patient_in_two_splits(self, config: DataConfig, tmp_path: Path) -> None:
        leaking = changed_table(config, tmp_path, split={"s1": "dev"})
        with pytest.raises(UserError, match="patient 'p0' is in dev and finetune"):
            build(leaking)

    def test_development_series_offered_for_training(self, config: DataConfig, monkeypatch: pytest.MonkeyPatch) -> None:
        """Whatever the store may answer, series of the dev split are not trained on."""
        monkeypatch.setattr(PreparedStore, "split", lambda self, *names: self.series)
        with pytest.raises(UserError, match=r"2 training series come from other splits than finetune: s5 \(dev\)"):
            build(config)

    @pytest.mark.parametrize(
        ("task", "cells", "message"),
        [
            ("segment", {s: "dev" for _, s, split, _ in ROWS if split == "finetune"}, "no prepared series .* finetune"),
            ("segment", {"s5": "test", "s6": "test"}, "no prepared series in the split dev, which segment needs"),
            ("pretrain", {"s5": "test", "s6": "test"}, "no prepared series in the split dev, which pretrain needs"),
        ],
    )
    def test_a_split_without_series(
        self, config: DataConfig, tmp_path: Path, task: str, cells: dict[str, str], message: str
    ) -> None:
        with pytest.raises(UserError, match=message):
            build(changed_table(config, tmp_path, split=cells), task)

    def test_development_series_may_be_left_out_where_nothing_is_validated(
        self, config: DataConfig, tmp_path: Path
    ) -> None:
        data = build(changed_table(config, tmp_path, split={"s5": "test", "s6": "test"}), needs_dev=False)
        assert data.dev_series == ()
        assert len(list(data.train_dataloader())) == 6

    @pytest.mark.parametrize(
        ("splits", "told"),
        [
            (("dev",), "none of the 2 development series has a labelled voxel .* neither a best epoch nor a threshold"),
            (("finetune",), "none of the 5 training series has a labelled voxel .* nothing to learn"),
            (("finetune", "dev"), "none of the 5 training .*; none of the 2 development"),
        ],
    )
    def test_labels_without_a_lesion(
        self, config: DataConfig, tmp_path: Path, splits: tuple[str, ...], told: str
    ) -> None:
        empty = str(Path(config.cohort).parent / "s3_label.nii")
        labels = {series: empty for _, series, split, _ in ROWS if split in splits}
        changed = changed_table(config, tmp_path / "c", label=labels)
        with pytest.raises(UserError, match=told):
            build(changed)
        build(changed, "pretrain")  # looks at no label

    def test_a_label_that_fills_the_region(self, config: DataConfig, monkeypatch: pytest.MonkeyPatch) -> None:
        real = ct_data_module._labelled
        full = lambda s: real(s) | (s.series.series_id == "s3")  # noqa: E731
        monkeypatch.setattr(ct_data_module, "_labelled", full)
        with pytest.raises(UserError, match=r"the label of 1 series fills the whole region of interest, such as s3"):
            build(config)

    @pytest.mark.parametrize("series", ["s2", "s6"])
    def test_missing_labels(self, config: DataConfig, tmp_path: Path, series: str) -> None:
        with pytest.raises(UserError, match=f"1 series of the splits finetune and dev have no label, such as {series}"):
            build(changed_table(config, tmp_path, label={series: ""}))
