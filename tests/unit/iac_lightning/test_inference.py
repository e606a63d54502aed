from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from data_modules.config import DataConfig, GridConfig, SamplingConfig
from data_modules.prepare.common_grid import on_common_grid
from data_modules.scan.geometry import Grid
from data_modules.scan.scan import Scan
from iac_lightning.config.schema import ExperimentConfig, InferenceConfig, LossConfig
from iac_lightning.inference import predict_region, predict_scan


class Voxelwise(nn.Module):
    """Logit = 4 · value: what windows do must not show."""

    def forward(self, image: Tensor) -> Tensor:
        return 4 * image


class Lopsided(nn.Module):
    """Looks one voxel to the left, so that mirroring matters."""

    def forward(self, image: Tensor) -> Tensor:
        return 4 * image.roll(1, dims=2)


@pytest.mark.parametrize("shape", [(20, 13, 9), (8, 8, 8), (5, 9, 3)])
def test_windows_blend_to_what_the_whole_would_give(shape: tuple[int, int, int]) -> None:
    image = torch.randn(1, 1, *shape, generator=torch.Generator().manual_seed(0))
    found = predict_region(Voxelwise(), image, (8, 8, 8), InferenceConfig(overlap=0.5, window_batch=3))
    assert found.shape == shape
    torch.testing.assert_close(found, torch.sigmoid(4 * image)[0, 0])


def test_probabilities_not_logits_are_averaged_over_mirrored_copies() -> None:
    image = torch.randn(1, 1, 8, 8, 8, generator=torch.Generator().manual_seed(0))
    found = predict_region(Lopsided(), image, (8, 8, 8), InferenceConfig(mirror=True))
    left, right = torch.sigmoid(4 * image.roll(1, 2)), torch.sigmoid(4 * image.roll(-1, 2))
    torch.testing.assert_close(found, ((left + right) / 2)[0, 0])


def region(spacing: tuple[float, float, float], thickness: float) -> Scan:
    shape = tuple(round(24 / s) for s in spacing)
    hu = np.full(shape, 40, dtype=np.int16)
    hu[shape[0] // 2 :] = 600
    return Scan(hu=hu, grid=Grid(shape, np.diag([*spacing, 1.0])), slice_thickness_mm=thickness)


def config(restrict_hu: float | None = None) -> ExperimentConfig:
    data = DataConfig(
        grid=GridConfig(spacing_mm=(1.0, 1.0, 2.0), roi_mm=(24, 24, 24)),
        sampling=SamplingConfig(crop=(8, 8, 4)),
        window_hu=(0.0, 800.0),
    )
    return ExperimentConfig(name="test", data=data, loss=LossConfig(restrict_hu=restrict_hu))


def test_probabilities_come_back_on_the_native_grid() -> None:
    scan = region((0.5, 0.5, 4.0), 4.0)
    model = Voxelwise().train()
    found = predict_scan(model, scan, scan, config(), torch.device("cpu"))
    assert found.grid.same_as(scan.grid)
    assert model.training
    low, high = 1 / (1 + np.exp(-4 * (40 / 400 - 1))), 1 / (1 + np.exp(-4 * (600 / 400 - 1)))
    assert found.data[:20] == pytest.approx(low, abs=1e-4)
    assert found.data[-20:] == pytest.approx(high, abs=1e-4)


def test_a_restricted_objective_knows_nothing_of_dark_voxels() -> None:
    scan = region((0.5, 0.5, 4.0), 4.0)
    free = predict_scan(Voxelwise(), scan, scan, config(), torch.device("cpu"))
    restricted = predict_scan(Voxelwise(), scan, scan, config(restrict_hu=100.0), torch.device("cpu"))
    assert (free.data > 0).all()
    assert (restricted.data[scan.hu < 100] == 0).all()
    np.testing.assert_array_equal(restricted.data[scan.hu >= 100], free.data[scan.hu >= 100])


def test_the_common_grid_averages_what_is_finer() -> None:
    scan = region((0.5, 0.5, 1.0), 1.0)
    hu = scan.hu.copy()
    hu[::2] = 0
    hu[1::2] = 100
    scan = Scan(hu=hu, grid=scan.grid, slice_thickness_mm=1.0)
    common = on_common_grid(scan, scan, config().data.grid)
    assert common.grid.spacing_mm == pytest.approx((1.0, 1.0, 2.0))
    assert common.data == pytest.approx(50, abs=1e-3)
