from __future__ import annotations

import pytest
import torch

from iac_lightning.models.vit_tokens import mask_of, patchify, spread_tokens, token_grid, unpatchify

CROP, PATCH = (8, 12, 8), (4, 4, 2)


def test_patches_hold_their_voxels_in_order() -> None:
    image = torch.arange(2 * 2 * 8 * 12 * 8).reshape(2, 2, *CROP).float()
    patches = patchify(image, PATCH)
    assert patches.shape == (2, 2 * 3 * 4, 2 * 4 * 4 * 2)
    token = (1 * 3 + 2) * 4 + 3  # grid position (1, 2, 3) of (2, 3, 4)
    assert torch.equal(patches[1, token], image[1, :, 4:8, 8:12, 6:8].flatten())
    assert torch.equal(unpatchify(patches, (2, 3, 4), PATCH), image)


def test_a_crop_of_broken_patches_is_refused() -> None:
    assert token_grid((48, 48, 32), (8, 8, 4)) == (6, 6, 8)
    with pytest.raises(ValueError, match=r"\(48, 50, 32\) voxels is not made of whole patches of \(8, 8, 4\)"):
        token_grid((48, 50, 32), (8, 8, 4))
    with pytest.raises(ValueError, match="whole patches"):
        token_grid((48, 0, 32), (8, 8, 4))


def test_tokens_spread_over_the_voxels_they_cover() -> None:
    keep = torch.tensor([[0, 23], [5, 7]])  # of (2, 3, 4) tokens, z fastest
    visible = mask_of(keep, 24, torch.float32)
    assert visible.sum(1).tolist() == [2, 2]
    voxels = spread_tokens(visible, (2, 3, 4), PATCH)
    assert voxels.shape == (2, 1, *CROP)
    by_patch = patchify(voxels, PATCH)  # the same tokens again, whole
    assert torch.equal(by_patch, visible[..., None].expand_as(by_patch))
