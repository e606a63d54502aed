"""Which patches of a sample are hidden: it depends on (seed, epoch, index), not on the batch nor on the device."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from data_modules.batches.philox import MASKING, random_bits
from iac_lightning.config.masks import block_tokens
from iac_lightning.config.schema import ExperimentConfig

_HALF = 32  # bits of a word


def masking_noise(seed: int, epoch: int, sample_index: Tensor, n_tokens: int) -> Tensor:
    """Random numbers whose order decides which tokens are hidden, each by itself.

    Args:
        seed: of the run.
        epoch: in which other tokens are hidden than in the others.
        sample_index: `[B]` int64, within the epoch.
        n_tokens: N.

    Returns:
        `[B, N]` int64, all 64 bits random, so that no two are equal; on the device of `sample_index`.
    """
    return random_bits(seed, MASKING, epoch, sample_index, n_tokens)


def block_noise(seed: int, epoch: int, sample_index: Tensor, grid: Sequence[int], block: Sequence[int]) -> Tensor:
    """Random numbers whose order hides tokens by blocks, of which the last one is hidden in part.

    Blocks tile the crop from a random start, so that their borders lie elsewhere in each sample. The first 32 bits of a
    token's number are its block's, the others its own: sorted, the tokens of a block follow each other at random.

    Args:
        seed: of the run.
        epoch: in which other tokens are hidden than in the others.
        sample_index: `[B]` int64, within the epoch.
        grid: tokens of the crop along x, y, z.
        block: tokens of a block along x, y, z.

    Returns:
        `[B, N]` int64, on the device of `sample_index`.
    """
    n_tokens, device = grid[0] * grid[1] * grid[2], sample_index.device
    counts = [(g - 1 + b - 1) // b + 1 for g, b in zip(grid, block, strict=True)]
    bits = random_bits(seed, MASKING, epoch, sample_index, n_tokens + 3 + counts[0] * counts[1] * counts[2])
    own, starts, blocks = bits[:, :n_tokens], bits[:, n_tokens : n_tokens + 3], bits[:, n_tokens + 3 :]
    number = torch.zeros(len(bits), 1, 1, 1, dtype=torch.int64, device=device)
    for axis, (length, size, count) in enumerate(zip(grid, block, counts, strict=True)):
        place = (torch.arange(length, device=device) + starts[:, axis : axis + 1] % size) // size  # [B, length]
        shape = [len(bits), 1, 1, 1]
        shape[axis + 1] = length
        number = number * count + place.reshape(shape)
    of_block = blocks.gather(1, number.flatten(1))
    return (of_block >> _HALF << _HALF) | (own >> _HALF & (1 << _HALF) - 1)


def hiding_noise(config: ExperimentConfig, grid: Sequence[int], epoch: int, sample_index: Tensor) -> Tensor:
    """What decides the masks of samples `[B]` on a grid of tokens, as `model.mae.masking` says: `[B, N]`."""
    if config.model.mae.masking == "blocks":
        return block_noise(config.seed, epoch, sample_index, grid, block_tokens(config))
    return masking_noise(config.seed, epoch, sample_index, grid[0] * grid[1] * grid[2])
