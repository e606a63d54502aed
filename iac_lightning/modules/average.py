"""The exponential moving average of the weights, on the device that trains."""

from __future__ import annotations

from itertools import chain

import lightning as L
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel


class WeightAverage(EMAWeightAveraging):
    """Lightning's callback, whose average lives where the weights will be and is updated in a few launches.

    Lightning makes the average in `setup`, before the module moves to its device: it would stay on the host, and every
    step would copy all weights there. Its checkpoints are Lightning's own.

    Args:
        decay: share of the average that remains at each update.
    """

    def __init__(self, decay: float) -> None:
        super().__init__(decay=decay)
        self.decay = decay

    @property
    def state_key(self) -> str:
        """That of Lightning's callback, under which earlier checkpoints keep when it was last updated."""
        return EMAWeightAveraging.__qualname__

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Copy the weights to the device of the training; a checkpoint that is read later is copied there too."""
        if stage == "fit":
            self._average_model = _Average(pl_module, trainer.strategy.root_device, self.decay)


class _Average(AveragedModel):
    """torch's averaged model, which knows without asking the device how often it was updated."""

    def __init__(self, model: nn.Module, device: torch.device, decay: float) -> None:
        super().__init__(model, device)
        self.decay = decay
        self.n_averaged = torch.zeros((), dtype=torch.long)  # on the host

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Take the weights over at the first call, average them afterwards."""
        averages, currents = _values(self.module), _values(model)
        if self.n_averaged == 0:
            torch._foreach_copy_(averages, currents)
        elif averages[0].is_cuda:
            torch._foreach_lerp_(averages, currents, 1 - self.decay)
        else:  # torch's `get_ema_avg_fn`, to the bit
            torch._foreach_mul_(averages, self.decay)
            torch._foreach_add_(averages, torch._foreach_mul(currents, 1 - self.decay))
        self.n_averaged += 1


def _values(model: nn.Module) -> list[Tensor]:
    """Parameters and buffers, as torch's own average takes them together."""
    return [tensor.detach() for tensor in chain(model.parameters(), model.buffers())]
