"""Masked autoencoders of the same sizes, ours, MONAI's and nnssl's EvaMAE, and the loss over their hidden tokens."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from iac_lightning.models.mae import MaskedAutoencoder
from iac_lightning.models.vit import ViTEncoder
from iac_lightning.models.vit_tokens import patchify

Loss = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Sizes:
    """Crop and patch in voxels; width, blocks and heads of encoder and decoder; share of the tokens that is hidden."""

    crop: tuple[int, int, int]
    patch: tuple[int, int, int]
    encoder: tuple[int, int, int]
    decoder: tuple[int, int, int]
    mask_ratio: float = 0.75

    @property
    def tokens(self) -> int:
        """Of a crop."""
        x, y, z = (c // p for c, p in zip(self.crop, self.patch, strict=True))
        return x * y * z


def ours(sizes: Sizes) -> tuple[nn.Module, Loss]:
    """The project's."""
    dim, depth, heads = sizes.encoder
    decoder_dim, decoder_depth, decoder_heads = sizes.decoder
    encoder = ViTEncoder(crop=sizes.crop, patch_size=sizes.patch, dim=dim, depth=depth, heads=heads)
    network = MaskedAutoencoder(
        encoder,
        mask_ratio=sizes.mask_ratio,
        decoder_dim=decoder_dim,
        decoder_depth=decoder_depth,
        decoder_heads=decoder_heads,
    )
    return network, lambda image: network(image).loss


def monai(sizes: Sizes, *, flash: bool) -> tuple[nn.Module, Loss]:
    """MONAI's `MaskedAutoEncoderViT`, which gives predictions and a mask.

    Args:
        sizes: as ours.
        flash: attention by `scaled_dot_product_attention`, which its blocks offer and the network does not pass on;
            otherwise by einsum, its default.
    """
    from monai.networks.nets import MaskedAutoEncoderViT

    dim, depth, heads = sizes.encoder
    decoder_dim, decoder_depth, decoder_heads = sizes.decoder
    network = MaskedAutoEncoderViT(
        in_channels=1,
        img_size=sizes.crop,
        patch_size=sizes.patch,
        hidden_size=dim,
        mlp_dim=4 * dim,
        num_layers=depth,
        num_heads=heads,
        masking_ratio=sizes.mask_ratio,
        decoder_hidden_size=decoder_dim,
        decoder_mlp_dim=4 * decoder_dim,
        decoder_num_layers=decoder_depth,
        decoder_num_heads=decoder_heads,
    )
    blocks = [module for module in network.modules() if hasattr(module, "use_flash_attention")]
    assert blocks, "MONAI's attention has no flash option any more"
    for block in blocks:
        block.use_flash_attention = flash

    def loss(image: Tensor) -> Tensor:
        prediction, mask = network(image)
        error = (prediction.float() - patchify(image, sizes.patch).float()).square().mean(-1)
        return (error * mask).sum() / mask.sum()

    return network, loss


def nnssl(sizes: Sizes) -> tuple[nn.Module, Loss]:
    """Nnssl's `EvaMAE`, whose decoder is as wide as its encoder; its image is compared where it was hidden.

    Rotary embeddings take heads of a multiple of 6 values.
    """
    from nnssl.architectures.evaMAE_module import EvaMAE

    dim, depth, heads = sizes.encoder
    decoder_dim, decoder_depth, decoder_heads = sizes.decoder
    assert decoder_dim == dim, "EvaMAE's decoder is as wide as its encoder"
    network = EvaMAE(
        input_channels=1,
        embed_dim=dim,
        patch_embed_size=sizes.patch,
        output_channels=1,
        encoder_eva_depth=depth,
        encoder_eva_numheads=heads,
        decoder_eva_depth=decoder_depth,
        decoder_eva_numheads=decoder_heads,
        input_shape=sizes.crop,
        patch_drop_rate=sizes.mask_ratio,
    )

    def loss(image: Tensor) -> Tensor:
        restored, keep = network(image)
        error = (patchify(restored, sizes.patch).float() - patchify(image, sizes.patch).float()).square().mean(-1)
        mask = torch.ones_like(error).scatter_(1, keep, 0.0)
        return (error * mask).sum() / mask.sum()

    return network, loss
