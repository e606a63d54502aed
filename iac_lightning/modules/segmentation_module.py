"""Segmentation: fine-tuning of the ViT and training of the CNN baseline."""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from data_modules.batches.ct_data_module import CTDataModule
from data_modules.processes import Helpers
from data_modules.scan.geometry import Volume
from iac_lightning.cluster import sharding
from iac_lightning.config.schema import ExperimentConfig
from iac_lightning.inference import predict_prepared
from iac_lightning.modules.common import ExperimentModule, told
from iac_lightning.modules.development import development_dice
from iac_lightning.modules.losses import SegmentationLoss, level_sums
from iac_lightning.modules.metrics import BestDice


class SegmentationModule(ExperimentModule):
    """One module for every network that gives voxel logits; development Dice on native grids is its criterion.

    Training batches: ``image`` and ``label`` `[B, 1, X, Y, Z]` (occupancy in [0, 1]), ``loss_region`` likewise, bool,
    and ``condition`` `[B, K]` where the network is told anything.
    Validation batches: ``series_index`` `[n]` of development series.

    Attributes:
        predicted: what the present validation batch gave, on the common grid, by index of the series.
    """

    _helpers: Helpers | None = None

    def __init__(self, config: ExperimentConfig) -> None:
        super().__init__(config)
        self.loss = SegmentationLoss(config.loss)
        self.dev_dice = BestDice()
        self.predicted: dict[int, Volume] = {}
        self._measured: deque[tuple[int, Future[tuple[bool, NDArray[np.float64]]]]] = deque()

    @staticmethod
    def forward_pass(
        network: nn.Module, image: Tensor, label: Tensor, region: Tensor, condition: Tensor | None = None
    ) -> Tensor:
        """The sums that the loss follows from, of this process (`level_sums`)."""
        return level_sums(network(image, condition), label, region)

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """Soft Dice and cross-entropy over the voxels that count."""
        sums = self.training_pass(batch["image"], batch["label"], batch["loss_region"], *told(batch))
        terms = self.loss.of_sums(sums)
        size = len(batch["image"])
        self.log("train/loss", terms["loss"], on_step=True, on_epoch=True, batch_size=size)
        self.log("train/dice_loss", terms["dice_loss"], on_step=False, on_epoch=True, batch_size=size)
        self.log("train/ce", terms["ce"], on_step=False, on_epoch=True, batch_size=size)
        return self.step_loss(terms["loss"], batch_idx)

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Whole-region predictions of development series, compared on their native grids at every threshold."""
        data: CTDataModule = self.trainer.datamodule  # type: ignore[attr-defined]
        if self._helpers is None:
            # A network on a CPU keeps the cores busy itself; processes are started there only where they are asked for.
            idle = len(data.dev_series) if self.device.type == "cuda" else 0
            self._helpers = sharding.helpers_for(self.config.evaluation.workers, idle)
        indices = batch["series_index"].tolist()
        series = [data.dev_series[index] for index in indices]
        volumes = predict_prepared(self.network, series, self.config, self.device)
        self.predicted = dict(zip(indices, volumes, strict=True))
        for index, item in zip(indices, series, strict=True):
            call = self._helpers.submit(development_dice, item, self.predicted[index], self.config.loss.restrict_hu)
            self._measured.append((index, call))
        self._take(2 * self._helpers.count)

    def _take(self, left: int) -> None:
        """Note what the helpers have measured, but for the last `left` series."""
        while len(self._measured) > left:
            index, call = self._measured.popleft()
            assert self._helpers is not None
            self.dev_dice.update(index, *self._helpers.result(call))

    def on_validation_epoch_end(self) -> None:
        """Best mean Dice over development scans with lesions, and the threshold that reaches it."""
        self._take(0)
        self.predicted = {}
        threshold, dice = self.dev_dice.compute()
        self.dev_dice.reset()
        self.log("dev/dice", dice, prog_bar=True, rank_zero_only=False)
        self.log("dev/threshold", threshold)

    def teardown(self, stage: str) -> None:
        """End the helpers."""
        self._measured.clear()
        if self._helpers is not None:
            self._helpers.close()
