"""A convolutional baseline: topology planned from spacing and patch by nnU-Net's rules, and the U-Net it describes.

Isensee et al. 2021 (nnU-Net) and 2024 (residual encoders); the numbers are those of nnU-Net v2's planners.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from data_modules.errors import UserError

MIN_EDGE = 4
"""Smallest edge of a feature map, in voxels."""
_AXES = "xyz"
_PLAIN_CONVS = 2
_RESIDUAL_BLOCKS = (1, 3, 4, 6)
"""Residual blocks of the first stages; the last number goes on for all that follow."""
_SLOPE = 0.01

Triple = tuple[int, int, int]


@dataclass(frozen=True, kw_only=True)
class CNNPlan:
    """Topology of a planned U-Net; sequences run from full resolution to the bottleneck.

    Attributes:
        patch_size: voxels along x, y, z.
        spacing_mm: voxel size along x, y, z.
        encoder: ``plain`` or ``residual``.
        kernels: convolution kernel of each stage.
        strides: how much each stage shrinks its input.
        features: channels of each stage.
        n_conv_per_stage: convolutions (plain) or residual blocks of each encoder stage.
        n_conv_per_stage_decoder: convolutions of each decoder stage.
    """

    patch_size: Triple
    spacing_mm: tuple[float, float, float]
    encoder: str
    kernels: tuple[Triple, ...]
    strides: tuple[Triple, ...]
    features: tuple[int, ...]
    n_conv_per_stage: tuple[int, ...]
    n_conv_per_stage_decoder: tuple[int, ...]

    def shapes(self) -> list[Triple]:
        """Voxels along x, y, z of each stage's feature maps."""
        return [_shrink(self.patch_size, _total_stride(self.strides[: i + 1])) for i in range(len(self.strides))]

    def __str__(self) -> str:
        rows = [["stage", "stride", "kernel", "voxels", "spacing (mm)", "features", "blocks", "decoder"]]
        for i, shape in enumerate(self.shapes()):
            total = _total_stride(self.strides[: i + 1])
            spacing = " ".join(f"{s * t:g}" for s, t in zip(self.spacing_mm, total, strict=True))
            triples = (" ".join(map(str, t)) for t in (self.strides[i], self.kernels[i], shape))
            # The plan lists decoder stages from coarse to fine; the bottleneck has none.
            decoder = str(self.n_conv_per_stage_decoder[-1 - i]) if i < len(self.strides) - 1 else "–"
            rows.append([str(i), *triples, spacing, str(self.features[i]), str(self.n_conv_per_stage[i]), decoder])
        widths = [max(len(row[c]) for row in rows) for c in range(len(rows[0]))]
        return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows)


def plan_cnn(
    patch_size: Sequence[int],
    spacing_mm: Sequence[float],
    base_features: int = 32,
    max_features: int = 320,
    max_stages: int | None = None,
    encoder: str = "plain",
) -> CNNPlan:
    """Plan a U-Net by nnU-Net v2's rules.

    A step halves the axes that are long enough to stay at four voxels and whose spacing is less than twice the finest
    among these; when only one axis is left, it must be at least twelve voxels long. Kernels are 1 along an axis until
    its spacing is less than twice the finest of all, 3 from then on, and 3 × 3 × 3 in the bottleneck. Features double
    from stage to stage up to `max_features`.

    Args:
        patch_size: voxels along x, y, z. (nnU-Net's axes are z, y, x; the rules are the same.)
        spacing_mm: voxel size along x, y, z.
        base_features: channels of the first stage.
        max_features: most channels of a stage.
        max_stages: upper bound on the number of stages.
        encoder: ``plain`` (two convolutions a stage) or ``residual`` (1, 3, 4, 6, 6, … blocks a stage; one
            convolution a decoder stage).

    Raises:
        UserError: when a patch axis is no multiple of its total stride, with the nearest lengths that are (nnU-Net
            pads the patch instead), or the patch is too small for two stages.
    """
    if encoder not in ("plain", "residual"):
        raise UserError(f"model.cnn.encoder is {encoder!r}. Choose plain or residual.")
    patch, spacing = _triple(patch_size), tuple(float(s) for s in spacing_mm)
    strides, kernels = _topology(patch, spacing, max_stages)
    if len(strides) < 2:
        raise UserError(
            f"a CNN patch of {patch} voxels (data.sampling.crop), with model.cnn.max_stages = {max_stages}, gives no "
            f"U-Net of two stages. Take at least {2 * MIN_EDGE} voxels along two axes, and two stages or more."
        )
    problems = []
    for axis, total in enumerate(_total_stride(strides)):
        if patch[axis] % total:
            nearest = " or ".join(map(str, _valid_lengths(patch, spacing, max_stages, axis)))
            problems.append(f"{_AXES[axis]}: {patch[axis]} is no multiple of {total} (nearest that work: {nearest})")
    if problems:
        raise UserError(
            f"the CNN planned for a patch of {patch} voxels halves its axes beyond what they divide by; "
            f"{'; '.join(problems)}. Change data.sampling.crop."
        )
    stages = len(strides)
    residual = encoder == "residual"
    blocks = [_RESIDUAL_BLOCKS[min(i, len(_RESIDUAL_BLOCKS) - 1)] if residual else _PLAIN_CONVS for i in range(stages)]
    return CNNPlan(
        patch_size=patch,
        spacing_mm=(spacing[0], spacing[1], spacing[2]),
        encoder=encoder,
        kernels=kernels,
        strides=strides,
        features=tuple(min(max_features, base_features * 2**i) for i in range(stages)),
        n_conv_per_stage=tuple(blocks),
        n_conv_per_stage_decoder=(1 if residual else _PLAIN_CONVS,) * (stages - 1),
    )


def _topology(
    patch: Triple, spacing_mm: Sequence[float], max_stages: int | None
) -> tuple[tuple[Triple, ...], tuple[Triple, ...]]:
    """Strides and kernels of all stages, the bottleneck last."""
    size, spacing = list(patch), list(spacing_mm)
    strides: list[Triple] = [(1, 1, 1)]
    kernels: list[Triple] = []
    kernel = [1, 1, 1]
    while max_stages is None or len(strides) < max_stages:
        long_enough = [a for a in range(3) if size[a] >= 2 * MIN_EDGE]
        finest = min((spacing[a] for a in long_enough), default=math.inf)
        halved = [a for a in long_enough if spacing[a] < 2 * finest]
        if not halved or (len(halved) == 1 and size[halved[0]] < 3 * MIN_EDGE):
            break
        kernel = [3 if k == 3 or s < 2 * min(spacing) else 1 for k, s in zip(kernel, spacing, strict=True)]
        kernels.append(_triple(kernel))
        strides.append(_triple([2 if a in halved else 1 for a in range(3)]))
        for axis in halved:
            size[axis] = math.ceil(size[axis] / 2)
            spacing[axis] *= 2
    kernels.append((3, 3, 3))
    return tuple(strides), tuple(kernels)


def _valid_lengths(patch: Triple, spacing_mm: Sequence[float], max_stages: int | None, axis: int) -> list[int]:
    """The nearest shorter and longer length of an axis that its own plan divides (the other axes as they are)."""

    def divides(length: int) -> bool:
        trial = _triple([length if a == axis else n for a, n in enumerate(patch)])
        return length % _total_stride(_topology(trial, spacing_mm, max_stages)[0])[axis] == 0

    shorter = next((n for n in range(patch[axis] - 1, 0, -1) if divides(n)), None)
    longer = next(n for n in range(patch[axis] + 1, 8 * patch[axis] + 1024) if divides(n))
    return [longer] if shorter is None else [shorter, longer]


def _triple(values: Sequence[int]) -> Triple:
    x, y, z = (int(v) for v in values)
    return x, y, z


def _total_stride(strides: Sequence[Triple]) -> Triple:
    return _triple([math.prod(s[a] for s in strides) for a in range(3)])


def _shrink(patch: Triple, stride: Triple) -> Triple:
    return _triple([p // s for p, s in zip(patch, stride, strict=True)])


def _conv_norm(in_channels: int, out_channels: int, kernel: Triple, stride: Triple, bias: bool = True) -> nn.Sequential:
    padding = _triple([k // 2 for k in kernel])
    return nn.Sequential(
        nn.Conv3d(in_channels, out_channels, kernel, stride, padding, bias=bias),
        nn.InstanceNorm3d(out_channels, eps=1e-5, affine=True),
    )


def _conv_block(in_channels: int, out_channels: int, kernel: Triple, stride: Triple = (1, 1, 1)) -> nn.Sequential:
    """Convolution, instance norm, leaky ReLU."""
    block = _conv_norm(in_channels, out_channels, kernel, stride)
    return block.append(nn.LeakyReLU(_SLOPE, inplace=True))


class ResidualBlock(nn.Module):
    """Two convolutions and a skip; where it shrinks, the skip averages first (ResNet-D, He et al. 2019).

    The second norm starts at zero, so that the block starts as its skip.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel: Triple, stride: Triple) -> None:
        super().__init__()
        self.conv1 = _conv_block(in_channels, out_channels, kernel, stride)
        self.conv2 = _conv_norm(out_channels, out_channels, kernel, (1, 1, 1))
        self.skip = nn.Sequential()
        if stride != (1, 1, 1):
            self.skip.append(nn.AvgPool3d(stride, stride))
        if in_channels != out_channels:
            self.skip.append(_conv_norm(in_channels, out_channels, (1, 1, 1), (1, 1, 1), bias=False))
        self.activation = nn.LeakyReLU(_SLOPE, inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """`[B, C, X, Y, Z]` → `[B, O, X / sx, Y / sy, Z / sz]`."""
        return self.activation(self.conv2(self.conv1(x)) + self.skip(x))


def _encoder_stage(plan: CNNPlan, stage: int, in_channels: int) -> nn.Sequential:
    blocks = nn.Sequential()
    for i in range(plan.n_conv_per_stage[stage]):
        make = ResidualBlock if plan.encoder == "residual" else _conv_block
        stride = plan.strides[stage] if i == 0 else (1, 1, 1)
        blocks.append(make(in_channels, plan.features[stage], plan.kernels[stage], stride))
        in_channels = plan.features[stage]
    return blocks


class PlannedUNet(nn.Module):
    """The U-Net of a plan: `[B, C, X, Y, Z]` → logits.

    Args:
        plan: topology.
        in_channels: channels of the image.
        out_channels: logits a voxel.
        deep_supervision: give logits at every resolution of the decoder while training.
        activation_checkpointing: recompute the activations inside each stage in the backward pass.

    Attributes:
        heads: the layers that give logits, finest first.
    """

    def __init__(
        self,
        plan: CNNPlan,
        in_channels: int = 1,
        out_channels: int = 1,
        deep_supervision: bool = True,
        activation_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.plan = plan
        self.activation_checkpointing = activation_checkpointing
        self.deep_supervision = deep_supervision
        features = plan.features
        levels = range(len(features) - 2, -1, -1)  # of the decoder, coarse to fine
        residual = plan.encoder == "residual"
        self.stem = _conv_block(in_channels, features[0], plan.kernels[0]) if residual else nn.Identity()
        inputs = [features[0] if residual else in_channels, *features[:-1]]
        self.encoder_stages = nn.ModuleList(_encoder_stage(plan, i, n) for i, n in enumerate(inputs))
        self.upsample = nn.ModuleList(
            nn.ConvTranspose3d(features[i + 1], features[i], plan.strides[i + 1], plan.strides[i + 1]) for i in levels
        )
        self.decoder_stages = nn.ModuleList(
            nn.Sequential(
                *(
                    _conv_block(features[i] * (2 if k == 0 else 1), features[i], plan.kernels[i])
                    for k in range(plan.n_conv_per_stage_decoder[s])
                )
            )
            for s, i in enumerate(levels)
        )
        # Heads that no loss can reach would stop plain DDP.
        heads = features[:-1] if deep_supervision else features[:1]
        self.heads = nn.ModuleList(nn.Conv3d(n, out_channels, 1) for n in heads)
        self.apply(_initialise)

    def forward(self, image: Tensor) -> Tensor | list[Tensor]:
        """Logits.

        Args:
            image: `[B, C, X, Y, Z]`; axes are multiples of the plan's total stride.

        Returns:
            `[B, O, X, Y, Z]`; in training with deep supervision a list with one such tensor for each decoder stage,
            finest first.
        """
        x = self.stem(image)
        skips = []
        for stage in self.encoder_stages:
            x = self._run(stage, x)
            skips.append(x)
        outputs = []
        for s, (upsample, stage) in enumerate(zip(self.upsample, self.decoder_stages, strict=True)):
            level = len(skips) - 2 - s
            x = self._run(stage, torch.cat([upsample(x), skips[level]], dim=1))
            if level == 0 or (self.deep_supervision and self.training):
                outputs.append(self.heads[level](x))
        return outputs[::-1] if self.deep_supervision and self.training else outputs[-1]

    def _run(self, stage: nn.Module, x: Tensor) -> Tensor:
        recompute = self.activation_checkpointing and self.training and torch.is_grad_enabled()
        result: Tensor = checkpoint(stage, x, use_reentrant=False) if recompute else stage(x)
        return result


def _initialise(module: nn.Module) -> None:
    """Kaiming-normal weights for the leaky ReLU's slope, zero biases; last norms of residual blocks zero (nnU-Net)."""
    if isinstance(module, nn.Conv3d | nn.ConvTranspose3d):
        nn.init.kaiming_normal_(module.weight, a=_SLOPE)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, ResidualBlock):
        norm = module.conv2[1]
        assert isinstance(norm, nn.InstanceNorm3d)
        nn.init.zeros_(norm.weight)
        nn.init.zeros_(norm.bias)
