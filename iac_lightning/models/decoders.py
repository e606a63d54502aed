"""From the encoder's tokens to voxel logits: three decoders, three ways of upsampling, any patch size per axis."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from iac_lightning.config.model_schema import DecoderConfig
from iac_lightning.models.condition import films
from iac_lightning.models.upsampling import UPSAMPLINGS, ConvBlock, Upsample, double_block, initialise_he
from iac_lightning.models.vit import ViTEncoder
from iac_lightning.models.vit_tokens import token_grid, unpatchify, upsampling_steps

DECODERS = ("linear", "progressive", "unetr")


class LinearDecoder(nn.Module):
    """One linear map from each token to the logits of its voxels; knows no upsampling and no skip.

    Args:
        encoder: whose tokens it gets.
        settings: `normalise` is heeded.
        out_channels: logits a voxel.

    Attributes:
        depths: blocks of the encoder whose features it wants besides the last tokens.
        heads: the layers that give logits.
    """

    depths: tuple[int, ...] = ()

    def __init__(self, encoder: ViTEncoder, settings: DecoderConfig, out_channels: int = 1) -> None:
        super().__init__()
        self.patch_size = encoder.patch_size
        self.norms = feature_norms(1, encoder.dim, settings.normalise)
        self.films = films(encoder.condition_on, [encoder.dim])
        self.head = nn.Linear(encoder.dim, out_channels * math.prod(encoder.patch_size))

    @property
    def heads(self) -> list[nn.Module]:
        """The layer that gives logits."""
        return [self.head]

    def forward(
        self,
        image: Tensor,
        features: Sequence[Tensor],
        details: Sequence[Tensor] = (),
        condition: Tensor | None = None,
    ) -> Tensor:
        """Logits `[B, O, X, Y, Z]` from the last tokens `[B, N, D]`, and what is told beside the image, `[B, K]`."""
        tokens = self.norms[-1](features[-1])
        for film in self.films:
            tokens = film(tokens, condition)
        logits = self.head(tokens)
        return unpatchify(logits, token_grid(image.shape[2:], self.patch_size), self.patch_size)


class ConvDecoder(nn.Module):
    """Tokens enlarged step by step, with convolution blocks after each step.

    Level 0 is full resolution; the tokens are at level L, one level a step of `upsampling_steps`. Level i has
    ``min(channels · 2^i, max_channels)`` channels. With `normalise`, every token that is handed over passes a layer
    norm, so that nothing depends on the scale that an encoder has come to, and every upsampling a norm.

    What is concatenated after each step, before `convolutions` blocks:

    - unetr (Hatamizadeh et al. 2022): at each level i between, the encoder's features from depth
      ``round(depth · i / L)``, shallow for fine, enlarged by the same kind of upsampling;
    - `image`: features of the image itself, of two convolution blocks at level 0, and with `pyramid` also at each
      level below the tokens', from two further blocks each, the first with a stride (a convolutional stem beside the
      ViT, Xiao et al. 2021);
    - `tokeniser_skips`: the conv tokeniser's feature maps of that level (PrimusV3, Wald et al. 2025).

    The last two go round the transformer.

    Args:
        encoder: whose tokens it gets.
        settings: of the decoder.
        out_channels: logits a voxel.

    Attributes:
        depths: blocks of the encoder whose features it wants besides the last tokens.

    Raises:
        ValueError: for tokens of one voxel.
    """

    def __init__(self, encoder: ViTEncoder, settings: DecoderConfig, out_channels: int = 1) -> None:
        super().__init__()
        self.patch_size = encoder.patch_size
        steps = upsampling_steps(encoder.patch_size)
        top = len(steps)
        if not steps:
            raise ValueError("tokens of one voxel leave nothing to enlarge")
        upsampling, normalise, skips = settings.upsampling, settings.normalise, settings.name == "unetr"
        width = [min(settings.channels * 2**level, settings.max_channels) for level in range(top + 1)]
        # Levels from coarse to fine, as the steps: step s leads from level top − s to level top − s − 1.
        self.depths = tuple(_skip_depth(encoder.depth, i / top) for i in range(top - 1, 0, -1)) if skips else ()
        self.norms = feature_norms(len(self.depths) + 1, encoder.dim, normalise)
        self.project = nn.Conv3d(encoder.dim, width[top], 1)
        self.grow = nn.ModuleList(
            Upsample(width[top - s], width[top - s - 1], factor, upsampling, normalise=normalise)
            for s, factor in enumerate(steps)
        )
        self.skips = nn.ModuleList(
            nn.Sequential(
                nn.Conv3d(encoder.dim, width[top - s - 1], 1),
                *(
                    Upsample(width[top - s - 1], width[top - s - 1], factor, upsampling, normalise=normalise)
                    for factor in steps[: s + 1]
                ),
            )
            for s in range(len(self.depths))
        )
        if normalise:
            self.project.apply(initialise_he)
            self.skips.apply(initialise_he)
        self.stem = nn.ModuleList()
        if settings.image:
            self.stem.append(double_block(encoder.in_channels, width[0]))
            # Level i of the image's features comes from level i − 1 by the factor of the step that leads back there.
            pyramid = range(1, top) if settings.pyramid else ()
            self.stem += [double_block(width[i - 1], width[i], steps[top - i]) for i in pyramid]
        found = encoder.detail_channels if settings.tokeniser_skips else []
        self.detail_norms = nn.ModuleList(nn.InstanceNorm3d(channels, affine=True) for channels in found)
        self.merge = nn.ModuleList()
        for i in range(top - 1, -1, -1):
            parts = [width[i]] * (1 + (i < len(self.stem)) + (skips and i > 0))
            self.merge.append(_merge(sum(parts) + sum(found[i : i + 1]), width[i], settings.convolutions))
        self.films = films(encoder.condition_on, width[top - 1 :: -1])
        self.head = nn.Conv3d(width[0], out_channels, 1)
        coarse = width[1:] if settings.deep_supervision else []
        self.coarse_heads = nn.ModuleList(nn.Conv3d(channels, out_channels, 1) for channels in coarse)

    @property
    def heads(self) -> list[nn.Module]:
        """The layers that give logits, finest first."""
        return [self.head, *self.coarse_heads]

    def forward(
        self,
        image: Tensor,
        features: Sequence[Tensor],
        details: Sequence[Tensor] = (),
        condition: Tensor | None = None,
    ) -> Tensor | list[Tensor]:
        """Voxel logits.

        Args:
            image: `[B, C, X, Y, Z]`.
            features: `[B, N, D]` of each of `depths`, then the encoder's last tokens.
            details: `[B, C_i, X_i, Y_i, Z_i]` of the conv tokeniser, finest first; needed with `tokeniser_skips`.
            condition: `[B, K]`, what the network is told beside the image; it changes the features of every level.

        Returns:
            `[B, O, X, Y, Z]`; in training with deep supervision a list with one such tensor for each level, finest
            first, the last on the grid of the tokens.
        """
        grid = token_grid(image.shape[2:], self.patch_size)
        normed = (norm(f) for norm, f in zip(self.norms, features, strict=True))
        *between, last = (f.transpose(1, 2).reshape(len(f), -1, *grid) for f in normed)
        skips = [skip(f) for skip, f in zip(self.skips, between, strict=True)]
        of_image: list[Tensor] = []
        for block in self.stem:
            of_image.append(block(of_image[-1] if of_image else image))
        of_tokeniser = [norm(d) for norm, d in zip(self.detail_norms, details[: len(self.detail_norms)], strict=True)]
        x = self.project(last)
        stages = [x]
        for s, (grow, merge) in enumerate(zip(self.grow, self.merge, strict=True)):
            level = slice(len(self.grow) - 1 - s, len(self.grow) - s)
            parts = [grow(x), *of_image[level], *skips[s : s + 1], *of_tokeniser[level]]
            x = _merged(
                merge, torch.cat(parts, dim=1) if len(parts) > 1 else parts[0], self.films[s : s + 1], condition
            )
            stages.append(x)
        if not (self.training and self.coarse_heads):
            logits: Tensor = self.head(x)
            return logits
        return [head(stage) for head, stage in zip(self.heads, reversed(stages), strict=True)]


def feature_norms(count: int, dim: int, normalise: bool) -> nn.ModuleList:
    """A layer norm for each feature `[B, N, D]` that the encoder hands over, or nothing."""
    return nn.ModuleList(nn.LayerNorm(dim) if normalise else nn.Identity() for _ in range(count))


def _skip_depth(depth: int, share: float) -> int:
    """The block after which features are taken: none is before the first, and an encoder may have none at all."""
    return min(max(round(depth * share), 1), depth)


def _merge(in_channels: int, out_channels: int, convolutions: int) -> nn.Module:
    """Convolution blocks over what was concatenated; without any, a 1 × 1 × 1 convolution where the width needs one."""
    if convolutions == 0:
        return nn.Identity() if in_channels == out_channels else nn.Conv3d(in_channels, out_channels, 1)
    widths = [in_channels] + [out_channels] * convolutions
    return nn.Sequential(*(ConvBlock(a, b) for a, b in pairwise(widths)))


def _merged(merge: nn.Module, x: Tensor, of_level: Iterable[nn.Module], condition: Tensor | None) -> Tensor:
    """What a level makes of its parts, changed before the last activation: behind it a norm would take shifts out."""
    activation: nn.Module = nn.Identity()
    if isinstance(merge, nn.Sequential):
        *blocks, last = merge
        assert isinstance(last, ConvBlock)
        convolution, norm, activation = last
        for layer in (*blocks, convolution, norm):
            x = layer(x)
    else:
        x = merge(x)
    for film in of_level:
        x = film(x, condition)
    result: Tensor = activation(x)
    return result


def build_decoder(settings: DecoderConfig, encoder: ViTEncoder, out_channels: int = 1) -> LinearDecoder | ConvDecoder:
    """A decoder for an encoder's tokens.

    Args:
        settings: what `DecoderConfig` explains.
        encoder: whose tokens it gets; fixes the patch size.
        out_channels: logits a voxel.

    Raises:
        ValueError: for an unknown name or upsampling, and for tokens of one voxel unless the decoder is linear.
    """
    if settings.upsampling not in UPSAMPLINGS:
        raise ValueError(f"{settings.upsampling!r} is none of the upsamplings {', '.join(UPSAMPLINGS)}")
    if settings.name == "linear":
        return LinearDecoder(encoder, settings, out_channels)
    if settings.name in DECODERS:
        return ConvDecoder(encoder, settings, out_channels)
    raise ValueError(f"{settings.name!r} is none of the decoders {', '.join(DECODERS)}")


class ViTSegmenter(nn.Module):
    """Encoder and decoder: image `[B, C, X, Y, Z]` → voxel logits `[B, O, X, Y, Z]`."""

    def __init__(self, encoder: ViTEncoder, decoder: LinearDecoder | ConvDecoder) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder

    def forward(self, image: Tensor, condition: Tensor | None = None) -> Tensor | list[Tensor]:
        """Logits of every voxel; in training with deep supervision of every level, finest first.

        Args:
            image: `[B, C, X, Y, Z]`.
            condition: `[B, K]`, what the network is told beside it (`model.condition_on`).
        """
        tokens, features, details = self.encoder(image, return_depths=self.decoder.depths, condition=condition)
        logits: Tensor | list[Tensor] = self.decoder(image, [*features, tokens], details, condition)
        return logits
