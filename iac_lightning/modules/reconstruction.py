"""How much of what is hidden a network restores, beside what needs no network."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import Metric

from iac_lightning.models.vit_tokens import patchify

POWER = 3
"""Of the distance, by whose inverse visible patches are weighted; on the phantom it restores more than 1, 2 or 4."""


class Explained(Metric):
    """R² of several predictions of the same hidden voxels: 1 − squared error over squared deviation from their mean."""

    full_state_update = False
    higher_is_better = True
    errors: Tensor
    sums: Tensor

    def __init__(self, predictions: int) -> None:
        super().__init__()
        self.add_state("errors", default=torch.zeros(predictions, dtype=torch.float32), dist_reduce_fx="sum")
        self.add_state("sums", default=torch.zeros(3, dtype=torch.float32), dist_reduce_fx="sum")

    def update(self, truth: Tensor, predicted: Sequence[Tensor]) -> None:
        """Add hidden voxels, in any shape, and what each prediction says of them."""
        x = truth.float()
        errors = [(p.float() - x).square().sum() for p in predicted]
        self.errors = self.errors.float() + torch.stack(errors)
        self.sums = self.sums.float() + torch.stack([torch.ones_like(x).sum(), x.sum(), x.square().sum()])

    def compute(self) -> Tensor:
        """`[predictions]`."""
        n, total, squares = self.sums
        return 1 - self.errors / (squares - total**2 / n)


def interpolated(
    patches: Tensor,
    hidden: Tensor,
    grid: Sequence[int],
    patch_size: Sequence[int],
    spacing_mm: Sequence[float],
) -> Tensor:
    """What the visible patches say of the hidden ones by inverse distance.

    Each hidden patch's mean is that of the visible ones, weighted by the inverse cube of the distance between centres
    in mm; between centres, means are interpolated linearly.

    Args:
        patches: `[B, N, P]`, of images with one channel.
        hidden: `[B, N]` bool.
        grid: patches along x, y, z.
        patch_size: voxels of a patch.
        spacing_mm: of the voxels.

    Returns:
        `[B, N, P]`.
    """
    edges_mm = [n * mm for n, mm in zip(patch_size, spacing_mm, strict=True)]
    axes = [
        torch.arange(g, device=patches.device, dtype=torch.float32) * mm for g, mm in zip(grid, edges_mm, strict=True)
    ]
    centres = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).flatten(0, 2)
    weights = torch.cdist(centres, centres).fill_diagonal_(torch.inf) ** -POWER
    means, visible = patches.float().mean(-1), (~hidden).float()
    filled = torch.where(hidden, ((means * visible) @ weights) / (visible @ weights), means)
    volume = filled.reshape(-1, 1, *grid)
    scale = tuple(float(n) for n in patch_size)
    return patchify(F.interpolate(volume, scale_factor=scale, mode="trilinear"), patch_size)
