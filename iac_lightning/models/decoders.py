"""From the encoder's tokens to voxel logits: three decoders, three ways of upsampling, any patch size per axis."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from iac_lightning.models.vit import ViTEncoder, token_grid, unpatchify

DECODERS = ("linear", "progressive", "unetr")
UPSAMPLINGS = ("transposed", "interpolation", "pixelshuffle")

Factor = tuple[int, int, int]


def upsampling_steps(patch_size: Sequence[int]) -> list[Factor]:
    """Factors per axis that take tokens back to voxels, from coarse to fine.

    Each axis is split into primes, large ones first (they are cheap where the grid is coarse). An axis with fewer
    steps than the others has them first: a token of (8, 8, 4) voxels is usually as long as it is wide in millimetres,
    and stays so until z has reached its resolution, as in nnU-Net's plans. (8, 8, 4) → (2, 2, 2), (2, 2, 2),
    (2, 2, 1); (6, 6, 4) → (3, 3, 2), (2, 2, 2).
    """
    per_axis = [_primes(p) for p in patch_size]
    steps = max(map(len, per_axis))
    x, y, z = (primes + [1] * (steps - len(primes)) for primes in per_axis)
    return list(zip(x, y, z, strict=True))


def _primes(number: int) -> list[int]:
    """Prime factors, largest first."""
    found, divisor = [], 2
    while number > 1:
        while number % divisor == 0:
            found.append(divisor)
            number //= divisor
        divisor += 1
    return found[::-1]


def pixel_shuffle(x: Tensor, factor: Sequence[int]) -> Tensor:
    """Channels to space, each axis by its own factor (Shi et al. 2016).

    `[B, C · fx · fy · fz, X, Y, Z]` → `[B, C, X · fx, Y · fy, Z · fz]`; channel ``((c · fx + i) · fy + j) · fz + k``
    goes to the offset (i, j, k). (MONAI's upsamples all axes by one factor.)
    """
    b, c, *size = x.shape
    (fx, fy, fz), (sx, sy, sz) = factor, size
    cut = x.reshape(b, c // (fx * fy * fz), fx, fy, fz, sx, sy, sz).permute(0, 1, 5, 2, 6, 3, 7, 4)
    return cut.reshape(b, -1, sx * fx, sy * fy, sz * fz)


class Upsample(nn.Module):
    """Enlarge each axis by its own factor.

    transposed: a transposed convolution with kernel = stride. interpolation: a 1 × 1 × 1 convolution to the new width
    (on the coarse grid, where it is cheap), trilinear interpolation, a 3 × 3 × 3 convolution. pixelshuffle: a
    3 × 3 × 3 convolution to all voxels' channels, shuffled into place.
    """

    def __init__(self, in_channels: int, out_channels: int, factor: Factor, upsampling: str) -> None:
        super().__init__()
        self.factor = factor
        self.upsampling = upsampling
        if upsampling == "transposed":
            self.grow: nn.Module = nn.ConvTranspose3d(in_channels, out_channels, factor, factor)
        elif upsampling == "interpolation":
            self.narrow = nn.Conv3d(in_channels, out_channels, 1, bias=False)
            self.smooth = nn.Conv3d(out_channels, out_channels, 3, padding=1)
        elif upsampling == "pixelshuffle":
            self.grow = nn.Conv3d(in_channels, out_channels * math.prod(factor), 3, padding=1)
        else:
            raise ValueError(f"{upsampling!r} is none of the upsamplings {', '.join(UPSAMPLINGS)}")

    def forward(self, x: Tensor) -> Tensor:
        """`[B, C, X, Y, Z]` → `[B, O, X · fx, Y · fy, Z · fz]`."""
        if self.upsampling == "interpolation":
            scale = tuple(float(f) for f in self.factor)
            return self.smooth(F.interpolate(self.narrow(x), scale_factor=scale, mode="trilinear"))
        grown: Tensor = self.grow(x)
        return pixel_shuffle(grown, self.factor) if self.upsampling == "pixelshuffle" else grown


class ConvBlock(nn.Sequential):
    """3 × 3 × 3 convolution (with a stride, to a coarser level), instance norm, leaky ReLU."""

    def __init__(self, in_channels: int, out_channels: int, stride: Factor = (1, 1, 1)) -> None:
        super().__init__(
            nn.Conv3d(in_channels, out_channels, 3, stride, padding=1, bias=False),
            nn.InstanceNorm3d(out_channels, affine=True),
            nn.LeakyReLU(0.01, inplace=True),
        )


def double_block(in_channels: int, out_channels: int, stride: Factor = (1, 1, 1)) -> nn.Sequential:
    """Two convolution blocks, the first with the stride."""
    return nn.Sequential(ConvBlock(in_channels, out_channels, stride), ConvBlock(out_channels, out_channels))


class LinearDecoder(nn.Module):
    """One linear map from each token to the logits of its voxels; knows no upsampling and no skip.

    Attributes:
        depths: blocks of the encoder whose features it wants besides the last tokens.
        head: the layer that gives logits.
    """

    depths: tuple[int, ...] = ()

    def __init__(self, encoder: ViTEncoder, out_channels: int) -> None:
        super().__init__()
        self.patch_size = encoder.patch_size
        self.head = nn.Linear(encoder.dim, out_channels * math.prod(encoder.patch_size))

    def forward(self, image: Tensor, features: Sequence[Tensor]) -> Tensor:
        """Logits `[B, O, X, Y, Z]` from the last tokens `[B, N, D]`."""
        return unpatchify(self.head(features[-1]), token_grid(image.shape[2:], self.patch_size), self.patch_size)


class ConvDecoder(nn.Module):
    """Tokens enlarged step by step, two convolution blocks after each step.

    Level 0 is full resolution; the tokens are at level L, one level a step of `upsampling_steps`. Level i has
    ``min(channels · 2^i, max_channels)`` channels. Features of the image itself are concatenated, for lesions are
    smaller than a token: at level 0 those of two convolution blocks, and with `pyramid` also at each level below the
    tokens', from two further blocks each, the first with a stride (a convolutional stem beside the ViT, Xiao et al.
    2021). With `skips` (UNETR, Hatamizadeh et al. 2022) each level i between gets the encoder's features from depth
    ``round(depth · i / L)``, shallow for fine, enlarged by the same kind of upsampling and concatenated.

    Attributes:
        depths: blocks of the encoder whose features it wants besides the last tokens.
        head: the layer that gives logits.
    """

    def __init__(
        self,
        encoder: ViTEncoder,
        upsampling: str,
        *,
        channels: int,
        max_channels: int,
        out_channels: int,
        skips: bool,
        pyramid: bool,
    ) -> None:
        super().__init__()
        self.patch_size = encoder.patch_size
        steps = upsampling_steps(encoder.patch_size)
        top = len(steps)
        if not steps:
            raise ValueError("tokens of one voxel leave nothing to enlarge")
        width = [min(channels * 2**level, max_channels) for level in range(top + 1)]
        # Levels from coarse to fine, as the steps: step s leads from level top − s to level top − s − 1.
        self.depths = tuple(max(round(encoder.depth * i / top), 1) for i in range(top - 1, 0, -1)) if skips else ()
        self.project = nn.Conv3d(encoder.dim, width[top], 1)
        self.grow = nn.ModuleList(
            Upsample(width[top - s], width[top - s - 1], factor, upsampling) for s, factor in enumerate(steps)
        )
        self.skips = nn.ModuleList(
            nn.Sequential(
                nn.Conv3d(encoder.dim, width[top - s - 1], 1),
                *(Upsample(width[top - s - 1], width[top - s - 1], factor, upsampling) for factor in steps[: s + 1]),
            )
            for s in range(len(self.depths))
        )
        # Level i of the image's features comes from level i − 1 by the factor of the step that leads back there.
        self.stem = nn.ModuleList([double_block(encoder.in_channels, width[0])])
        if pyramid:
            self.stem += [double_block(width[i - 1], width[i], steps[top - i]) for i in range(1, top)]
        self.merge = nn.ModuleList(
            double_block(width[i] * (1 + (i < len(self.stem)) + (skips and i > 0)), width[i])
            for i in range(top - 1, -1, -1)
        )
        self.head = nn.Conv3d(width[0], out_channels, 1)

    def forward(self, image: Tensor, features: Sequence[Tensor]) -> Tensor:
        """Voxel logits.

        Args:
            image: `[B, C, X, Y, Z]`.
            features: `[B, N, D]` of each of `depths`, then the encoder's last tokens.

        Returns:
            `[B, O, X, Y, Z]`.
        """
        grid = token_grid(image.shape[2:], self.patch_size)
        *between, last = (f.transpose(1, 2).reshape(len(f), -1, *grid) for f in features)
        skips = [skip(f) for skip, f in zip(self.skips, between, strict=True)]
        details = [self.stem[0](image)]
        for block in self.stem[1:]:
            details.append(block(details[-1]))
        x = self.project(last)
        for s, (grow, merge) in enumerate(zip(self.grow, self.merge, strict=True)):
            level = len(self.grow) - 1 - s
            parts = [grow(x), *details[level : level + 1], *skips[s : s + 1]]
            x = merge(torch.cat(parts, dim=1))
        logits: Tensor = self.head(x)
        return logits


def build_decoder(
    name: str,
    upsampling: str,
    encoder: ViTEncoder,
    channels: int = 16,
    max_channels: int = 128,
    out_channels: int = 1,
    pyramid: bool = True,
) -> LinearDecoder | ConvDecoder:
    """A decoder for an encoder's tokens.

    Args:
        name: ``linear``, ``progressive`` (last tokens and the image as a skip) or ``unetr`` (features of evenly spaced
            depths as well).
        upsampling: ``transposed``, ``interpolation`` or ``pixelshuffle``; `linear` has none.
        encoder: whose tokens it gets; fixes the patch size.
        channels: at full resolution; each coarser level has twice as many.
        max_channels: most channels of a level.
        out_channels: logits a voxel.
        pyramid: features of the image at every level below the tokens', not at full resolution alone.

    Raises:
        ValueError: for an unknown name or upsampling, and for tokens of one voxel unless the decoder is linear.
    """
    if upsampling not in UPSAMPLINGS:
        raise ValueError(f"{upsampling!r} is none of the upsamplings {', '.join(UPSAMPLINGS)}")
    if name == "linear":
        return LinearDecoder(encoder, out_channels)
    if name in ("progressive", "unetr"):
        return ConvDecoder(
            encoder,
            upsampling,
            channels=channels,
            max_channels=max_channels,
            out_channels=out_channels,
            skips=name == "unetr",
            pyramid=pyramid,
        )
    raise ValueError(f"{name!r} is none of the decoders {', '.join(DECODERS)}")


class ViTSegmenter(nn.Module):
    """Encoder and decoder: image `[B, C, X, Y, Z]` → voxel logits `[B, O, X, Y, Z]`."""

    def __init__(self, encoder: ViTEncoder, decoder: LinearDecoder | ConvDecoder) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder

    def forward(self, image: Tensor) -> Tensor:
        """Logits of every voxel."""
        tokens, features = self.encoder(image, return_depths=self.decoder.depths)
        logits: Tensor = self.decoder(image, [*features, tokens])
        return logits
