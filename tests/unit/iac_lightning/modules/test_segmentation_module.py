"""What a validation logs: the best mean Dice of its own series, nothing of the one before."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from data_modules.scan.geometry import Grid, Volume
from iac_lightning.config.schema import ExperimentConfig
from iac_lightning.evaluation.metrics.series import dice
from iac_lightning.modules import segmentation_module
from iac_lightning.modules.segmentation_module import SegmentationModule

SHAPE = (4, 4, 4)


def test_each_validation_logs_the_dice_of_its_own_series(monkeypatch: pytest.MonkeyPatch) -> None:
    config = ExperimentConfig(name="tiny")
    config.data.sampling.crop, config.model.vit.patch_size = (16, 16, 8), (8, 8, 4)
    config.model.vit.dim, config.model.vit.depth, config.model.vit.heads = 12, 1, 2
    module = SegmentationModule(config)
    assert not [name for name in module.state_dict() if "dice" in name]  # checkpoints stay as they were
    rng = np.random.default_rng(0)
    labels = [rng.random(SHAPE) < share for share in (0.3, 0.0, 0.4)]
    series = [SimpleNamespace(native_label=lambda label=label: label, label=label) for label in labels]
    shift = [0.0]

    def predicted(network: Any, prepared: Any, *_: Any) -> Volume:
        probability = np.where(np.roll(prepared.label, int(shift[0]), axis=0), 0.91, 0.0).astype(np.float32)
        return Volume(probability, Grid(SHAPE, np.eye(4)))

    logged: dict[str, float] = {}
    monkeypatch.setattr(segmentation_module, "predict_prepared", predicted)
    monkeypatch.setattr(module, "log", lambda name, value, **_: logged.update({name: value}))
    module._trainer = SimpleNamespace(datamodule=SimpleNamespace(dev_series=series))  # type: ignore[assignment]
    for shift[0] in (0.0, 1.0):
        for index in (2, 0, 1):
            module.validation_step({"series_index": torch.tensor([index])}, 0)
        module.on_validation_epoch_end()
        own = [dice(np.roll(label, int(shift[0]), axis=0), label) for label in labels if label.any()]
        assert logged["dev/dice"] == pytest.approx(np.mean(own), abs=1e-12)
        assert logged["dev/threshold"] == pytest.approx(0.46)  # the middle of 0.02 to 0.9
    assert logged["dev/dice"] < 1
