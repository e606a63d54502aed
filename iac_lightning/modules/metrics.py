"""What development scans say of a network: metrics that torchmetrics keeps, and brings together over processes."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from iac_lightning.evaluation.calibration.threshold import RAW_GRID, choose_threshold


class BestDice(Metric):
    """The best mean Dice over the series with lesions, and the threshold that reaches it.

    Attributes:
        rows: of each series `[1, 2 + T]`: its index, whether it has a lesion, and its Dice at each of
            `RAW_GRID`.
    """

    full_state_update = False
    higher_is_better = True
    rows: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.add_state("rows", default=[], dist_reduce_fx="cat")

    def update(self, index: int, has_lesion: bool, dice: NDArray[np.float64]) -> None:
        """Add one series.

        Args:
            index: among the development series; decides the order of summation, whichever process has it.
            has_lesion: the others do not count.
            dice: `[T]`, at each threshold.
        """
        # Thresholds can be equal to the last digit of float64 and part in float32; Apple's GPUs have nothing else.
        dtype = torch.float32 if self.device.type == "mps" else torch.float64
        row = torch.tensor([[index, has_lesion, *dice]], dtype=dtype, device=self.device)
        self.rows.append(row)

    def compute(self) -> tuple[float, float]:
        """Threshold and its mean Dice.

        Raises:
            UserError: when no series has a lesion.
        """
        rows = dim_zero_cat(self.rows).cpu().double().numpy()
        rows = rows[np.argsort(rows[:, 0])]
        return choose_threshold(rows[:, 2:], RAW_GRID, rows[:, 1] > 0)


class MeanLoss(Metric):
    """Mean of a loss over the samples of all batches, in float32.

    torchmetrics' own `MeanMetric` (1.9) leaves batches out whose loss is not a number, or forgets how many samples they
    have; and where `trainer.precision` is bf16-true it sums in that.
    """

    full_state_update = False
    higher_is_better = False
    total: Tensor
    n_samples: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", default=torch.zeros((), dtype=torch.float32), dist_reduce_fx="sum")
        self.add_state("n_samples", default=torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, loss: Tensor, n_samples: int) -> None:
        """Add the mean loss of a batch of so many samples."""
        self.total = self.total.float() + loss.detach().float() * n_samples
        self.n_samples = self.n_samples + n_samples

    def compute(self) -> Tensor:
        """The mean, a scalar."""
        return self.total / self.n_samples
