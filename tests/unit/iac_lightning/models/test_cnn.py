from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from monai.networks.nets import DynUNet
from torch import nn

from data_modules.errors import UserError
from iac_lightning.models.cnn import CNNPlan, PlannedUNet, ResidualBlock, plan_cnn


def tiny_plan(encoder: str = "plain", patch: tuple[int, int, int] = (16, 16, 8)) -> CNNPlan:
    return plan_cnn(patch, (0.8, 0.8, 1.6), base_features=2, max_features=6, encoder=encoder)


def test_isotropic_cube() -> None:
    # 128 → 64 → 32 → 16 → 8 → 4: five halvings, six stages.
    plan = plan_cnn((128, 128, 128), (1, 1, 1))
    assert plan.strides == ((1, 1, 1), *[(2, 2, 2)] * 5)
    assert plan.kernels == ((3, 3, 3),) * 6
    assert plan.features == (32, 64, 128, 256, 320, 320)
    assert plan.n_conv_per_stage == (2,) * 6
    assert plan.n_conv_per_stage_decoder == (2,) * 5
    assert plan.shapes()[-1] == (4, 4, 4)


def test_thick_slices_wait_until_the_plane_is_as_coarse() -> None:
    # In-plane spacing 0.5, 1, 2, 4 mm: 5 mm slices are within a factor of two of the last only.
    plan = plan_cnn((256, 256, 16), (0.5, 0.5, 5))
    flat, cube = (2, 2, 1), (2, 2, 2)
    assert plan.strides == ((1, 1, 1), flat, flat, flat, cube, cube, flat)
    assert plan.kernels == (*[(3, 3, 1)] * 3, *[(3, 3, 3)] * 4)
    assert plan.shapes()[-1] == (4, 4, 4)


def test_the_axis_of_thick_slices_may_be_any() -> None:
    plan = plan_cnn((16, 256, 256), (5, 0.5, 0.5))
    assert plan.strides[1] == (1, 2, 2)
    assert plan.kernels[0] == (1, 3, 3)


def test_the_default_patch() -> None:
    # After three steps z could be halved once more, alone: 8 voxels are fewer than the 12 that takes.
    plan = plan_cnn((48, 48, 32), (0.8, 0.8, 1.6))
    assert plan.strides == ((1, 1, 1), (2, 2, 1), (2, 2, 2), (2, 2, 2))
    assert plan.kernels == ((3, 3, 1), (3, 3, 3), (3, 3, 3), (3, 3, 3))
    assert plan.shapes() == [(48, 48, 32), (24, 24, 32), (12, 12, 16), (6, 6, 8)]


def test_a_single_long_axis_is_halved_from_twelve_voxels() -> None:
    assert plan_cnn((8, 8, 32), (1, 1, 1)).shapes()[1:] == [(4, 4, 16), (4, 4, 8)]


def test_the_bottleneck_kernel_is_three_cubed_even_where_slices_stay_thick() -> None:
    assert plan_cnn((16, 16, 8), (0.5, 0.5, 10)).kernels == ((3, 3, 1), (3, 3, 1), (3, 3, 3))


def test_stages_and_features_are_bounded() -> None:
    plan = plan_cnn((64, 64, 64), (1, 1, 1), base_features=8, max_features=20, max_stages=3)
    assert plan.features == (8, 16, 20)
    assert len(plan.strides) == len(plan.kernels) == 3


def test_residual_blocks_a_stage() -> None:
    plan = plan_cnn((128, 128, 128), (1, 1, 1), encoder="residual")
    assert plan.n_conv_per_stage == (1, 3, 4, 6, 6, 6)
    assert plan.n_conv_per_stage_decoder == (1,) * 5


def test_axis_that_does_not_divide_is_named_with_the_nearest() -> None:
    # 50 → 25 → 13 → 7: three halvings of an axis that is no multiple of eight.
    with pytest.raises(UserError, match=r"y: 50 is no multiple of 8 \(nearest that work: 48 or 56\)") as raised:
        plan_cnn((48, 50, 32), (0.8, 0.8, 1.6))
    assert "x:" not in str(raised.value)
    for length in (48, 56):
        plan_cnn((48, length, 32), (0.8, 0.8, 1.6))


@pytest.mark.parametrize(("patch", "stages"), [((4, 4, 4), None), ((32, 32, 32), 1)])
def test_a_patch_for_one_stage_is_refused(patch: tuple[int, int, int], stages: int | None) -> None:
    with pytest.raises(UserError, match="no U-Net of two stages"):
        plan_cnn(patch, (1, 1, 1), max_stages=stages)


def test_an_unknown_encoder_is_refused() -> None:
    with pytest.raises(UserError, match=r"'resnet'. Choose plain or residual"):
        plan_cnn((32, 32, 32), (1, 1, 1), encoder="resnet")


def test_plan_reads_as_a_table() -> None:
    lines = str(plan_cnn((48, 48, 32), (0.8, 0.8, 1.6))).splitlines()
    assert " ".join(lines[0].split()) == "stage stride kernel voxels spacing (mm) features blocks decoder"
    assert " ".join(lines[2].split()) == "1 2 2 1 3 3 3 24 24 32 1.6 1.6 1.6 64 2 2"
    assert lines[4].split()[-2:] == ["2", "–"]


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
