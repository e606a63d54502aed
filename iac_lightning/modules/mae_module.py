"""Pre-training as a masked autoencoder."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from iac_lightning.config.schema import ExperimentConfig
from iac_lightning.modules.common import ExperimentModule
from iac_lightning.modules.metrics import MeanLoss


def masking_noise(seed: int, epoch: int, samples: list[int], n_tokens: int) -> Tensor:
    """`[B, N]` uniform noise whose order decides which tokens are hidden; depends on the sample, not on its batch."""
    rows = []
    for sample in samples:
        generator = torch.Generator().manual_seed((seed * 1_000_003 + epoch) * 1_000_033 + sample)
        rows.append(torch.rand(n_tokens, generator=generator))
    return torch.stack(rows)


class MAEModule(ExperimentModule):
    """Hide tokens, restore them, learn from the hidden ones (He et al. 2022).

    Batches: ``image`` `[B, 1, X, Y, Z]` in [-1, 1] and ``sample_index`` `[B]`.
    """

    def __init__(self, config: ExperimentConfig) -> None:
        super().__init__(config)
        self.dev_loss = MeanLoss()

    def _loss(self, network: nn.Module, batch: dict[str, Any], epoch: int) -> Tensor:
        image: Tensor = batch["image"]
        n_tokens: int = network.encoder.n_tokens  # type: ignore[assignment, union-attr]
        noise = masking_noise(self.config.seed, epoch, batch["sample_index"].tolist(), n_tokens).to(image.device)
        loss: Tensor = network(image, noise=noise).loss
        return loss

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """Mean squared error over the hidden tokens."""
        loss = self._loss(self.model, batch, self.current_epoch)
        size = len(batch["image"])
        self.log("train/loss", loss, on_step=True, on_epoch=True, prog_bar=True, batch_size=size, sync_dist=True)
        return self.step_loss(loss, batch_idx)

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """The same on fixed crops of development scans, with the same masks at every validation."""
        size = len(batch["image"])
        self.dev_loss.update(self._loss(self.network, batch, 0), size)
        self.log("dev/loss", self.dev_loss, prog_bar=True, batch_size=size)
