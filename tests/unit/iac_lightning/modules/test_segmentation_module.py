"""What a validation logs: the best mean Dice of its own series, nothing of the one before."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from data_modules.processes import Helpers
from data_modules.scan.geometry import Grid, Volume
from iac_lightning.config.schema import ExperimentConfig
from iac_lightning.evaluation.calibration.threshold import RAW_GRID
from iac_lightning.evaluation.metrics.series import dice
from iac_lightning.modules import development, segmentation_module
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

    def predicted(network: Any, prepared: Any, *_: Any) -> Iterator[Volume]:
        for item in prepared:
            probability = np.where(np.roll(item.label, int(shift[0]), axis=0), 0.91, 0.0).astype(np.float32)
            yield Volume(probability, Grid(SHAPE, np.eye(4)))

    logged: dict[str, float] = {}
    monkeypatch.setattr(segmentation_module, "predict_prepared", predicted)
    monkeypatch.setattr(development, "native_probability", lambda item, common, restrict_hu: common)
    monkeypatch.setattr(module, "log", lambda name, value, **_: logged.update({name: value}))
    module._trainer = SimpleNamespace(datamodule=SimpleNamespace(dev_series=series))  # type: ignore[assignment]
    for shift[0] in (0.0, 1.0):
        for indices in ([2], [0, 1]):
            module.validation_step({"series_index": torch.tensor(indices)}, 0)
            assert sorted(module.predicted) == indices
        module.on_validation_epoch_end()
        own = [dice(np.roll(label, int(shift[0]), axis=0), label) for label in labels if label.any()]
        assert logged["dev/dice"] == pytest.approx(np.mean(own), abs=1e-12)
        assert logged["dev/threshold"] == pytest.approx(0.46)  # the middle of 0.02 to 0.9
    assert logged["dev/dice"] < 1
    module.teardown("fit")


def test_helpers_measure_beside_a_gpu_or_where_they_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """And many regions are predicted before one of them is measured, but never more than the helpers have in hand."""
    config = ExperimentConfig(name="tiny")
    config.data.sampling.crop, config.model.vit.patch_size = (16, 16, 8), (8, 8, 4)
    config.model.vit.dim, config.model.vit.depth, config.model.vit.heads = 12, 1, 2
    config.evaluation.workers = 2
    module = SegmentationModule(config)
    series = [SimpleNamespace(name=k) for k in range(9)]
    waiting: list[int] = []

    class Later(Future[Any]):
        def result(self, timeout: float | None = None) -> Any:
            waiting.pop()
            return True, np.zeros(len(RAW_GRID))

    def submit(helpers: Helpers, function: Any, item: Any, common: Any, restrict_hu: Any) -> Future[Any]:
        assert (helpers.count, common) == (2, 10 * item.name)
        waiting.append(item.name)
        return Later()

    predicted = lambda network, items, *_: iter([10 * item.name for item in items])  # noqa: E731
    monkeypatch.setattr(segmentation_module, "predict_prepared", predicted)
    monkeypatch.setattr(Helpers, "submit", submit)
    monkeypatch.setattr(module, "log", lambda *_, **__: None)
    module._trainer = SimpleNamespace(datamodule=SimpleNamespace(dev_series=series))  # type: ignore[assignment]
    for indices in ([0, 1, 2, 3, 4, 5], [6, 7, 8]):
        module.validation_step({"series_index": torch.tensor(indices)}, 0)
        assert len(waiting) == 4
    module.on_validation_epoch_end()
    assert not waiting
