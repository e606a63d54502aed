"""Pre-training as a masked autoencoder."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from iac_lightning.config.schema import ExperimentConfig
from iac_lightning.models.restoring import MAEOutput, Restorer
from iac_lightning.models.vit_tokens import patchify
from iac_lightning.modules.common import ExperimentModule, told
from iac_lightning.modules.masking import hiding_noise
from iac_lightning.modules.metrics import MeanLoss
from iac_lightning.modules.reconstruction import Explained, interpolated

RESTORED = ("dev/r2", "dev/r2_interpolation", "dev/r2_patch_mean")
"""R² of the network, of `interpolated` and of the true mean of each hidden patch."""


class MAEModule(ExperimentModule):
    """Hide tokens, restore them, learn from the hidden ones (He et al. 2022).

    Batches: ``image`` `[B, 1, X, Y, Z]` in [-1, 1] and ``sample_index`` `[B]`; ``condition`` `[B, K]` where the network
    is told anything.
    """

    def __init__(self, config: ExperimentConfig) -> None:
        super().__init__(config)
        self.dev_loss = MeanLoss()
        self.explained = Explained(len(RESTORED))

    def _noise(self, batch: dict[str, Any], epoch: int) -> Tensor:
        assert isinstance(self.network, Restorer)
        return hiding_noise(self.config, self.network.grid, epoch, batch["sample_index"])

    @staticmethod
    def forward_pass(network: nn.Module, image: Tensor, noise: Tensor, condition: Tensor | None = None) -> Tensor:
        """The loss of a batch, a scalar."""
        loss: Tensor = network(image, noise=noise, condition=condition).loss
        return loss

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """Mean squared error over the hidden tokens."""
        loss = self.training_pass(batch["image"], self._noise(batch, self.current_epoch), *told(batch))
        size = len(batch["image"])
        self.log("train/loss", loss, on_step=True, on_epoch=True, batch_size=size, sync_dist=True)
        return self.step_loss(loss, batch_idx)

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """The same on fixed crops of development scans, with the same masks at every validation."""
        network, image, size = self.network, batch["image"], len(batch["image"])
        assert isinstance(network, Restorer)
        output: MAEOutput = network(image, noise=self._noise(batch, 0), condition=batch.get("condition"))
        assert output.reconstruction is not None
        self.dev_loss.update(output.loss, size)
        self.log("dev/loss", self.dev_loss, prog_bar=True, batch_size=size)
        patches, restored = (patchify(x, network.patch_size) for x in (image, output.reconstruction))
        spacing_mm = self.config.data.grid.spacing_mm
        between = interpolated(patches, output.mask, network.grid, network.patch_size, spacing_mm)
        means = patches.mean(-1, keepdim=True).expand_as(patches)
        # A network that is taught standardised patches is told each one's mean and deviation: so is interpolation.
        between = network.in_units_of(patches, network.targets(between))
        self.explained.update(patches[output.mask], [x[output.mask] for x in (restored, between, means)])

    def on_validation_epoch_end(self) -> None:
        """R² of what was hidden: of the network, of interpolation and of each patch's own mean."""
        values = self.explained.compute()
        self.explained.reset()
        self.log_dict(dict(zip(RESTORED, values.unbind(), strict=True)))
