from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from data_modules.batches.condition import Acquisition, condition_values, n_condition_values, position_mm
from data_modules.batches.patches import DevCrops, PatchDataset
from data_modules.batches.plan import PatchPlanner
from data_modules.config import AugmentationConfig, DataConfig, GridConfig, SamplingConfig
from tests.unit.data_modules.batches.conftest import CROP, NOTHING, SHAPE, SPACING, assert_same, build, joined
from tests.unit.data_modules.batches.test_plan import prepared, voxels

EVERYTHING = ("position", "slice_thickness", "spacing")


def test_a_position_by_hand() -> None:
    """Voxels 0 to 9 of 20 have their middle at 4.5, those of the region at 9.5: 5 voxels of 0.8 mm to the left."""
    found = position_mm([[0, 10, 5], [5, 5, -1]], (10, 10, 4), (20, 30, 12), (0.8, 1.0, 2.0))
    np.testing.assert_allclose(found, [[-4, 0, 2], [0, -5, -10]], atol=1e-12)


def test_columns_come_in_the_order_of_the_setting() -> None:
    place, scan = np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]), np.array([[0.5, 0.6, 5.0], [0.7, 0.8, 1.0]])
    found = condition_values(EVERYTHING, place, np.array([5.0, 1.5]), scan)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, [[1, 2, 3, 5, 0.5, 0.6, 5], [4, 5, 6, 1.5, 0.7, 0.8, 1]], rtol=1e-6)
    turned = condition_values(("slice_thickness", "position"), place, 2.5, scan)
    assert turned.tolist() == [[2.5, 1, 2, 3], [2.5, 4, 5, 6]]
    assert condition_values((), place, 1.0, scan).shape == (2, 0)
    assert [n_condition_values(words) for words in ((), ("position",), EVERYTHING)] == [0, 3, 7]


@pytest.mark.parametrize(("slice_axis", "told_mm"), [(2, 1.0), (0, 1.6), (1, 1.6)])
def test_slices_that_are_not_stacked_along_z_are_as_thick_as_the_grid(slice_axis: int, told_mm: float) -> None:
    assert Acquisition(1.0, slice_axis, (1.0, 1.0, 1.0)).told_thickness_mm(1.6) == told_mm
    assert Acquisition(5.0, slice_axis, (1.0, 1.0, 5.0)).told_thickness_mm(1.6) == 5.0


class TestPlan:
    def plan(self, tmp_path: Path, augmentation: AugmentationConfig, n: int = 64) -> Any:
        series = [prepared("p", "s", voxels(1, (15, 12, 10)), tmp_path)]
        config = DataConfig(
            sampling=SamplingConfig(crop=(8, 7, 6)),
            grid=GridConfig(spacing_mm=(0.8, 0.8, 1.6)),
            augmentation=augmentation,
        )
        return PatchPlanner(series, config, 0, labels=True)(0, range(n))

    def test_the_middle_of_the_patch_from_that_of_the_region(self, tmp_path: Path) -> None:
        """A region of 30 × 24 × 20 voxels has its middle at 14.5, 11.5, 9.5, a patch at its corner + 3.5, 3, 2.5."""
        plan = self.plan(tmp_path, NOTHING)
        expected = (plan.corner - np.array([11, 8.5, 7])) * (0.8, 0.8, 1.6)
        np.testing.assert_allclose(plan.position_mm, expected, atol=1e-9)
        assert len(np.unique(plan.position_mm, axis=0)) > 32

    def test_it_is_mirrored_with_the_patch_and_nothing_else_moves_it(self, tmp_path: Path) -> None:
        (tmp_path / "a").mkdir()
        (tmp_path / "b").mkdir()
        still = self.plan(tmp_path / "a", NOTHING)
        moved = self.plan(tmp_path / "b", replace(NOTHING, flip_probability=0.5, affine_probability=1))
        assert moved.affine.all()
        assert 0 < moved.flip.sum() < len(moved)
        sides = np.where(moved.flip, -1, 1)
        np.testing.assert_array_equal(moved.position_mm[:, 0], still.position_mm[:, 0] * sides)
        np.testing.assert_array_equal(moved.position_mm[:, 1:], still.position_mm[:, 1:])

    def test_slices_that_were_made_are_told(self, tmp_path: Path) -> None:
        plan = self.plan(tmp_path, replace(NOTHING, thickness_probability=0.5, thickness_range_mm=(3.0, 6.0)))
        made = ~np.isnan(plan.thicker_mm)
        assert 0 < made.sum() < len(plan)
        np.testing.assert_allclose(plan.slice_thickness_mm[made], plan.thicker_mm[made], rtol=1e-6)
        np.testing.assert_array_equal(plan.spacing_mm[made, 2], plan.thicker_mm[made])
        assert (plan.slice_thickness_mm[~made] == 1).all()
        assert (plan.spacing_mm[~made] == 1).all()
        assert (plan.spacing_mm[:, :2] == 1).all()


def batches(config: DataConfig, place: str = "disk", device: str = "cpu", **settings: Any) -> dict[str, Tensor]:
    series = build(config).train_series
    dataset = PatchDataset(
        series, config, 5, labels=True, place=place, device=torch.device(device), condition_on=EVERYTHING, **settings
    )
    return dict(dataset.__getitems__([(2, index) for index in range(12)]))


class TestBatches:
    def test_a_crop_by_hand(self, config: DataConfig) -> None:
        """The region is the scan, of 20 × 18 × 14 voxels of 1 × 1 × 2 mm, with slices of 3 mm."""
        data = build(replace(config, augmentation=NOTHING), condition_on=EVERYTHING)
        dataset = data.train_dataloader().dataset
        assert isinstance(dataset, PatchDataset)
        sample, (corner,) = dataset[0, 7], dataset.plan(0, [7]).corner
        middle = np.multiply((corner + np.array(CROP) / 2) - np.array(SHAPE) / 2, SPACING)
        np.testing.assert_allclose(sample["condition"], [*middle, 3.0, *SPACING], rtol=1e-6)

    def test_both_engines_and_all_residencies_tell_the_same(self, config: DataConfig) -> None:
        expected = batches(config)["condition"]
        assert expected.shape == (12, 7)
        assert expected.dtype == torch.float32
        assert expected[:, 3].max() > 3
        torchio = replace(config, augmentation=replace(config.augmentation, engine="torchio"))
        assert torch.equal(batches(torchio)["condition"], expected)
        assert torch.equal(batches(config, "host")["condition"], expected)
        planned = PatchDataset(
            build(config).train_series, config, 5, labels=True, place="device", condition_on=EVERYTHING
        )
        made = planned.finish(planned.__getitems__([(2, index) for index in range(12)]), torch.device("cpu"))
        assert torch.equal(made["condition"], expected)

    def test_who_is_told_nothing_gets_the_batches_of_before(self, config: DataConfig) -> None:
        told = joined(build(config, condition_on=("position",)).train_dataloader())
        assert told.pop("condition").shape == (24, 3)
        assert_same(told, joined(build(config).train_dataloader()))

    def test_loader_processes_tell_the_same(self, config: DataConfig) -> None:
        alone, helped = (
            joined(build(replace(config, num_workers=n), condition_on=EVERYTHING).train_dataloader()) for n in (0, 2)
        )
        assert torch.equal(alone["condition"], helped["condition"])


def test_development_crops_by_hand(config: DataConfig) -> None:
    """A crop as large as the region lies in its middle; of others the place in the image tells."""
    series = build(config).dev_series
    whole = replace(config, sampling=replace(config.sampling, crop=SHAPE))
    assert DevCrops(series, whole, 0, 1, EVERYTHING)[0]["condition"].tolist() == [0, 0, 0, 3, *SPACING]
    crops = DevCrops(series, config, 0, 4, ("position",))
    hu = (np.clip(np.asarray(series[0].hu(), dtype=float), -200, 1000) - 400) / 600
    for index in (0, 2, 4):
        sample = crops[index]
        corner = np.round(sample["condition"].numpy() / SPACING + np.array(SHAPE) / 2 - np.array(CROP) / 2).astype(int)
        x, y, z = corner
        box = hu[x : x + CROP[0], y : y + CROP[1], z : z + CROP[2]]
        np.testing.assert_allclose(sample["image"][0], box, atol=1e-5)
    assert "condition" not in DevCrops(series, config, 0, 4)[0]


def test_pretraining_is_told_too(config: DataConfig) -> None:
    data = build(config, "pretrain", condition_on=("position", "slice_thickness"))
    assert next(iter(data.train_dataloader()))["condition"].shape == (4, 4)
    assert next(iter(data.val_dataloader()))["condition"].shape == (4, 4)
