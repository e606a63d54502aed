"""The convolutional baseline: the U-Net that a plan describes (`config.cnn_plan`), as nnU-Net builds it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from iac_lightning.config.cnn_plan import CNNPlan, Triple, triple
from iac_lightning.models.condition import films
from iac_lightning.models.sparse import emptied, normalised

_SLOPE = 0.01


def _conv_norm(in_channels: int, out_channels: int, kernel: Triple, stride: Triple, bias: bool = True) -> nn.Sequential:
    padding = triple([k // 2 for k in kernel])
    return nn.Sequential(
        nn.Conv3d(in_channels, out_channels, kernel, stride, padding, bias=bias),
        nn.InstanceNorm3d(out_channels, eps=1e-5, affine=True),
    )


Change = Callable[[Tensor], Tensor]
"""Of features `[B, C, X, Y, Z]` between the last norm of a stage and its activation."""


class ConvBlock(nn.Sequential):
    """Convolution, instance norm, leaky ReLU; with `visible`, only where something is visible (`sparse`)."""

    def __init__(self, in_channels: int, out_channels: int, kernel: Triple, stride: Triple = (1, 1, 1)) -> None:
        super().__init__(*_conv_norm(in_channels, out_channels, kernel, stride), nn.LeakyReLU(_SLOPE, inplace=True))

    def forward(self, x: Tensor, change: Change | None = None, visible: Tensor | None = None) -> Tensor:
        """`[B, C, X, Y, Z]` → `[B, O, X / sx, Y / sy, Z / sz]`."""
        convolution, norm, activation = self
        x = normalised(norm, convolution(x), visible)
        return emptied(activation(x if change is None else change(x)), visible)


class ResidualBlock(nn.Module):
    """Two convolutions and a skip; where it shrinks, the skip averages first (ResNet-D, He et al. 2019).

    The second norm starts at zero, so that the block starts as its skip.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel: Triple, stride: Triple) -> None:
        super().__init__()
        self.conv1 = ConvBlock(in_channels, out_channels, kernel, stride)
        self.conv2 = _conv_norm(out_channels, out_channels, kernel, (1, 1, 1))
        self.skip = nn.Sequential()
        if stride != (1, 1, 1):
            self.skip.append(nn.AvgPool3d(stride, stride))
        if in_channels != out_channels:
            self.skip.append(_conv_norm(in_channels, out_channels, (1, 1, 1), (1, 1, 1), bias=False))
        self.activation = nn.LeakyReLU(_SLOPE, inplace=True)

    def forward(self, x: Tensor, change: Change | None = None, visible: Tensor | None = None) -> Tensor:
        """`[B, C, X, Y, Z]` → `[B, O, X / sx, Y / sy, Z / sz]`."""
        inside, short = self._convolved(self.conv2, self.conv1(x, None, visible), visible), x
        for layer in self.skip:
            short = self._convolved(layer, short, visible) if isinstance(layer, nn.Sequential) else layer(short)
        x = inside + short
        return emptied(self.activation(x if change is None else change(x)), visible)

    @staticmethod
    def _convolved(layers: nn.Sequential, x: Tensor, visible: Tensor | None) -> Tensor:
        convolution, norm = layers
        return normalised(norm, convolution(x), visible)


class Stage(nn.Sequential):
    """Blocks one after another; what changes the features does so inside the last."""

    def forward(self, x: Tensor, change: Change | None = None, visible: Tensor | None = None) -> Tensor:
        """`[B, C, X, Y, Z]` → `[B, O, X / sx, Y / sy, Z / sz]`."""
        *blocks, last = self
        for block in blocks:
            x = block(x, None, visible)
        result: Tensor = last(x, change, visible)
        return result


def _encoder_stage(plan: CNNPlan, stage: int, in_channels: int) -> Stage:
    blocks = Stage()
    for i in range(plan.n_conv_per_stage[stage]):
        make = ResidualBlock if plan.encoder == "residual" else ConvBlock
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
        condition_on: what the network is told beside the image, by a `Film` before the last activation of each stage: a
            shift that came before a convolution would be lost in the norm behind it.
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
        condition_on: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self.plan = plan
        self.activation_checkpointing = activation_checkpointing
        self.deep_supervision = deep_supervision
        features = plan.features
        levels = range(len(features) - 2, -1, -1)  # of the decoder, coarse to fine
        residual = plan.encoder == "residual"
        self.stem = ConvBlock(in_channels, features[0], plan.kernels[0]) if residual else nn.Identity()
        inputs = [features[0] if residual else in_channels, *features[:-1]]
        self.encoder_stages = nn.ModuleList(_encoder_stage(plan, i, n) for i, n in enumerate(inputs))
        self.upsample = nn.ModuleList(
            nn.ConvTranspose3d(features[i + 1], features[i], plan.strides[i + 1], plan.strides[i + 1]) for i in levels
        )
        self.decoder_stages = nn.ModuleList(
            Stage(
                *(
                    ConvBlock(features[i] * (2 if k == 0 else 1), features[i], plan.kernels[i])
                    for k in range(plan.n_conv_per_stage_decoder[s])
                )
            )
            for s, i in enumerate(levels)
        )
        self.encoder_films = films(condition_on, features)
        self.decoder_films = films(condition_on, [features[i] for i in levels])
        # Heads that no loss can reach would stop plain DDP.
        heads = features[:-1] if deep_supervision else features[:1]
        self.heads = nn.ModuleList(nn.Conv3d(n, out_channels, 1) for n in heads)
        self.apply(_initialise)

    def forward(self, image: Tensor, condition: Tensor | None = None) -> Tensor | list[Tensor]:
        """Logits.

        Args:
            image: `[B, C, X, Y, Z]`; axes are multiples of the plan's total stride.
            condition: `[B, K]`, what the network is told beside it.

        Returns:
            `[B, O, X, Y, Z]`; in training with deep supervision a list with one such tensor for each decoder stage,
            finest first.
        """
        return self.decode(self.encode(image, condition), condition)

    def encode(self, image: Tensor, condition: Tensor | None = None, visible: Tensor | None = None) -> list[Tensor]:
        """Features of each encoder stage, finest first.

        Args:
            image: `[B, C, X, Y, Z]`.
            condition: `[B, K]`.
            visible: `[B, 1, X, Y, Z]`, 1 where a voxel is visible, else 0: hidden places stay empty at every resolution
                (`sparse`). None: all are.
        """
        x = image if isinstance(self.stem, nn.Identity) else self.stem(image, None, visible)
        skips = []
        for i, stage in enumerate(self.encoder_stages):
            x = self._run(stage, x, _change(self.encoder_films, i, condition), visible)
            skips.append(x)
        return skips

    def decode(self, skips: list[Tensor], condition: Tensor | None = None) -> Tensor | list[Tensor]:
        """Logits, as `forward`, from the features of the encoder stages."""
        x, outputs = skips[-1], []
        for s, (upsample, stage) in enumerate(zip(self.upsample, self.decoder_stages, strict=True)):
            level = len(skips) - 2 - s
            x = torch.cat([upsample(x), skips[level]], dim=1)
            x = self._run(stage, x, _change(self.decoder_films, s, condition))
            if level == 0 or (self.deep_supervision and self.training):
                outputs.append(self.heads[level](x))
        return outputs[::-1] if self.deep_supervision and self.training else outputs[-1]

    def _run(self, stage: nn.Module, x: Tensor, change: Change | None, visible: Tensor | None = None) -> Tensor:
        recompute = self.activation_checkpointing and self.training and torch.is_grad_enabled()
        inputs = (x, change, visible)
        result: Tensor = checkpoint(stage, *inputs, use_reentrant=False) if recompute else stage(*inputs)
        return result


def _change(of_stages: nn.ModuleList, stage: int, condition: Tensor | None) -> Change | None:
    """What a stage's features go through; None where the network is told nothing."""
    return partial(of_stages[stage], condition=condition) if len(of_stages) else None


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
