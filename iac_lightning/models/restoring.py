"""What all pre-trainings share: an image in patches, some of them hidden, and what is compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from iac_lightning.models.vit_tokens import gather_tokens, mask_of, patchify, spread_tokens, unpatchify


@dataclass(frozen=True, eq=False)
class MAEOutput:
    """What a masked autoencoder gives back.

    Attributes:
        loss: scalar, mean squared error over the hidden patches.
        reconstruction: `[B, C, X, Y, Z]` without gradient: what the decoder says of every patch, hidden or visible,
            in the units of the image (standardised targets are scaled back by each patch's own mean and deviation).
            None in training mode, where visible patches are not decoded.
        mask: `[B, N]` bool, True where a token was hidden.
    """

    loss: Tensor
    reconstruction: Tensor | None
    mask: Tensor


class Restorer(nn.Module):
    """A network that is shown a part of an image's patches and restores the others.

    Args:
        grid: patches along x, y, z.
        patch_size: voxels of a patch along x, y, z.
        mask_ratio: share of the patches to hide; their number is ``round(mask_ratio · N)``.
        normalise_targets: standardise each target patch before the loss.
        target_floor: where they are, a patch is divided by √(variance + floor²), in the units of the image: patches of
            air, which hold noise alone, would otherwise count as much as those of bone.

    Attributes:
        n_tokens: N, the number of patches.
        n_hidden: how many of them are hidden.

    Raises:
        ValueError: when nothing or everything would be hidden.
    """

    def __init__(
        self,
        grid: Sequence[int],
        patch_size: Sequence[int],
        *,
        mask_ratio: float,
        normalise_targets: bool,
        target_floor: float,
    ) -> None:
        super().__init__()
        self.grid = (grid[0], grid[1], grid[2])
        self.patch_size = (patch_size[0], patch_size[1], patch_size[2])
        self.n_tokens = grid[0] * grid[1] * grid[2]
        self.n_hidden = round(mask_ratio * self.n_tokens)
        if not 0 < self.n_hidden < self.n_tokens:
            raise ValueError(f"a share of {mask_ratio:g} hides {self.n_hidden} of {self.n_tokens} tokens")
        self.normalise_targets = normalise_targets
        self.target_floor = target_floor

    def token_features(self, image: Tensor, condition: Tensor | None = None) -> Tensor:
        """What the part that is taken over says of each patch of a whole image: `[B, C, X, Y, Z]` → `[B, N, D]`."""
        raise NotImplementedError

    def hide(self, image: Tensor, generator: torch.Generator | None, noise: Tensor | None) -> tuple[Tensor, Tensor]:
        """The patches `[B, N, P]` of an image and their order `[B, N]`: visible ones first, hidden ones last.

        Args:
            image: `[B, C, X, Y, Z]`.
            generator: decides the order, when there is no `noise`; torch's global one when None.
            noise: `[B, N]`, whose ascending order it is.

        Raises:
            ValueError: when the image is not of as many patches.
        """
        patches = patchify(image, self.patch_size)
        if patches.shape[1] != self.n_tokens:
            raise ValueError(f"image of {tuple(image.shape[2:])} voxels, but the autoencoder is for {self.grid} tokens")
        if noise is None:
            device = generator.device if generator else image.device
            noise = torch.rand(patches.shape[:2], generator=generator, device=device).to(image.device)
        return patches, noise.argsort(dim=1)

    def hide_voxels(
        self, image: Tensor, generator: torch.Generator | None, noise: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """`hide` for a network that sees whole images.

        Returns:
            The patches `[B, N, P]`, the indices of the visible `[B, N − H]` and of the hidden ones `[B, H]`, and 1 at
            the voxels of the visible ones, 0 elsewhere, `[B, 1, X, Y, Z]`.
        """
        patches, order = self.hide(image, generator, noise)
        keep, hidden = order.split([self.n_tokens - self.n_hidden, self.n_hidden], dim=1)
        visible = spread_tokens(mask_of(keep, self.n_tokens, image.dtype), self.grid, self.patch_size)
        return patches, keep, hidden, visible

    def mask(self, hidden: Tensor) -> Tensor:
        """`[B, N]` bool, True at the indices `[B, H]` of the hidden patches."""
        return mask_of(hidden, self.n_tokens, torch.bool)

    def loss(self, prediction: Tensor, patches: Tensor, hidden: Tensor) -> Tensor:
        """Mean squared error over the hidden patches.

        Args:
            prediction: `[B, H, P]`, of the hidden patches.
            patches: `[B, N, P]`, of the image.
            hidden: `[B, H]` their indices.
        """
        return F.mse_loss(prediction.float(), self.targets(gather_tokens(patches, hidden)).float())

    def compared(self, prediction: Tensor, patches: Tensor, hidden: Tensor) -> MAEOutput:
        """What a network that predicts whole images gives back.

        Args:
            prediction: `[B, C, X, Y, Z]`, of the targets.
            patches: `[B, N, P]`, of the image.
            hidden: `[B, H]` indices of the hidden ones.
        """
        predicted = patchify(prediction, self.patch_size)
        loss = self.loss(gather_tokens(predicted, hidden), patches, hidden)
        restored = None if self.training else self.restored(predicted.detach(), patches)
        return MAEOutput(loss, restored, self.mask(hidden))

    def targets(self, patches: Tensor) -> Tensor:
        """What is to be predicted of patches `[..., P]`."""
        if not self.normalise_targets:
            return patches
        return (patches - patches.mean(-1, keepdim=True)) / self._deviation(patches)

    def in_units_of(self, patches: Tensor, predicted: Tensor) -> Tensor:
        """The inverse of `targets`: scaled back by mean and deviation of `patches`, both `[..., P]`."""
        if not self.normalise_targets:
            return predicted
        return predicted * self._deviation(patches) + patches.mean(-1, keepdim=True)

    def restored(self, prediction: Tensor, patches: Tensor) -> Tensor:
        """The image `[B, C, X, Y, Z]` that a prediction of all patches `[B, N, P]` stands for, in its units."""
        return unpatchify(self.in_units_of(patches, prediction), self.grid, self.patch_size)

    def token_mask_to_voxels(self, mask: Tensor) -> Tensor:
        """Spread a mask of tokens `[B, N]` over the voxels that they cover, `[B, 1, X, Y, Z]`."""
        return spread_tokens(mask, self.grid, self.patch_size)

    def _deviation(self, patches: Tensor) -> Tensor:
        """What each patch is divided by, `[..., 1]`."""
        return (patches.var(-1, keepdim=True) + self.target_floor**2).sqrt()
