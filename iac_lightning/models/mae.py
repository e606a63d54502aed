"""Masked autoencoder on the encoder that segmentation uses too (He et al., CVPR 2022)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from iac_lightning.models.restoring import MAEOutput, Restorer
from iac_lightning.models.vit import ViTEncoder
from iac_lightning.models.vit_blocks import Block, initialise_linear, run_blocks
from iac_lightning.models.vit_positions import sincos_position_embedding


class MaskedAutoencoder(Restorer):
    """Encode the visible tokens only, restore the hidden ones with a light decoder.

    Args:
        encoder: the encoder to pre-train; its names in the state start with ``encoder.``, as in a segmenter.
        mask_ratio: share of tokens to hide; their number is ``round(mask_ratio · N)``.
        decoder_dim: width of the decoder.
        decoder_depth: blocks of the decoder.
        decoder_heads: attention heads of the decoder.
        mlp_ratio: width of the decoder's MLP over its width.
        normalise_targets: standardise each target patch before the loss.
        target_floor: see `Restorer`.

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
        target_floor: float = 0.05,
    ) -> None:
        super().__init__(
            encoder.grid,
            encoder.patch_size,
            mask_ratio=mask_ratio,
            normalise_targets=normalise_targets,
            target_floor=target_floor,
        )
        self.encoder = encoder
        self.decoder_embedding = nn.Linear(encoder.dim, decoder_dim)
        self.mask_token = nn.Parameter(torch.empty(decoder_dim))
        self.decoder_position_embedding = nn.Parameter(sincos_position_embedding(encoder.grid, decoder_dim))
        self.decoder_blocks = nn.ModuleList(Block(decoder_dim, decoder_heads, mlp_ratio) for _ in range(decoder_depth))
        self.decoder_norm = nn.LayerNorm(decoder_dim)
        self.head = nn.Linear(decoder_dim, encoder.patch_voxels)
        for module in (self.decoder_embedding, self.decoder_blocks, self.head):
            module.apply(initialise_linear)
        nn.init.normal_(self.mask_token, std=0.02)

    def forward(
        self,
        image: Tensor,
        generator: torch.Generator | None = None,
        noise: Tensor | None = None,
        condition: Tensor | None = None,
    ) -> MAEOutput:
        """Hide, encode, restore.

        Args:
            image: `[B, C, X, Y, Z]`, of the encoder's crop.
            generator: decides which tokens are hidden, when there is no `noise`; torch's global one when None.
            noise: `[B, N]`; the ``N − hidden`` tokens with the smallest values stay visible.
            condition: `[B, K]`, what the network is told beside the image.
        """
        encoder = self.encoder
        # Tokens go through the decoder in this order, visible first: a transformer does not mind, and the hidden ones
        # are one contiguous block then.
        patches, order = self.hide(image, generator, noise)
        n_visible = self.n_tokens - self.n_hidden
        keep, hidden = order[:, :n_visible], order[:, n_visible:]

        encoded = encoder(image, keep, condition=condition).tokens
        x = torch.cat([self.decoder_embedding(encoded), self.mask_token.expand(*hidden.shape, -1)], dim=1)
        x = x + self.decoder_position_embedding[order]
        # The loss looks at hidden tokens only: in training, the last block leaves the visible ones out.
        first = n_visible if self.training else 0
        recompute = encoder.activation_checkpointing and self.training
        x, _ = run_blocks(self.decoder_blocks, x, recompute=recompute, last_from=first)
        prediction = self.head(self.decoder_norm(x))

        loss = self.loss(prediction[:, n_visible - first :], patches, hidden)
        if self.training:
            return MAEOutput(loss, None, self.mask(hidden))
        natural = torch.empty_like(prediction).scatter_(1, order[..., None].expand_as(prediction), prediction)
        return MAEOutput(loss, self.restored(natural.detach(), patches), self.mask(hidden))

    def token_features(self, image: Tensor, condition: Tensor | None = None) -> Tensor:
        """What the encoder says of each token of an image that it sees whole."""
        tokens: Tensor = self.encoder(image, condition=condition).tokens
        return tokens
