"""The convolutional baseline: the U-Net that a plan describes (`config.cnn_plan`), as nnU-Net builds it."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from iac_lightning.config.cnn_plan import CNNPlan, Triple, triple

_SLOPE = 0.01


def _conv_norm(in_channels: int, out_channels: int, kernel: Triple, stride: Triple, bias: bool = True) -> nn.Sequential:
    padding = triple([k // 2 for k in kernel])
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
