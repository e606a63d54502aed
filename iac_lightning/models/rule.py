"""The floor of every comparison: bright voxels, weighed by where they lie. Nothing in it is learnt by gradients."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

DARK_LOGIT = -20.0
"""Of voxels below the threshold: a probability of 2e-9."""
_HALF_HU = 0.5  # HU are whole numbers; half a step below the threshold, rounding decides nothing


class PlaceRule(nn.Module):
    """Probability of a bright voxel: how often one at this place of the region was labelled, among the training scans.

    Calcium is at least 130 HU (Agatston et al., JACC 1990), and so is bone, which lies elsewhere in the region.

    Attributes:
        logits: `[X, Y, Z]` of the region, what was counted (`modules.rule_module.count_prior`); a half everywhere
            before. Goes into checkpoints like any weight.

    Args:
        region: voxels of the region on the common grid.
        spacing_mm: of the common grid.
        window_hu: HU that are −1 and 1 in the image.
        threshold_hu: from which a voxel is bright.
    """

    logits: Tensor
    spacing_mm: Tensor

    def __init__(
        self,
        region: tuple[int, int, int],
        spacing_mm: Sequence[float],
        window_hu: tuple[float, float],
        threshold_hu: float,
    ) -> None:
        super().__init__()
        low, high = window_hu
        self.bright = 2 * (threshold_hu - _HALF_HU - low) / (high - low) - 1
        self.register_buffer("logits", torch.zeros(region))
        self.register_buffer("spacing_mm", torch.tensor(spacing_mm, dtype=torch.float32), persistent=False)

    def forward(self, image: Tensor, condition: Tensor | None = None) -> Tensor:
        """Logits `[B, 1, X, Y, Z]` of crops.

        A crop that reaches beyond the region takes the values at the region's edge there.

        Args:
            image: `[B, 1, X, Y, Z]`, normalised.
            condition: `[B, 3]`, the crop's middle as seen from the region's, in mm (``model.condition_on``).

        Raises:
            ValueError: without the condition: a rule of places means nothing without the place.
        """
        if condition is None:
            raise ValueError("this rule goes by the crop's place (model.condition_on: [position]), and none was given")
        x, y, z = (self._indices(axis, image.shape[2 + axis], condition[:, axis]) for axis in range(3))
        prior = self.logits[x[:, :, None, None], y[:, None, :, None], z[:, None, None, :]]
        return torch.where(image >= self.bright, prior[:, None].to(image.dtype), DARK_LOGIT)

    def _indices(self, axis: int, crop: int, position_mm: Tensor) -> Tensor:
        """Index `[B, crop]` into the region of each voxel of the crops, along an axis."""
        region = self.logits.shape[axis]
        first = torch.round(position_mm / self.spacing_mm[axis] + (region - crop) / 2).long()
        return (first[:, None] + torch.arange(crop, device=first.device)).clamp(0, region - 1)
