from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from iac_lightning.models.vit_tokeniser import ChannelNorm, ConvTokeniser, ResidualBlock


@pytest.mark.parametrize(
    ("patch", "channels", "sizes"),
    [
        ((8, 8, 4), [4, 8, 16, 20], [(16, 8, 8), (8, 4, 8), (4, 2, 4)]),
        ((6, 4, 1), [4, 8, 16], [(12, 4, 2), (6, 2, 2)]),
        ((5, 2, 1), [4, 8], [(10, 2, 2)]),
        ((1, 1, 1), [4], []),
    ],
)
def test_any_patch_size_shrinks_step_by_step(
    patch: tuple[int, int, int], channels: list[int], sizes: list[tuple[int, int, int]]
) -> None:
    tokeniser = ConvTokeniser(patch, 2, 4, 20)
    assert tokeniser.channels == channels
    crop = [2 * patch[0], patch[1], 2 * patch[2]]
    image = torch.randn(3, 2, *crop).requires_grad_()
    tokens, details = tokeniser(image)
    assert tokens.shape == (3, 4, 20)
    assert [tuple(d.shape[1:]) for d in details] == [(c, *size) for c, size in zip(channels, sizes, strict=False)]
    tokens.square().sum().backward()
    assert image.grad is not None
    assert image.grad.all()  # no voxel is left out


def test_residual_block_by_its_parts() -> None:
    torch.manual_seed(0)
    block, x = ResidualBlock(3, 5, (2, 2, 1)), torch.randn(2, 3, 8, 4, 6)

    def normalised(y: torch.Tensor) -> torch.Tensor:
        return (y - y.mean(1, keepdim=True)) / (y.var(1, correction=0, keepdim=True) + 1e-5).sqrt()

    inside = F.leaky_relu(normalised(F.conv3d(x, block.conv1.weight, stride=(2, 2, 1), padding=1)), 0.01)
    long = normalised(F.conv3d(inside, block.conv2.weight, padding=1))
    short = F.conv3d(F.avg_pool3d(x, (2, 2, 1)), block.shortcut.weight, block.shortcut.bias)
    torch.testing.assert_close(block(x), F.leaky_relu(long + short, 0.01))


def test_masked_cells_stay_empty_at_every_resolution() -> None:
    torch.manual_seed(0)
    tokeniser, keep = ConvTokeniser((4, 4, 2), 1, 4, 12), torch.tensor([[0, 5]])  # of 2 × 2 × 2 tokens
    _, details = tokeniser(torch.randn(1, 1, 8, 8, 4), keep)
    for features, (x, y, z) in zip(details, ((4, 4, 2), (2, 2, 2)), strict=True):
        whole = features[0].unflatten(3, (2, z)).unflatten(2, (2, y)).unflatten(1, (2, x))  # C, gx, x, gy, y, gz, z
        energy = whole.square().sum(dim=(0, 2, 4, 6)).flatten()
        assert energy.nonzero().flatten().tolist() == [0, 5]


def test_all_tokens_kept_are_as_none_hidden() -> None:
    torch.manual_seed(0)
    tokeniser, image, order = ConvTokeniser((4, 4, 2), 1, 4, 12), torch.randn(2, 1, 8, 8, 4), torch.randperm(8)
    whole, kept = tokeniser(image)[0], tokeniser(image, order.expand(2, -1))[0]
    torch.testing.assert_close(kept, whole[:, order])


def test_channel_norm_leaves_the_precision_that_came_in() -> None:
    x = torch.randn(2, 4, 3, 3, 3, dtype=torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        assert ChannelNorm(4)(x).dtype == torch.bfloat16


def test_brightness_has_a_way_through() -> None:
    """After norms alone, twice as bright would be the same token."""
    torch.manual_seed(0)
    tokeniser = ConvTokeniser((4, 4, 2), 1, 8, 12)
    levels = torch.stack([tokeniser(torch.full((1, 1, 8, 8, 4), value))[0][0, 0] for value in (0.25, 0.5, 1.0)])
    assert torch.cdist(levels, levels)[~torch.eye(3, dtype=torch.bool)].min() > 0.05
