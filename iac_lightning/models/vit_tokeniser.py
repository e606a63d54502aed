"""Tokens by convolutions: the image shrinks step by step to the grid of tokens."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from iac_lightning.models.vit_tokens import Factor, gather_tokens, mask_of, spread_tokens, token_grid, upsampling_steps


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of each voxel by itself (ConvNeXt, Liu et al. 2022), `[B, C, X, Y, Z]` → the same.

    An instance norm would carry the statistics of hidden voxels to visible ones, and take the level of HU away.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalise; in the precision that came in, which autocast's layer norm leaves."""
        normalised = F.layer_norm(x.movedim(1, -1), self.normalized_shape, self.weight, self.bias, self.eps)
        return normalised.movedim(-1, 1).to(x.dtype)


class ResidualBlock(nn.Module):
    """Two 3 × 3 × 3 convolutions with norms, the first with a stride, beside a mean of the cells that become one.

    The shortcut is that of ResNet-D (He et al. 2019), as nnU-Net's and PrimusV2's, but without a norm, so that
    brightness has a way through: HU mean something. Where a mask is given, hidden cells are empty before and after each
    convolution.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: Factor) -> None:
        super().__init__()
        kx, ky, kz = (max(3, s) for s in stride)  # primes: odd from 3 on; no voxel is left out
        self.stride = stride
        self.conv1 = nn.Conv3d(in_channels, out_channels, (kx, ky, kz), stride, (kx // 2, ky // 2, kz // 2), bias=False)
        self.norm1 = ChannelNorm(out_channels)
        self.conv2 = nn.Conv3d(out_channels, out_channels, 3, padding=1, bias=False)
        self.norm2 = ChannelNorm(out_channels)
        self.shortcut = nn.Conv3d(in_channels, out_channels, 1)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """`[B, C, X, Y, Z]` → `[B, O, X / sx, Y / sy, Z / sz]`; `mask` `[B, 1, X / sx, Y / sy, Z / sz]` is 0 or 1."""
        inside = _hidden(F.leaky_relu(self.norm1(self.conv1(x))), mask)
        short = self.shortcut(_cell_means(x, self.stride))
        return _hidden(F.leaky_relu(self.norm2(self.conv2(inside)) + short), mask)


def _cell_means(x: Tensor, cell: Factor) -> Tensor:
    """`[B, C, X, Y, Z]` → `[B, C, X / cx, Y / cy, Z / cz]`; torch pools 3D in bfloat16 on GPUs only."""
    b, c, *size = x.shape
    (nx, ny, nz), (cx, cy, cz) = (n // k for n, k in zip(size, cell, strict=True)), cell
    return x.reshape(b, c, nx, cx, ny, cy, nz, cz).mean(dim=(3, 5, 7))


def _hidden(x: Tensor, mask: Tensor | None) -> Tensor:
    return x if mask is None else x * mask.to(x.dtype)


class ConvTokeniser(nn.Module):
    """Residual convolutions from voxels to tokens (PrimusV2, Wald et al. 2025; early convolutions, Xiao et al. 2021).

    A convolution at full resolution, without a norm, which would leave nothing of an image's brightness; then one
    `ResidualBlock` a step of `upsampling_steps`, from fine to coarse, so that any patch size an axis works. Channels
    double with each step, up to the token's width. A linear map makes tokens of the last features.

    Neighbouring tokens share voxels: with convolutions as they are, a visible token would know what a hidden one
    covers. Therefore hidden voxels are set to 0 in the image and after every convolution, at every resolution, as
    sparse convolutions would (SparK, Tian et al. 2023; ConvNeXt V2, Woo et al. 2023), and no norm looks beyond a voxel.

    Args:
        patch_size: voxels of a token along x, y, z.
        in_channels: of the image.
        channels: at full resolution.
        dim: width of a token.

    Attributes:
        channels: of each level, finest first; the last level is the grid of tokens.
    """

    def __init__(self, patch_size: Sequence[int], in_channels: int, channels: int, dim: int) -> None:
        super().__init__()
        self.patch_size = tuple(patch_size)
        steps = upsampling_steps(patch_size)[::-1]
        self.channels = [min(channels * 2**level, dim) for level in range(len(steps) + 1)]
        self.stem = nn.Conv3d(in_channels, self.channels[0], 3, padding=1)
        self.stages = nn.ModuleList(
            ResidualBlock(self.channels[level], self.channels[level + 1], step) for level, step in enumerate(steps)
        )
        self.projection = nn.Linear(self.channels[-1], dim)
        for module in self.modules():
            if isinstance(module, nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, a=0.01, nonlinearity="leaky_relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.xavier_uniform_(self.projection.weight)
        nn.init.zeros_(self.projection.bias)

    def forward(self, image: Tensor, keep: Tensor | None = None) -> tuple[Tensor, list[Tensor]]:
        """Tokens of an image.

        Args:
            image: `[B, C, X, Y, Z]`.
            keep: `[B, K]` indices of the visible tokens; all when None.

        Returns:
            Tokens `[B, K, D]`, and the features of each level but the tokens', finest first, `[B, C_i, X_i, Y_i, Z_i]`.
        """
        grid = token_grid(image.shape[2:], self.patch_size)
        visible = None if keep is None else mask_of(keep, math.prod(grid), image.dtype)
        factor = self.patch_size
        mask = None if visible is None else spread_tokens(visible, grid, factor)
        x = _hidden(F.leaky_relu(self.stem(_hidden(image, mask))), mask)
        levels = [x]
        for stage in self.stages:
            assert isinstance(stage, ResidualBlock)
            factor = tuple(f // s for f, s in zip(factor, stage.stride, strict=True))
            x = stage(x, None if visible is None else spread_tokens(visible, grid, factor))
            levels.append(x)
        cells = x.flatten(2).transpose(1, 2)
        return self.projection(cells if keep is None else gather_tokens(cells, keep)), levels[:-1]
