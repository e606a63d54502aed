"""Made-up series are prepared series, and the data module takes them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.synthetic import FULL, NETWORKS, TINY, data_module, example, experiment, write_series
from iac_lightning.config.model_schema import resolved_vit
from iac_lightning.models.build import build_model


def test_series_are_read_as_prepared_ones(tmp_path: Path) -> None:
    series = write_series(tmp_path, 3, (40, 32, 20))
    assert len({s.series.patient_id for s in series}) == 2
    one = series[0]
    occupancy = one.occupancy()
    assert occupancy is not None
    assert one.hu().shape == occupancy.shape == one.grid.shape == (40, 32, 20)
    assert one.grid.spacing_mm == pytest.approx((0.8, 0.8, 1.6))
    assert (np.asarray(occupancy) > 0).sum() == len({tuple(v) for v in one.components[:, 1:]})
    assert (np.asarray(one.hu())[tuple(one.components[:, 1:].T)] == 400).all()


@pytest.mark.parametrize("network", NETWORKS)
def test_the_data_module_gives_what_the_example_has(network: str, tmp_path: Path) -> None:
    config = experiment(network, TINY, patch=8, batch=2)
    config.data.sampling.samples_per_epoch = 4
    data = data_module(config, write_series(tmp_path, 2, (40, 40, 20)))
    data.setup("fit")
    batch = next(iter(data.train_dataloader()))
    batch = data.on_after_batch_transfer(data.transfer_batch_to_device(batch, torch.device("cpu"), 0), 0)
    for name, values in example(config, torch.device("cpu")).items():
        assert (batch[name].shape, batch[name].dtype) == (values.shape, values.dtype), name


def test_networks_are_those_of_the_gpu_sweeps() -> None:
    config = experiment("mae", FULL, patch=4, batch=32)
    assert resolved_vit(config.model.vit) == (432, 12, 6)
    assert config.model.vit.patch_size == (4, 4, 4)
    assert config.task == "pretrain"
    assert experiment("cnn", FULL).optimizer.name == "sgd"
    assert experiment("vit", FULL).optimizer.ema_decay > 0
    assert sum(p.numel() for p in build_model(experiment("vit", TINY, patch=8)).parameters()) < 400_000
