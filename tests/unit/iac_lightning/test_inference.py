from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from monai.data.utils import compute_importance_map
from torch import Tensor, nn

from data_modules.batches.condition import Acquisition
from data_modules.config import DataConfig, GridConfig, SamplingConfig
from data_modules.prepare.common_grid import on_common_grid
from data_modules.scan.geometry import Grid, Volume
from data_modules.scan.scan import Scan
from iac_lightning import inference
from iac_lightning.config.schema import ExperimentConfig, InferenceConfig, LossConfig
from iac_lightning.inference import (
    Told,
    predict_prepared,
    predict_regions,
    predict_scan,
    predict_volumes,
    regions_at_once,
)
from iac_lightning.models.ensemble import Ensemble


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
    made = {"slice_thickness_mm": 1.0, "slice_axis": 2, "native_grid": grid}
    series = [SimpleNamespace(hu=lambda hu=hu: hu, grid=grid, **made) for hu in images]
    found = {}
    for n in (1, 2, 5):
        monkeypatch.setattr(inference, "regions_at_once", lambda config, device, n=n: n)
        found[n] = [v.data for v in predict_prepared(Voxelwise(), series, config(), torch.device("cpu"))]  # type: ignore[arg-type]
    expected = 1 / (1 + np.exp(-4 * (images / 400 - 1)))
    for n in found:
        np.testing.assert_allclose(found[n], expected, rtol=1e-4)


class Repeats(nn.Module):
    """Says of every voxel what it is told, divided by 100."""

    def __init__(self, column: int) -> None:
        super().__init__()
        self.column = column

    def forward(self, image: Tensor, condition: Tensor) -> Tensor:
        return torch.zeros_like(image) + condition[:, self.column].view(-1, 1, 1, 1, 1) / 100


def told_of(*condition_on: str) -> Told:
    made = [Acquisition(5.0, 2, (0.4, 0.5, 4.0)), Acquisition(1.0, 0, (0.6, 0.7, 2.0))]
    return Told(condition_on, made, (1.0, 2.0, 3.0))


def logits(probability: Tensor) -> Tensor:
    return 100 * torch.logit(probability)


class TestTold:
    """Windows of 4 × 4 × 4 in regions of voxels of 1 × 2 × 3 mm."""

    @pytest.mark.parametrize("mirror", [False, True])
    def test_each_window_its_own_place(self, mirror: bool) -> None:
        """8 voxels hold two windows along x, whose middles are 2 mm left and right of the region's."""
        images, settings = torch.zeros(2, 1, 8, 4, 4), InferenceConfig(overlap=0.0, mirror=mirror, window_batch=3)
        found = logits(predict_regions(Repeats(0), images, (4, 4, 4), settings, told_of("position")))
        left, right = (-2.0, 2.0) if not mirror else (0.0, 0.0)  # the mirror image lies on the other side
        torch.testing.assert_close(found[:, :4], torch.full((2, 4, 4, 4), left), atol=1e-3, rtol=0)
        torch.testing.assert_close(found[:, 4:], torch.full((2, 4, 4, 4), right), atol=1e-3, rtol=0)

    def test_windows_that_overlap_are_blended(self) -> None:
        """Along z at voxels 0–3, 2–5 and 4–7, 6 mm apart; where two overlap, between them by their Gaussian weights."""
        images = torch.zeros(1, 1, 4, 4, 8)
        found = predict_regions(Repeats(2), images, (4, 4, 4), InferenceConfig(overlap=0.5), told_of("position"))
        weight = compute_importance_map((4, 4, 4), mode="gaussian", sigma_scale=0.125)[1, 1]
        total, share = torch.zeros(8), torch.zeros(8)
        for start, place_mm in ((0, -6.0), (2, 0.0), (4, 6.0)):
            share[start : start + 4] += weight
            total[start : start + 4] += weight * torch.sigmoid(torch.tensor(place_mm / 100))
        torch.testing.assert_close(found[0, 1, 1], total / share)

    def test_a_region_that_is_smaller_than_a_window_is_padded_around_its_middle(self) -> None:
        """A region of 3 of 6 voxels: padded as in training, one voxel before it and two behind."""
        images = torch.zeros(1, 1, 4, 3, 4)
        found = predict_regions(Repeats(1), images, (4, 6, 4), InferenceConfig(), told_of("position"))
        torch.testing.assert_close(logits(found), torch.full((1, 4, 3, 4), 1.0), atol=1e-3, rtol=0)

    def test_each_region_its_own_scan(self) -> None:
        images, everything = torch.zeros(2, 1, 8, 4, 4), told_of("slice_thickness", "spacing")
        expected = [(5.0, 0.4, 0.5, 4.0), (3.0, 0.6, 0.7, 2.0)]  # of sagittal slices: the grid's 3 mm
        for column in range(4):
            found = logits(predict_regions(Repeats(column), images, (4, 4, 4), InferenceConfig(), everything))
            for k in range(2):
                assert found[k].numpy() == pytest.approx(expected[k][column], abs=1e-3)

    def test_a_scan_and_its_prepared_series_are_told_alike(self) -> None:
        scan, settings = region((0.5, 0.5, 4.0), 5.0), config()
        settings.model.condition_on = ("slice_thickness", "spacing")
        item = SimpleNamespace(
            hu=lambda: np.zeros((24, 24, 12)), grid=Grid((24, 24, 12), np.diag([1.0, 1.0, 2.0, 1.0])),
            slice_thickness_mm=5.0, slice_axis=2, native_grid=scan.grid,
        )  # fmt: skip
        for column, value in enumerate((5.0, 0.5, 0.5, 4.0)):
            expected = 1 / (1 + np.exp(-value / 100))
            of_scan = predict_scan(Repeats(column), scan, scan, settings, torch.device("cpu"))
            (of_series,) = predict_prepared(Repeats(column), [item], settings, torch.device("cpu"))  # type: ignore[list-item]
            assert of_scan.data == pytest.approx(expected, abs=1e-5)
            assert of_series.data == pytest.approx(expected, abs=1e-5)


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


class Constant(nn.Module):
    """The same logit everywhere."""

    def __init__(self, logit: float) -> None:
        super().__init__()
        self.logit = logit

    def forward(self, image: Tensor, *condition: Tensor) -> Tensor:
        return torch.full_like(image, self.logit)


def test_an_ensemble_averages_probabilities_of_members_with_settings_of_their_own() -> None:
    """0.5 of one, 0.9 of one (logit ln 9), and of one that sees 500 HU as 1 and −200 HU as −1: σ(±4)."""
    volume = Volume(np.array([[[-200, 500]]], np.int16).repeat(6, 0).repeat(5, 1), Grid((6, 5, 2), np.eye(4)))
    configs = [
        ExperimentConfig(name=name, data=DataConfig(window_hu=window, sampling=SamplingConfig(crop=crop)))
        for name, window, crop in (
            ("half", (-200.0, 1000.0), (4, 4, 2)),
            ("nine", (-200.0, 1000.0), (6, 4, 2)),
            ("seen", (-200.0, 500.0), (4, 5, 2)),
        )
    ]
    ensemble = Ensemble([Constant(0), Constant(np.log(9)), Voxelwise()], configs)
    shared = ExperimentConfig(name="all", inference=InferenceConfig(mirror=True))
    made = [Acquisition(1.0, 2, (1.0, 1.0, 1.0))]
    (found,) = predict_volumes(ensemble, [volume], made, shared, torch.device("cpu"))
    dark, bright = 1 / (1 + np.exp(4)), 1 / (1 + np.exp(-4))
    np.testing.assert_allclose(found.data[..., 0], (0.5 + 0.9 + dark) / 3, rtol=1e-6)
    np.testing.assert_allclose(found.data[..., 1], (0.5 + 0.9 + bright) / 3, rtol=1e-6)
    (two,) = predict_volumes(ensemble.of([0, 1]), [volume], made, shared, torch.device("cpu"))
    np.testing.assert_allclose(two.data, 0.7, rtol=1e-6)
