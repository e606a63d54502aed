"""Which patches are hidden: by themselves or in blocks, the same for a sample whatever its batch."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor

from iac_lightning.config.masks import block_tokens
from iac_lightning.config.schema import ExperimentConfig
from iac_lightning.modules.masking import block_noise, hiding_noise, masking_noise

GRID, BLOCK = (6, 5, 8), (2, 2, 3)


def hidden(noise: Tensor, n_hidden: int) -> np.ndarray:
    """`[B, *GRID]`, True where hidden."""
    mask = torch.zeros(noise.shape, dtype=torch.bool)
    return mask.scatter_(1, noise.argsort(dim=1)[:, noise.shape[1] - n_hidden :], True).reshape(-1, *GRID).numpy()


def test_noise_differs_by_seed_epoch_and_sample_and_is_uniform() -> None:
    rows = [
        masking_noise(seed, epoch, torch.tensor([sample]), 512)[0] / 2.0**64 + 0.5
        for seed in (0, 1)
        for epoch in (0, 1)
        for sample in (0, 1)
    ]
    for a, b in combinations(rows, 2):
        assert not torch.equal(a, b)
        assert abs(torch.corrcoef(torch.stack([a, b]))[0, 1].item()) < 0.25  # unrelated: 5.6 σ of 1/√512
    drawn = torch.cat(rows)
    assert (drawn.min() >= 0) & (drawn.max() < 1)
    assert drawn.mean().item() == pytest.approx(0.5, abs=0.02)


def test_noise_of_a_sample_does_not_depend_on_its_batch() -> None:
    together = masking_noise(7, 3, torch.tensor([5, 11, 5]), 24)
    assert together.shape == (3, 24)
    assert torch.equal(together[0], together[2])
    assert torch.equal(masking_noise(7, 3, torch.tensor([11]), 24)[0], together[1])


def test_blocks_hide_whole_blocks_and_exactly_as_many_tokens_as_asked_for() -> None:
    mask = hidden(block_noise(1, 0, torch.arange(40), GRID, BLOCK), 150)
    assert (mask.reshape(40, -1).sum(axis=1) == 150).all()
    for sample in mask:
        # Blocks tile the crop from some start: with the right one, at most one block is hidden in part.
        partly = []
        for start in np.ndindex(*BLOCK):
            place = [(np.arange(g) + s) // b for g, s, b in zip(GRID, start, BLOCK, strict=True)]
            block = (place[0][:, None, None] * 100 + place[1][:, None]) * 100 + place[2]
            shares = [sample[block == k].mean() for k in np.unique(block)]
            partly.append(sum(0 < share < 1 for share in shares))
        assert min(partly) <= 1


def test_blocks_begin_elsewhere_in_each_sample_and_epoch() -> None:
    masks = [hidden(block_noise(1, epoch, torch.tensor([k]), GRID, BLOCK), 150) for epoch in (0, 1) for k in range(4)]
    assert all(not np.array_equal(a, b) for a, b in combinations(masks, 2))
    many = hidden(block_noise(1, 0, torch.arange(2000), GRID, BLOCK), 120)
    assert many.mean(axis=0) == pytest.approx(0.5, abs=0.07)  # every token is hidden as often: 6 σ of 1/√8000
    borders = (many[:, 1:] != many[:, :-1]).mean(axis=(0, 2, 3))
    assert borders.min() > 0.8 * borders.max()


def test_hidden_neighbours_lie_together_in_blocks_only() -> None:
    def inside(mask: np.ndarray) -> float:
        """Share of the hidden tokens all of whose neighbours are hidden."""
        kernel = ndimage.generate_binary_structure(3, 1)
        return float(np.mean([ndimage.binary_erosion(m, kernel, border_value=1).sum() / m.sum() for m in mask]))

    index = torch.arange(50)
    blocks = inside(hidden(block_noise(0, 0, index, GRID, (3, 3, 4)), 144))
    alone = inside(hidden(masking_noise(0, 0, index, 240), 144))
    assert blocks > 3 * alone


def test_blocks_of_a_sample_do_not_depend_on_its_batch() -> None:
    together = block_noise(7, 3, torch.tensor([5, 11, 5]), GRID, BLOCK)
    assert torch.equal(together[0], together[2])
    assert torch.equal(block_noise(7, 3, torch.tensor([11]), GRID, BLOCK)[0], together[1])
    many = block_noise(7, 3, torch.arange(80), GRID, BLOCK)  # so many are drawn by other operations
    assert torch.equal(many[11], together[1])


def test_noise_of_blocks_waits_for_no_device() -> None:
    noise = block_noise(7, 3, torch.empty(4, dtype=torch.int64, device="meta"), GRID, BLOCK)
    assert noise.shape == (4, 240)
    assert noise.device.type == "meta"


def test_blocks_are_as_long_as_wide_in_millimetres() -> None:
    config = ExperimentConfig(name="blocks")
    config.model.vit.patch_size, config.data.grid.spacing_mm = (4, 8, 2), (0.5, 0.5, 3.0)
    config.model.mae.mask_block_mm = 12.0
    assert block_tokens(config) == (6, 3, 2)
    config.model.mae.mask_block_mm = 1.0
    assert block_tokens(config) == (1, 1, 1)


def test_the_setting_decides() -> None:
    config, index = ExperimentConfig(name="blocks", seed=4), torch.tensor([3])
    assert torch.equal(hiding_noise(config, GRID, 2, index), masking_noise(4, 2, index, 240))
    config.model.mae.masking, config.model.vit.patch_size = "blocks", (8, 8, 4)
    config.model.mae.mask_block_mm = 20.0
    assert torch.equal(hiding_noise(config, GRID, 2, index), block_noise(4, 2, index, GRID, (3, 3, 3)))
