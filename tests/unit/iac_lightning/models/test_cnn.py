from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from monai.networks.nets import DynUNet
from torch import nn

from iac_lightning.config.cnn_plan import CNNPlan, plan_cnn
from iac_lightning.models.cnn import PlannedUNet, ResidualBlock


def tiny_plan(encoder: str = "plain", patch: tuple[int, int, int] = (16, 16, 8)) -> CNNPlan:
    return plan_cnn(patch, (0.8, 0.8, 1.6), base_features=2, max_features=6, encoder=encoder)


def test_parameters_are_those_of_nnunets_own_networks() -> None:
    plans = json.loads((Path(__file__).parents[1] / "config/nnunet_plans.json").read_text(encoding="utf-8"))["plans"]
    for row in {row["parameters"]: row for row in plans if "parameters" in row}.values():
        plan = plan_cnn(row["patch_size"], row["spacing_mm"], encoder=row["encoder"])
        with torch.device("meta"):
            network = PlannedUNet(plan, deep_supervision=True)
        assert sum(p.numel() for p in network.parameters()) == row["parameters"], row


@pytest.mark.parametrize("spacing_mm", [(1.6, 1.6, 1.6), (0.8, 0.8, 1.6)])
def test_parameters_are_those_of_dynunet_but_for_known_differences(spacing_mm: tuple[float, float, float]) -> None:
    plan = plan_cnn((48, 48, 32), spacing_mm, base_features=4, max_features=12)
    reference = DynUNet(
        3,
        1,
        1,
        kernel_size=plan.kernels,
        strides=plan.strides,
        upsample_kernel_size=plan.strides[1:],
        filters=plan.features,
        norm_name=("instance", {"affine": True}),
        deep_supervision=True,
        deep_supr_num=len(plan.strides) - 2,
        trans_bias=True,
    )
    # nnU-Net has biases in its convolutions (two a stage), and decodes with the kernel of the level it decodes;
    # DynUNet has none, and takes the kernel of the level below.
    biases = 2 * sum(plan.features) + 2 * sum(plan.features[:-1])
    sizes = [math.prod(kernel) for kernel in plan.kernels]
    kernels = sum(
        (here - below) * 3 * features**2  # 2f → f and f → f
        for here, below, features in zip(sizes, sizes[1:], plan.features, strict=False)
    )
    expected = sum(p.numel() for p in reference.parameters()) + biases + kernels
    assert sum(p.numel() for p in PlannedUNet(plan).parameters()) == expected


@pytest.mark.parametrize("encoder", ["plain", "residual"])
def test_logits_at_every_decoder_resolution_while_training(encoder: str) -> None:
    plan = tiny_plan(encoder)
    network, image = PlannedUNet(plan), torch.randn(2, 1, 16, 16, 8)
    levels = network.train()(image)
    assert [tuple(level.shape) for level in levels] == [(2, 1, *shape) for shape in plan.shapes()[:-1]]
    final = network.eval()(image)
    assert isinstance(final, torch.Tensor)
    torch.testing.assert_close(final, levels[0])


@pytest.mark.parametrize("encoder", ["plain", "residual"])
@pytest.mark.parametrize("deep_supervision", [True, False])
def test_gradients_reach_every_parameter(encoder: str, deep_supervision: bool) -> None:
    network = PlannedUNet(tiny_plan(encoder), deep_supervision=deep_supervision).train()
    output = network(torch.randn(2, 1, 16, 16, 8))
    assert isinstance(output, list) == deep_supervision
    sum(level.square().mean() for level in (output if isinstance(output, list) else [output])).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name


def test_skips_carry_the_image_past_the_bottleneck() -> None:
    network = PlannedUNet(tiny_plan()).eval()
    for upsample in network.upsample:
        for parameter in upsample.parameters():
            nn.init.zeros_(parameter)
    image = torch.randn(1, 1, 16, 16, 8)
    assert not torch.allclose(network(image), network(torch.randn_like(image)))


def test_start_of_the_weights() -> None:
    torch.manual_seed(0)
    network = PlannedUNet(plan_cnn((16, 16, 16), (1, 1, 1), base_features=32))
    convolution: Any = network.get_submodule("encoder_stages.1.1.0")
    expected = (2 / (1 + 0.01**2) / (64 * 27)) ** 0.5  # Kaiming, fan-in
    assert convolution.weight.std().item() == pytest.approx(expected, rel=0.02)
    assert all(p.eq(0).all() for name, p in network.named_parameters() if name.endswith("0.bias") and "heads" in name)


def test_residual_blocks_start_as_their_skip() -> None:
    network = PlannedUNet(tiny_plan("residual"))
    for stage in network.encoder_stages:
        assert isinstance(stage, nn.Sequential)
        block = stage[-1]
        assert isinstance(block, ResidualBlock)
        first: Any = block.get_submodule("conv1.0")
        x = torch.randn(1, first.in_channels, 4, 4, 4)
        torch.testing.assert_close(block(x), F.leaky_relu(block.skip(x), 0.01))


def test_shrinking_skip_averages() -> None:
    block, x = ResidualBlock(2, 2, (3, 3, 3), (2, 2, 1)), torch.randn(1, 2, 4, 4, 2)
    torch.testing.assert_close(block.skip(x)[0, 1, 1, 0, 1], x[0, 1, 2:4, 0:2, 1].mean())


@pytest.mark.parametrize("encoder", ["plain", "residual"])
def test_checkpointing_gives_the_same_gradients_and_stores_less(encoder: str) -> None:
    image, gradients, stored = torch.randn(2, 1, 16, 16, 8), [], []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        network = PlannedUNet(tiny_plan(encoder), activation_checkpointing=checkpointing).train()
        kept: list[torch.Tensor] = []

        def keep(tensor: torch.Tensor, kept: list[torch.Tensor] = kept) -> torch.Tensor:
            kept.append(tensor)
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
            outputs = network(image)
        stored.append(sum(t.nbytes for t in kept))
        torch.stack([output.square().sum() for output in outputs]).sum().backward()
        gradients.append({name: p.grad for name, p in network.named_parameters()})
    for name, gradient in gradients[0].items():
        if gradient is not None:
            torch.testing.assert_close(gradients[1][name], gradient)
    assert stored[1] < 0.7 * stored[0]
