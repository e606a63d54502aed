from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from iac_lightning.models.vit_positions import (
    resize_position_embedding,
    rotary_table,
    rotate,
    sincos_position_embedding,
)


def test_sincos_by_hand() -> None:
    embedding = sincos_position_embedding((2, 3, 4), 14)  # two frequencies an axis, 1 and 1/100; two columns remain
    x, y, z = 1, 2, 3
    row = embedding[(x * 3 + y) * 4 + z].numpy()
    expected = [f(p * w) for p in (x, y, z) for f in (np.sin, np.cos) for w in (1, 0.01)]
    np.testing.assert_allclose(row, [*expected, 0, 0], atol=1e-7)
    assert embedding.shape == (24, 14)


@pytest.mark.parametrize("dim", [16, 512, 1024])
def test_sincos_tells_tokens_apart_at_any_width(dim: int) -> None:
    embedding = sincos_position_embedding((3, 4, 5), dim)
    assert embedding.shape == (60, dim)
    assert len(torch.unique(embedding, dim=0)) == 60


def test_resizing_to_the_same_grid_changes_nothing() -> None:
    weights = torch.randn(24, 5)
    assert torch.equal(resize_position_embedding(weights, (2, 3, 4), (2, 3, 4)), weights)


def test_resizing_is_linear_along_each_axis() -> None:
    # Cell centres of 4 cells over 2 lie at −0.25, 0.25, 0.75, 1.25 of the old ones.
    line = torch.tensor([[0.0], [1.0]])
    wanted = torch.tensor([[0.0], [0.25], [0.75], [1.0]])
    for axis in range(3):
        old, new = [1, 1, 1], [1, 1, 1]
        old[axis], new[axis] = 2, 4
        torch.testing.assert_close(resize_position_embedding(line, old, new), wanted)


def test_resizing_equals_interpolating_each_feature() -> None:
    weights = torch.randn(2 * 3 * 4, 2)
    resized = resize_position_embedding(weights, (2, 3, 4), (4, 3, 6)).reshape(4, 3, 6, 2)
    for feature in range(2):
        volume = weights[:, feature].reshape(1, 1, 2, 3, 4)
        expected = F.interpolate(volume, (4, 3, 6), mode="trilinear", align_corners=False)[0, 0]
        torch.testing.assert_close(resized[..., feature], expected)


def test_rotations_by_hand() -> None:
    table = rotary_table((2, 3, 4), 12)  # six pairs: two an axis, of the frequencies 1 and 1/100
    x, y, z = 1, 2, 3
    angles = np.array([p * w for p in (x, y, z) for w in (1, 0.01)])
    np.testing.assert_allclose(table[(x * 3 + y) * 4 + z], np.concatenate([np.cos(angles), np.sin(angles)]), atol=1e-7)
    channels = np.arange(12.0) + 1
    turned = rotate(torch.tensor(channels).reshape(1, 1, 1, 12), table[None, [(x * 3 + y) * 4 + z]].double())
    pairs = (channels[:6] + 1j * channels[6:]) * np.exp(1j * angles)
    np.testing.assert_allclose(turned.flatten(), np.concatenate([pairs.real, pairs.imag]), rtol=1e-6)


def test_rotated_products_know_differences_of_places_alone() -> None:
    torch.manual_seed(1)
    grid, table = (3, 4, 5), rotary_table((3, 4, 5), 18)[None]
    q, k = torch.randn(18), torch.randn(18)
    queries, keys = (rotate(v.expand(1, 60, 1, 18), table)[0, :, 0] for v in (q, k))
    product = (queries @ keys.T).reshape(*grid, *grid)
    torch.testing.assert_close(product[0, 1, 1, 1, 2, 4], product[1, 2, 0, 2, 3, 3])
    torch.testing.assert_close(product[2, 3, 4, 2, 3, 4], q @ k)
    for moved in (product[0, 0, 0, 1, 0, 0], product[0, 0, 0, 0, 1, 0], product[0, 0, 0, 0, 0, 1]):
        assert (moved - q @ k).abs() > 0.01  # each axis counts


def test_rotations_keep_the_precision_of_what_is_turned() -> None:
    x = torch.randn(2, 4, 3, 6, dtype=torch.bfloat16)
    assert rotate(x, rotary_table((1, 2, 2), 6)[None]).dtype == torch.bfloat16


def test_three_axes_want_heads_of_a_multiple_of_six() -> None:
    with pytest.raises(ValueError, match="heads of a multiple of 6, not 32 wide"):
        rotary_table((2, 2, 2), 32)
