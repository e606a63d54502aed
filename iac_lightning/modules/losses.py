"""Segmentation loss for lesions of a few voxels and labels that are fractions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from iac_lightning.config.schema import LossConfig

SMOOTHING_VOXELS = 1.0
"""Added to both sides of the Dice fraction, so that a batch without lesions has a finite, useful gradient."""


def loss_sums(logits: Tensor, target: Tensor, region: Tensor) -> Tensor:
    """Sums over a batch from which the loss follows.

    Args:
        logits: `[B, 1, X, Y, Z]`.
        target: `[B, 1, X, Y, Z]`, occupancy in [0, 1].
        region: `[B, 1, X, Y, Z]`, bool: which voxels count.

    Returns:
        `[4]`: twice the shared mass Σ(p + t − |p − t|), the total mass Σ(p + t), the summed cross-entropy, and the
        number of voxels that count.
    """
    logits, target = logits.float(), target.float()
    weight = region.to(logits.dtype)
    probability = torch.sigmoid(logits)
    total = (probability + target) * weight
    shared = total - (probability - target).abs() * weight
    entropy = F.binary_cross_entropy_with_logits(logits, target, weight=weight, reduction="sum")
    return torch.stack([shared.sum(), total.sum(), entropy, weight.sum()])


def sum_over_ranks(local: Tensor) -> Tensor:
    """Sum over all processes, with the gradient that DDP's averaging turns into that of one large batch.

    DDP divides the summed gradients by the number of ranks, so the local part enters with that factor.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return local
    total = local.detach().clone()
    dist.all_reduce(total)
    return total + dist.get_world_size() * (local - local.detach())


class SegmentationLoss(nn.Module):
    """Soft Dice and cross-entropy over the voxels that count, averaged over the resolutions of deep supervision.

    The Dice term is the Dice semimetric loss, 1 − Σ(p + t − |p − t|) / Σ(p + t) (Wang et al., MICCAI 2023): equal to
    the soft Dice loss for hard labels, and smallest at p = t for fractional ones, where the usual soft Dice is not.
    It is taken over the whole batch of all devices (nnU-Net's batch Dice), so that a patch without lesions is no
    special case.
    """

    def __init__(self, config: LossConfig) -> None:
        super().__init__()
        self.dice_weight = config.dice_weight
        self.ce_weight = config.ce_weight

    def forward(self, logits: Tensor | Sequence[Tensor], target: Tensor, region: Tensor) -> dict[str, Tensor]:
        """Loss of one batch: `level_sums`, then `of_sums`, with their arguments and result."""
        return self.of_sums(level_sums(logits, target, region))

    def of_sums(self, local: Tensor) -> dict[str, Tensor]:
        """Loss of one batch.

        Args:
            local: `[L, 4]` from `level_sums`, of this process.

        Returns:
            ``loss`` (with gradient), and ``dice_loss`` and ``ce`` of the finest resolution (detached).
        """
        shared, total, entropy, voxels = sum_over_ranks(local).unbind(1)
        dice_loss = 1 - (shared + SMOOTHING_VOXELS) / (total + SMOOTHING_VOXELS)
        ce = entropy / voxels.clamp(min=1)
        weights = deep_supervision_weights(len(local), local.device)
        loss = (weights * (self.dice_weight * dice_loss + self.ce_weight * ce)).sum()
        return {"loss": loss, "dice_loss": dice_loss[0].detach(), "ce": ce[0].detach()}


def level_sums(logits: Tensor | Sequence[Tensor], target: Tensor, region: Tensor) -> Tensor:
    """`loss_sums` at each resolution that counts: all, or with deep supervision all but the coarsest.

    Args:
        logits: `[B, 1, X, Y, Z]`, or a list of them, finest first, each coarser one smaller by a whole factor.
        target: `[B, 1, X, Y, Z]`, occupancy in [0, 1].
        region: `[B, 1, X, Y, Z]`, bool: which voxels count.

    Returns:
        `[L, 4]`, finest first.
    """
    levels = [logits] if isinstance(logits, Tensor) else list(logits)
    counted = levels[: max(len(levels) - 1, 1)]
    sums = []
    for level in counted:
        x, y, z = level.shape[2:]
        shape = (x, y, z)
        if shape == tuple(target.shape[2:]):
            sums.append(loss_sums(level, target, region))
        else:
            coarse = F.adaptive_avg_pool3d(target.float(), shape)
            counts = F.adaptive_max_pool3d(region.float(), shape) > 0
            sums.append(loss_sums(level, coarse, counts))
    whole = torch.stack(sums)
    for unused in levels[len(counted) :]:
        whole = whole + 0.0 * unused.float().sum()  # DDP waits for a gradient of every parameter
    return whole


def deep_supervision_weights(levels: int, device: torch.device | None = None) -> Tensor:
    """`[L]` weights of the resolutions that count, from fine to coarse: halved at each, sum 1 (nnU-Net)."""
    halves = 0.5 ** torch.arange(levels, device=device)
    return halves / halves.sum()
