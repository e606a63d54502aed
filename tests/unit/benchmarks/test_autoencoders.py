"""Peers of the same sizes, and MONAI's two ways of attention are one function."""

from __future__ import annotations

import pytest
import torch

from benchmarks.autoencoders import Sizes, monai, nnssl, ours

SIZES = Sizes((16, 16, 8), (8, 8, 8), (48, 2, 2), (24, 1, 2))


def test_sizes_are_equal() -> None:
    assert SIZES.tokens == 4
    counts = [sum(p.numel() for p in network.parameters()) for network, _ in (ours(SIZES), monai(SIZES, flash=False))]
    assert counts[0] == pytest.approx(counts[1], rel=0.02)


def test_flash_is_faster_attention_and_the_same() -> None:
    image = torch.randn(2, 1, *SIZES.crop)
    losses, kernels = [], []
    for flash in (False, True):
        torch.manual_seed(0)
        _, loss = monai(SIZES, flash=flash)
        with torch.profiler.profile() as seen:
            losses.append(loss(image))
        kernels.append({event.key for event in seen.key_averages()})
        losses[-1].backward()
    torch.testing.assert_close(losses[0], losses[1])
    assert ["aten::scaled_dot_product_attention" in names for names in kernels] == [False, True]


def test_the_losses_are_of_one_kind() -> None:
    image = torch.randn(4, 1, *SIZES.crop)
    values = [float(loss(image).detach()) for _, loss in (ours(SIZES), monai(SIZES, flash=True))]
    assert values[0] == pytest.approx(values[1], rel=0.3)  # untrained: the variance of what was hidden


def test_a_peer_that_is_not_there_is_named() -> None:
    with pytest.raises(ModuleNotFoundError) as missing:
        nnssl(Sizes((16, 16, 8), (8, 8, 8), (48, 2, 2), (48, 1, 2)))
    assert missing.value.name == "nnssl"
