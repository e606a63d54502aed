"""Segmentation: fine-tuning of the ViT and training of the CNN baseline."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from data_modules.batches.ct_data_module import CTDataModule
from iac_lightning.config.schema import ExperimentConfig
from iac_lightning.evaluation.calibration.threshold import RAW_GRID, dice_at_thresholds
from iac_lightning.inference import predict_prepared
from iac_lightning.modules.common import ExperimentModule
from iac_lightning.modules.losses import SegmentationLoss
from iac_lightning.modules.metrics import BestDice


class SegmentationModule(ExperimentModule):
    """One module for every network that gives voxel logits; development Dice on native grids is its criterion.

    Training batches: ``image`` and ``label`` `[B, 1, X, Y, Z]` (occupancy in [0, 1]), ``loss_region`` likewise, bool.
    Validation items: the index of one development series.
    """

    def __init__(self, config: ExperimentConfig) -> None:
        super().__init__(config)
        self.loss = SegmentationLoss(config.loss)
        self.dev_dice = BestDice()

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """Soft Dice and cross-entropy over the voxels that count."""
        terms = self.loss(self.model(batch["image"]), batch["label"], batch["loss_region"])
        size = len(batch["image"])
        self.log("train/loss", terms["loss"], on_step=True, on_epoch=True, prog_bar=True, batch_size=size)
        self.log("train/dice_loss", terms["dice_loss"], on_step=False, on_epoch=True, batch_size=size)
        self.log("train/ce", terms["ce"], on_step=False, on_epoch=True, batch_size=size)
        return self.step_loss(terms["loss"], batch_idx)

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Whole-region prediction of one development series, compared on its native grid at every threshold."""
        data: CTDataModule = self.trainer.datamodule  # type: ignore[attr-defined]
        for index in batch["series_index"].tolist():
            prepared = data.dev_series[index]
            probability = predict_prepared(self.network, prepared, self.config, self.device)
            label = np.asarray(prepared.native_label()) > 0
            scores = dice_at_thresholds(probability.data, label, RAW_GRID)
            self.dev_dice.update(index, bool(label.any()), scores)

    def on_validation_epoch_end(self) -> None:
        """Best mean Dice over development scans with lesions, and the threshold that reaches it."""
        threshold, dice = self.dev_dice.compute()
        self.dev_dice.reset()
        self.log("dev/dice", dice, prog_bar=True, rank_zero_only=False)
        self.log("dev/threshold", threshold)
