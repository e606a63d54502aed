from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from data_modules.config import DataConfig, GridConfig, SamplingConfig
from data_modules.prepare.common_grid import on_common_grid
from data_modules.scan.geometry import Grid
from data_modules.scan.scan import Scan
from iac_lightning import inference
from iac_lightning.config.schema import ExperimentConfig, InferenceConfig, LossConfig
from iac_lightning.inference import predict_prepared, predict_regions, predict_scan, regions_at_once


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
    (found,) = predict_regions(Voxelwise(), image, (8, 8, 8), InferenceConfig(overlap=0.5, window_batch=3))
    assert found.shape == shape
    torch.testing.assert_close(found, torch.sigmoid(4 * image)[0, 0])


def test_probabilities_not_logits_are_averaged_over_mirrored_copies() -> None:
    image = torch.randn(1, 1, 8, 8, 8, generator=torch.Generator().manual_seed(0))
    (found,) = predict_regions(Lopsided(), image, (8, 8, 8), InferenceConfig(mirror=True))
    left, right = torch.sigmoid(4 * image.roll(1, 2)), torch.sigmoid(4 * image.roll(-1, 2))
    torch.testing.assert_close(found, ((left + right) / 2)[0, 0])


def test_regions_together_are_what_they_are_alone() -> None:
    """Windows of several regions share a batch; each window goes back to its own region."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv3d(1, 4, 3, padding=1), nn.GELU(), nn.Conv3d(4, 1, 3, padding=1))
    images, settings = torch.randn(5, 1, 20, 13, 9), InferenceConfig(overlap=0.5, window_batch=3, mirror=True)
    sizes: list[int] = []
    network.register_forward_hook(lambda module, given, result: sizes.append(len(given[0])))
    together = predict_regions(network, images, (8, 8, 8), settings)
    assert max(sizes) == 15
    alone = torch.cat([predict_regions(network, image[None], (8, 8, 8), settings) for image in images])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-6)
    assert (together[0] - together[1]).abs().max() > 0.01


def test_a_gpu_takes_as_many_regions_as_the_windows_allow() -> None:
    settings = config()
    settings.data.sampling.crop = (48, 48, 32)
    assert regions_at_once(settings, torch.device("cuda")) == 14
    settings.data.sampling.crop = (160, 160, 160)
    assert regions_at_once(settings, torch.device("cuda")) == 1
    assert regions_at_once(settings, torch.device("cpu")) == 1


def test_series_come_in_order_whatever_the_number_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    grid = Grid((8, 8, 4), np.eye(4))
    images = rng.integers(0, 800, (5, 8, 8, 4))
    series = [SimpleNamespace(hu=lambda hu=hu: hu, grid=grid) for hu in images]
    found = {}
    for n in (1, 2, 5):
        monkeypatch.setattr(inference, "regions_at_once", lambda config, device, n=n: n)
        found[n] = [v.data for v in predict_prepared(Voxelwise(), series, config(), torch.device("cpu"))]  # type: ignore[arg-type]
    expected = 1 / (1 + np.exp(-4 * (images / 400 - 1)))
    for n in found:
        np.testing.assert_allclose(found[n], expected, rtol=1e-4)


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


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_a_network_gets_its_own_numbers(dtype: torch.dtype) -> None:
    """As while a training with `trainer.precision=bf16-true` validates."""
    torch.manual_seed(0)
    network, scan = nn.Conv3d(1, 1, 1), region((0.5, 0.5, 4.0), 4.0)
    expected = predict_scan(network, scan, scan, config(), torch.device("cpu"))
    found = predict_scan(network.to(dtype), scan, scan, config(), torch.device("cpu"))
    assert found.data.dtype == np.float32
    np.testing.assert_allclose(found.data, expected.data, atol=0.01)


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
