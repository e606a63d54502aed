"""Pre-training as a masked autoencoder."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from data_modules.batches.philox import MASKING, random_bits
from iac_lightning.config.schema import ExperimentConfig
from iac_lightning.modules.common import ExperimentModule
from iac_lightning.modules.metrics import MeanLoss


def masking_noise(seed: int, epoch: int, sample_index: Tensor, n_tokens: int) -> Tensor:
    """Random numbers whose order decides which tokens are hidden; they depend on the sample, not on its batch.

    Args:
        seed: of the run.
        epoch: in which other tokens are hidden than in the others.
        sample_index: `[B]` int64, within the epoch.
        n_tokens: N.

    Returns:
        `[B, N]` int64, all 64 bits random, so that no two are equal; on the device of `sample_index`.
    """
    return random_bits(seed, MASKING, epoch, sample_index, n_tokens)


class MAEModule(ExperimentModule):
    """Hide tokens, restore them, learn from the hidden ones (He et al. 2022).

    Batches: ``image`` `[B, 1, X, Y, Z]` in [-1, 1] and ``sample_index`` `[B]`.
    """

    def __init__(self, config: ExperimentConfig) -> None:
        super().__init__(config)
        self.dev_loss = MeanLoss()

    def _noise(self, batch: dict[str, Any], epoch: int) -> Tensor:
        n_tokens: int = self.network.encoder.n_tokens  # type: ignore[assignment, union-attr]
        return masking_noise(self.config.seed, epoch, batch["sample_index"], n_tokens)

    @staticmethod
    def forward_pass(network: nn.Module, image: Tensor, noise: Tensor) -> Tensor:
        """The loss of a batch, a scalar."""
        loss: Tensor = network(image, noise=noise).loss
        return loss

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """Mean squared error over the hidden tokens."""
        loss = self.training_pass(batch["image"], self._noise(batch, self.current_epoch))
        size = len(batch["image"])
        self.log("train/loss", loss, on_step=True, on_epoch=True, batch_size=size, sync_dist=True)
        return self.step_loss(loss, batch_idx)

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """The same on fixed crops of development scans, with the same masks at every validation."""
        size = len(batch["image"])
        self.dev_loss.update(self.forward_pass(self.network, batch["image"], self._noise(batch, 0)), size)
        self.log("dev/loss", self.dev_loss, prog_bar=True, batch_size=size)
