from __future__ import annotations

import pickle
import random
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchio as tio

from data_modules.batches.extra import read_transform, seeded
from data_modules.batches.patches import PatchDataset, PlannedBatch
from data_modules.config import AugmentationConfig, DataConfig
from data_modules.errors import UserError
from tests.unit.data_modules.batches.conftest import NOTHING, assert_same, build, joined, on_rank

BIAS = "torchio.RandomBiasField(coefficients=0.8, p=0.5)"
MODULE = """
import random
import numpy as np
import torch
import torchio as tio

class Metal(tio.Transform):
    '''Draws from every global generator.'''
    def __init__(self, hu=3000.0, **more):
        super().__init__(**more)
        self.hu = hu
        self.args_names = ()
    def apply_transform(self, subject):
        draws = torch.rand(1).item() + np.random.rand() + random.random()
        subject["image"].data[0, 0, 0, 0] = self.hu + draws
        return subject

class Fails(tio.Transform):
    def apply_transform(self, subject):
        raise RuntimeError("no metal here")

def not_a_class():
    raise AssertionError("called")
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A package of a user's own."""
    (tmp_path / "own_transforms.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "own_transforms", raising=False)
    return "own_transforms"


class TestReading:
    def test_arguments_by_name(self, own: str) -> None:
        noise = read_transform(" torchio.transforms.RandomNoise(mean=(-5, 5), std=(0, 2.5), p=0.25)")
        assert isinstance(noise, tio.RandomNoise)
        assert (noise.probability, noise.std_range) == (0.25, (0, 2.5))
        assert isinstance(read_transform("torchio.RandomFlip"), tio.RandomFlip)
        assert read_transform(f"{own}.Metal(hu=1e3)").hu == 1000

    @pytest.mark.parametrize(
        ("text", "told"),
        [
            ("torchio.RandomNoise(", r"cannot be read.* put each in quotes"),
            ("RandomNoise()", "'RandomNoise' is no import path"),
            ("torchio.RandomNoise()()", "is no import path"),
            ("torchio['RandomNoise']", "is no import path"),
            ("torchio.RandomNoise(0.5)", "arguments without a name"),
            ("torchio.RandomNoise(**{'p': 1})", "arguments without a name"),
            ("torchio.RandomNoise(p=open('x'))", r"p=open\('x'\) in .*expected a number"),
            ("torchio.RandomNoize(p=1)", "torchio.RandomNoize cannot be imported .*PYTHONPATH"),
            ("no_such_package.Noise", "no_such_package.Noise cannot be imported"),
            ("os.system(command='true')", "os.system is no TorchIO transform"),
            ("own_transforms.not_a_class()", "own_transforms.not_a_class is no TorchIO transform"),
            ("torchio.ScalarImage(path='x')", "is no TorchIO transform"),
            ("torchio.RandomNoise(sigma=3)", r"RandomNoise\(sigma=3\) is refused: .*sigma"),
            ("torchio.RandomNoise(p=7)", "is refused: "),
        ],
    )
    def test_what_is_no_transform(self, own: str, text: str, told: str) -> None:
        with pytest.raises(UserError, match=rf"data\.augmentation\.extra: .*{told}"):
            read_transform(text)

    def test_refused_at_setup(self, config: DataConfig) -> None:
        with pytest.raises(UserError, match="RandomNoize cannot be imported"):
            build(extended(config, "torchio.RandomNoize"))


def extended(config: DataConfig, *extra: str, **changes: Any) -> DataConfig:
    return replace(config, augmentation=replace(config.augmentation, extra=extra, **changes))


@pytest.mark.parametrize("engine", ["batched", "torchio"])
def test_samples_depend_on_themselves_alone(config: DataConfig, own: str, engine: str) -> None:
    config = extended(config, BIAS, f"{own}.Metal(p=0.5)", engine=engine)
    config = replace(config, sampling=replace(config.sampling, samples_per_epoch=8))
    states = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()  # noqa: NPY002
    whole = joined(build(replace(config, batch_size=8)).train_dataloader())
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (np.random.get_state()[1].tolist(), random.getstate()) == states[1:]  # noqa: NPY002
    assert_same(joined(build(replace(config, batch_size=3, num_workers=2)).train_dataloader()), whole)
    ranks = [joined(on_rank(replace(config, batch_size=4), rank, 2).train_dataloader()) for rank in range(2)]
    assert_same(joined(ranks), whole)
    without = joined(build(extended(config, engine=engine)).train_dataloader())
    changed = (without["image"] != whole["image"]).flatten(1).any(dim=1)
    assert 0 < changed.sum() < 8  # those that were drawn
    loader = build(config).train_dataloader()
    loader.sampler.set_epoch(1)
    assert not torch.equal(joined(loader)["image"], whole["image"])


def test_the_transform_sees_hu_and_all_else_comes_after(config: DataConfig, own: str) -> None:
    keys = [(0, index) for index in range(12)]
    series = build(config).train_series

    def batch(*extra: str, device: str = "cpu", **changes: Any) -> Any:
        settings = extended(replace(config, augmentation=NOTHING), *extra, **changes)
        dataset = PatchDataset(series, settings, 5, labels=True, restrict_hu=100.0, device=torch.device(device))
        made = dataset.__getitems__(keys)
        return dataset.finish(made, torch.device("cpu")) if isinstance(made, PlannedBatch) else made

    plain, metal = batch(), batch(f"{own}.Metal(hu=2000)")
    assert (metal["image"][:, 0, 0, 0, 0] == 1).all()
    assert metal["loss_region"][:, 0, 0, 0, 0].all()
    for name in ("image", "loss_region"):
        assert torch.equal(metal[name].flatten(1)[:, 1:], plain[name].flatten(1)[:, 1:])
    assert torch.equal(metal["label"], plain["label"])
    assert_same(batch(f"{own}.Metal(hu=2000)", device="cuda"), metal)  # patches that a GPU gets

    flipped = batch("torchio.RandomFlip(axes=1, flip_probability=1)")
    for name in ("image", "label", "loss_region"):
        assert torch.equal(flipped[name], plain[name].flip(3))


def test_a_transform_that_fails_or_changes_the_shape(config: DataConfig, own: str) -> None:
    for text, told in (
        (f"{own}.Fails", "Fails fails on a patch: no metal here"),
        ("torchio.CropOrPad(target_shape=(4, 4, 4))", r"Crop changes a patch of \(10, 8, 8\) voxels to \(4, 4, 4\)"),
    ):
        dataset = build(extended(config, text)).train_dataloader().dataset
        with pytest.raises(UserError, match=rf"data\.augmentation\.extra: {told}"):
            dataset[0, 0]


def test_it_travels_to_spawned_workers(config: DataConfig) -> None:
    dataset = build(extended(config, BIAS)).train_dataloader().dataset
    assert_same(pickle.loads(pickle.dumps(dataset))[2, 3], dataset[2, 3])


def test_seeded() -> None:
    draws = []
    for seed in (-3, -3, 2**62):
        with seeded(seed):
            draws.append((torch.rand(1).item(), float(np.random.rand()), random.random()))  # noqa: NPY002
    assert draws[0] == draws[1]
    assert not set(draws[0]) & set(draws[2])


def test_switched_off_with_all_augmentation(config: DataConfig, own: str) -> None:
    off = replace(config, augmentation=AugmentationConfig(enabled=False))
    expected = build(off).train_dataloader().dataset[0, 0]
    assert_same(build(extended(off, f"{own}.Metal")).train_dataloader().dataset[0, 0], expected)
