"""Masked autoencoder on the encoder that segmentation uses too (He et al., CVPR 2022)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from iac_lightning.models.vit import (
    Block,
    ViTEncoder,
    gather_tokens,
    initialise_linear,
    patchify,
    run_blocks,
    sincos_position_embedding,
    unpatchify,
)

_VARIANCE_FLOOR = 1e-6
"""Added to a patch's variance before its root: patches of pure air are constant."""


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


class MaskedAutoencoder(nn.Module):
    """Encode the visible tokens only, restore the hidden ones with a light decoder.

    Args:
        encoder: the encoder to pre-train; its names in the state start with ``encoder.``, as in a segmenter.
        mask_ratio: share of tokens to hide; their number is ``round(mask_ratio · N)``.
        decoder_dim: width of the decoder.
        decoder_depth: blocks of the decoder.
        decoder_heads: attention heads of the decoder.
        mlp_ratio: width of the decoder's MLP over its width.
        normalise_targets: standardise each target patch before the loss.

    Raises:
        ValueError: when nothing or everything would be hidden, or the heads do not divide the width.
    """

    def __init__(
        self,
        encoder: ViTEncoder,
        *,
        mask_ratio: float = 0.75,
        decoder_dim: int = 96,
        decoder_depth: int = 2,
        decoder_heads: int = 3,
        mlp_ratio: float = 4.0,
        normalise_targets: bool = False,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.n_hidden = round(mask_ratio * encoder.n_tokens)
        if not 0 < self.n_hidden < encoder.n_tokens:
            raise ValueError(f"a share of {mask_ratio:g} hides {self.n_hidden} of {encoder.n_tokens} tokens")
        self.normalise_targets = normalise_targets
        self.decoder_embedding = nn.Linear(encoder.dim, decoder_dim)
        self.mask_token = nn.Parameter(torch.empty(decoder_dim))
        self.decoder_position_embedding = nn.Parameter(sincos_position_embedding(encoder.grid, decoder_dim))
        self.decoder_blocks = nn.ModuleList(Block(decoder_dim, decoder_heads, mlp_ratio) for _ in range(decoder_depth))
        self.decoder_norm = nn.LayerNorm(decoder_dim)
        self.head = nn.Linear(decoder_dim, encoder.patch_embedding.in_features)
        for module in (self.decoder_embedding, self.decoder_blocks, self.head):
            module.apply(initialise_linear)
        nn.init.normal_(self.mask_token, std=0.02)

    def forward(
        self, image: Tensor, generator: torch.Generator | None = None, noise: Tensor | None = None
    ) -> MAEOutput:
        """Hide, encode, restore.

        Args:
            image: `[B, C, X, Y, Z]`, of the encoder's crop.
            generator: decides which tokens are hidden, when there is no `noise`; torch's global one when None.
            noise: `[B, N]`; the ``N − hidden`` tokens with the smallest values stay visible.

        Raises:
            ValueError: when the image is not of the encoder's crop.
        """
        encoder = self.encoder
        patches = patchify(image, encoder.patch_size)
        if patches.shape[1] != encoder.n_tokens:
            raise ValueError(
                f"image of {tuple(image.shape[2:])} voxels, but the autoencoder is for {encoder.grid} tokens"
            )
        if noise is None:
            device = generator.device if generator else image.device
            noise = torch.rand(patches.shape[:2], generator=generator, device=device).to(image.device)
        # Tokens go through the decoder in this order, visible first: a transformer does not mind, and the hidden ones
        # are one contiguous block then.
        order = noise.argsort(dim=1)
        n_visible = encoder.n_tokens - self.n_hidden
        keep, hidden = order[:, :n_visible], order[:, n_visible:]

        encoded, _ = encoder(image, keep)
        x = torch.cat([self.decoder_embedding(encoded), self.mask_token.expand(*hidden.shape, -1)], dim=1)
        x = x + self.decoder_position_embedding[order]
        # The loss looks at hidden tokens only: in training, the last block leaves the visible ones out.
        first = n_visible if self.training else 0
        recompute = encoder.activation_checkpointing and self.training
        x, _ = run_blocks(self.decoder_blocks, x, recompute=recompute, last_from=first)
        prediction = self.head(self.decoder_norm(x))

        target = gather_tokens(patches, hidden)
        if self.normalise_targets:
            target = (target - target.mean(-1, keepdim=True)) / _deviation(target)
        loss = F.mse_loss(prediction[:, n_visible - first :].float(), target.float())
        mask = torch.zeros_like(order, dtype=torch.bool).scatter_(1, hidden, True)
        return MAEOutput(loss, None if self.training else self._restore(prediction.detach(), order, patches), mask)

    def _restore(self, prediction: Tensor, order: Tensor, patches: Tensor) -> Tensor:
        """Predicted tokens in the decoder's order → image in its own units."""
        restored = torch.empty_like(prediction).scatter_(1, order[..., None].expand_as(prediction), prediction)
        if self.normalise_targets:
            restored = restored * _deviation(patches) + patches.mean(-1, keepdim=True)
        return unpatchify(restored, self.encoder.grid, self.encoder.patch_size)

    def token_mask_to_voxels(self, mask: Tensor) -> Tensor:
        """Spread a mask of tokens `[B, N]` over the voxels that they cover, `[B, 1, X, Y, Z]`."""
        voxels = mask.reshape(len(mask), 1, *self.encoder.grid)
        for axis, size in enumerate(self.encoder.patch_size, start=2):
            voxels = voxels.repeat_interleave(size, dim=axis)
        return voxels


def _deviation(patches: Tensor) -> Tensor:
    """Standard deviation of each patch, `[..., 1]`."""
    return (patches.var(-1, keepdim=True) + _VARIANCE_FLOOR).sqrt()
