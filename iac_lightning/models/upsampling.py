"""How features on a coarse grid become features on a finer one: three ways, any factor per axis."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from iac_lightning.models.vit_tokens import Factor

UPSAMPLINGS = ("transposed", "interpolation", "pixelshuffle")
SLOPE = 0.01
"""Of the leaky ReLUs."""


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
    3 × 3 × 3 convolution to all voxels' channels, shuffled into place. With `normalise`, instance norm and a leaky
    ReLU follow, and the weights start as He's.
    """

    def __init__(
        self, in_channels: int, out_channels: int, factor: Factor, upsampling: str, *, normalise: bool = False
    ) -> None:
        super().__init__()
        self.factor = factor
        self.upsampling = upsampling
        if upsampling == "transposed":
            self.grow: nn.Module = nn.ConvTranspose3d(in_channels, out_channels, factor, factor, bias=not normalise)
        elif upsampling == "interpolation":
            self.narrow = nn.Conv3d(in_channels, out_channels, 1, bias=False)
            self.smooth = nn.Conv3d(out_channels, out_channels, 3, padding=1, bias=not normalise)
        elif upsampling == "pixelshuffle":
            self.grow = nn.Conv3d(in_channels, out_channels * math.prod(factor), 3, padding=1)
        else:
            raise ValueError(f"{upsampling!r} is none of the upsamplings {', '.join(UPSAMPLINGS)}")
        self.after = norm_and_activation(out_channels) if normalise else nn.Identity()
        if normalise:
            self.apply(initialise_he)

    def forward(self, x: Tensor) -> Tensor:
        """`[B, C, X, Y, Z]` → `[B, O, X · fx, Y · fy, Z · fz]`."""
        if self.upsampling == "interpolation":
            scale = tuple(float(f) for f in self.factor)
            grown = self.smooth(F.interpolate(self.narrow(x), scale_factor=scale, mode="trilinear"))
        elif self.upsampling == "pixelshuffle":
            grown = pixel_shuffle(self.grow(x), self.factor)
        else:
            grown = self.grow(x)
        result: Tensor = self.after(grown)
        return result


def norm_and_activation(channels: int) -> nn.Sequential:
    """Instance norm and leaky ReLU."""
    return nn.Sequential(nn.InstanceNorm3d(channels, affine=True), nn.LeakyReLU(SLOPE, inplace=True))


class ConvBlock(nn.Sequential):
    """3 × 3 × 3 convolution (with a stride, to a coarser level), instance norm, leaky ReLU."""

    def __init__(self, in_channels: int, out_channels: int, stride: Factor = (1, 1, 1)) -> None:
        convolution = nn.Conv3d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        super().__init__(convolution, *norm_and_activation(out_channels))


def double_block(in_channels: int, out_channels: int, stride: Factor = (1, 1, 1)) -> nn.Sequential:
    """Two convolution blocks, the first with the stride."""
    return nn.Sequential(ConvBlock(in_channels, out_channels, stride), ConvBlock(out_channels, out_channels))


def initialise_he(module: nn.Module) -> None:
    """Normal weights of variance 2 / ((1 + slope²) · fan-in) and zero biases for convolutions (He et al. 2015).

    Each voxel that a transposed convolution with kernel = stride makes sees one voxel of its input: its fan-in is the
    number of input channels (torch counts output channels times kernel).
    """
    if isinstance(module, nn.ConvTranspose3d):
        nn.init.normal_(module.weight, std=nn.init.calculate_gain("leaky_relu", SLOPE) / math.sqrt(module.in_channels))
    elif isinstance(module, nn.Conv3d):
        nn.init.kaiming_normal_(module.weight, a=SLOPE)
    else:
        return
    if module.bias is not None:
        nn.init.zeros_(module.bias)
