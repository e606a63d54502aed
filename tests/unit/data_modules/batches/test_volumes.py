from __future__ import annotations

import pickle
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from data_modules.batches import volumes
from data_modules.batches.patches import PatchDataset, PlannedBatch
from data_modules.batches.plan import PatchPlan, PatchPlanner
from data_modules.batches.residency import DEVICE, DISK, HOST
from data_modules.batches.volumes import DeviceVolumes, HostVolumes, Patches, cut, volume_bytes
from data_modules.config import DataConfig
from data_modules.prepare.store import PreparedSeries
from tests.unit.data_modules.batches.conftest import CROP, assert_same, build

CPU = torch.device("cpu")
NAMES = ("hu", "occupancy", "peak_hu")
HUGE = (26, 24, 20)  # larger than the volumes


def plans(series: tuple[PreparedSeries, ...], config: DataConfig) -> Iterator[PatchPlan]:
    planner = PatchPlanner(series, config, 3, labels=True)
    for epoch in range(3):
        yield planner(epoch, range(16))


def by_hand(series: tuple[PreparedSeries, ...], plan: PatchPlan, crop: tuple[int, int, int]) -> dict[str, np.ndarray]:
    """Patches as numpy cuts them from volumes with a wide border."""
    rows: dict[str, list[np.ndarray]] = {name: [] for name in NAMES}
    for index, corner, flip in zip(plan.series, plan.corner + 40, plan.flip, strict=True):
        box = tuple(slice(c, c + n) for c, n in zip(corner, crop, strict=True))
        for name, fill in (("hu", -1024), ("occupancy", 0), ("peak_hu", -1024)):
            patch = np.pad(np.asarray(getattr(series[index], name)()), 40, constant_values=fill)[box]
            rows[name].append(patch[::-1] if flip else patch)
    return {name: np.stack(patches)[:, None] for name, patches in rows.items()}


class Recording(np.ndarray[Any, Any]):
    """Notes what is read."""

    def __getitem__(self, key: Any) -> Any:
        RECORDED.append(key)
        return super().__getitem__(key)


RECORDED: list[tuple[slice, ...]] = []


class TestCut:
    VOLUME = np.random.default_rng(0).integers(-1000, 1000, (9, 8, 7)).astype(np.int16)

    def test_against_padding_the_whole_volume(self) -> None:
        padded = np.pad(self.VOLUME, 20, constant_values=-1024)
        rng = np.random.default_rng(8)
        for corner in rng.integers(-12, 12, (300, 3)).tolist():
            patch = np.full((5, 10, 7), 77, dtype=np.float32)
            cut(self.VOLUME, tuple(corner), patch, -1024)
            x, y, z = (c + 20 for c in corner)
            np.testing.assert_array_equal(patch, padded[x : x + 5, y : y + 10, z : z + 7])

    @pytest.mark.parametrize("kind", [np.uint8, np.int16, np.float16])
    def test_a_patch_of_any_type_that_holds_the_values(self, kind: type) -> None:
        patch = np.full((2, 2, 2), 77, dtype=kind)
        cut(np.full((3, 3, 3), 5, dtype=np.float32), (-1, 0, 0), patch, 9)
        assert patch.tolist() == [[[9, 9], [9, 9]], [[5, 5], [5, 5]]]

    def test_reads_nothing_but_the_patch(self) -> None:
        RECORDED.clear()
        cut(self.VOLUME.view(Recording), (-2, 3, 6), np.empty((4, 4, 4), np.float32), 0)
        (only,) = RECORDED
        assert only == (slice(0, 2), slice(3, 7), slice(6, 7))


@pytest.mark.parametrize("crop", [CROP, HUGE])
def test_patches_are_those_of_the_volumes_wherever_they_are_kept(
    config: DataConfig, crop: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    series = build(config).train_series
    config = replace(config, sampling=replace(config.sampling, crop=crop))
    in_memory, mapped = (HostVolumes(series, labels=True, peak=True, in_memory=place) for place in (True, False))
    gathered = DeviceVolumes(series, labels=True, peak=True, device=CPU)
    outside = flipped = labelled = 0
    for plan in plans(series, config):
        expected = by_hand(series, plan, crop)
        cuts = [in_memory.cut(plan, crop, small=True), mapped.cut(plan, crop, small=True), gathered.cut(plan, crop)]
        monkeypatch.setattr(volumes, "_GATHERED", 3 * np.prod(crop))  # in several parts
        cuts.append(gathered.cut(plan, crop))
        monkeypatch.undo()
        for patches in cuts:
            for name in NAMES:
                found = getattr(patches, name)
                assert found.dtype == (torch.uint8 if name == "occupancy" else torch.int16)
                np.testing.assert_array_equal(found.numpy(), expected[name])
        outside += (expected["hu"] == -1024).any()
        flipped += plan.flip.sum()
        labelled += expected["occupancy"].any(axis=(1, 2, 3, 4)).sum()
    assert outside
    assert 0 < flipped < 48
    assert labelled > 16


def test_labelled_voxels_are_told(config: DataConfig) -> None:
    series = build(config).train_series
    kept = HostVolumes(series, labels=True, peak=False, in_memory=True)
    for plan in plans(series, config):
        patches = kept.cut(plan, CROP)
        assert patches.occupancy is not None
        assert patches.labelled is not None
        assert patches.peak_hu is None
        assert sorted(patches.labelled.tolist()) == torch.nonzero(patches.occupancy.view(-1))[:, 0].tolist()
        eight_bits = kept.cut(plan, CROP, small=True).occupancy
        assert eight_bits is not None
        torch.testing.assert_close(patches.occupancy, eight_bits / 255, rtol=0, atol=0)


def test_without_labels_none_is_opened(config: DataConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    series = build(config, "pretrain").train_series
    monkeypatch.setattr(PreparedSeries, "occupancy", lambda self: pytest.fail("opened"))
    plan = PatchPlanner(series, config, 0, labels=False)(0, range(4))
    for patches in (
        HostVolumes(series, labels=False, peak=False, in_memory=True).cut(plan, CROP),
        DeviceVolumes(series, labels=False, peak=False, device=CPU).cut(plan, CROP),
    ):
        assert (patches.occupancy, patches.peak_hu, patches.labelled) == (None, None, None)


def test_memory_by_hand(config: DataConfig) -> None:
    series = build(config).train_series  # 5 of 20 × 18 × 14
    voxels, labelled = 5 * 20 * 18 * 14, sum(len(s.components) for s in series)
    assert volume_bytes(series, labels=False, peak=False) == {DEVICE: 2 * voxels, HOST: 2 * voxels}
    with_all = volume_bytes(series, labels=True, peak=True)
    assert with_all == {DEVICE: 5 * voxels, HOST: 4 * voxels + 25 * labelled}
    assert labelled > 0


def test_flat_tensors_longer_than_32_bits_are_indexed_with_64(config: DataConfig) -> None:
    series = build(config).train_series
    gathered = DeviceVolumes(series, labels=True, peak=True, device=CPU)
    assert gathered._index == torch.int32
    plan = next(plans(series, config))
    small = gathered.cut(plan, CROP)
    gathered._index = torch.int64
    assert_patches_same(gathered.cut(plan, CROP), small)
    long = [replace(s, grid=replace(s.grid, shape=(2**12, 2**12, 2**7))) for s in series]
    assert np.prod([s.grid.shape for s in long], axis=1).sum() >= 2**31
    monkey = DeviceVolumes.__new__(DeviceVolumes)
    monkey._flat = lambda *_: torch.empty(0)  # type: ignore[method-assign]
    DeviceVolumes.__init__(monkey, long, labels=False, peak=False, device=CPU)
    assert monkey._index == torch.int64


def assert_patches_same(a: Patches, b: Patches) -> None:
    for name in NAMES:
        assert torch.equal(getattr(a, name), getattr(b, name)), name


def dataset(config: DataConfig, place: str, device: torch.device = CPU, **settings: Any) -> PatchDataset:
    series = build(config).train_series
    return PatchDataset(series, config, 5, labels=True, restrict_hu=100.0, place=place, device=device, **settings)


@pytest.mark.parametrize("native", [False, True])
def test_a_batch_is_the_same_wherever_volumes_are_kept_and_it_is_made(config: DataConfig, native: bool) -> None:
    keys = [(1, index) for index in range(12)]
    expected = dataset(config, DISK, native=native).__getitems__(keys)
    assert_same(dataset(config, HOST, native=native).__getitems__(keys), expected)
    gpu = torch.device("cuda")  # batches are planned for it, and made here
    for place, device in ((DEVICE, CPU), (HOST, gpu), (DISK, gpu)):
        planned_by = dataset(config, place, device, native=native)
        planned = planned_by.__getitems__(keys)
        assert isinstance(planned, PlannedBatch)
        assert (planned.patches is None) == (place == DEVICE)
        assert_same(planned_by.finish(pickle.loads(pickle.dumps(planned)), CPU), expected)


def test_the_loss_may_count_where_a_native_voxel_is_bright(config: DataConfig) -> None:
    """Coarser than the scan, an average hides what the brightest voxel shows."""
    coarse = replace(config, grid=replace(config.grid, spacing_mm=(2.0, 2.0, 4.0)))
    keys = [(0, index) for index in range(8)]
    series = build(coarse).train_series
    common, native = (
        PatchDataset(series, coarse, 5, labels=True, restrict_hu=60.0, native=native).__getitems__(keys)
        for native in (False, True)
    )
    assert (native["loss_region"] | ~common["loss_region"]).float().mean() > 0.99
    assert native["loss_region"].sum() > 2 * common["loss_region"].sum()
    assert torch.equal(native["image"], common["image"])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("place", [DEVICE, HOST])
def test_a_gpu_makes_a_batch_without_the_host_waiting(config: DataConfig, place: str) -> None:
    device = torch.device("cuda", torch.cuda.current_device())
    keys = [(1, index) for index in range(12)]
    expected = dataset(config, DISK).__getitems__(keys)
    planned_by = dataset(config, place, device)
    planned = planned_by.__getitems__(keys).pin_memory()
    planned_by.finish(planned, device)  # kernels are compiled
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        batch = planned_by.finish(planned, device)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for name, values in expected.items():
        assert batch[name].device == device
        if name != "loss_region":  # a voxel at the threshold may fall to either side
            torch.testing.assert_close(batch[name].cpu(), values, rtol=1e-4, atol=1e-4)
