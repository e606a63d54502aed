from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.interpolate import interp1d

from iac_lightning.models.upsampling import UPSAMPLINGS, Upsample, pixel_shuffle
from iac_lightning.models.vit_tokens import upsampling_steps


@pytest.mark.parametrize(
    ("patch", "steps"),
    [
        ((8, 8, 4), [(2, 2, 2), (2, 2, 2), (2, 2, 1)]),
        ((6, 6, 4), [(3, 3, 2), (2, 2, 2)]),
        ((16, 16, 2), [(2, 2, 2), (2, 2, 1), (2, 2, 1), (2, 2, 1)]),
        ((5, 4, 1), [(5, 2, 1), (1, 2, 1)]),
        ((12, 1, 1), [(3, 1, 1), (2, 1, 1), (2, 1, 1)]),
    ],
)
def test_steps_by_hand(patch: tuple[int, int, int], steps: list[tuple[int, int, int]]) -> None:
    assert upsampling_steps(patch) == steps


def test_pixel_shuffle_moves_channels_to_offsets() -> None:
    factor, size = (2, 3, 1), (2, 1, 4)
    x = torch.randn(2, 5 * 6, *size)
    shuffled = pixel_shuffle(x, factor)
    assert shuffled.shape == (2, 5, 4, 3, 4)
    for c, i, j, k in np.ndindex(5, *factor):
        channel = ((c * 2 + i) * 3 + j) * 1 + k
        assert torch.equal(shuffled[:, c, i::2, j::3, k::1], x[:, channel])


def test_pixel_shuffle_agrees_with_torch_in_plane() -> None:
    x = torch.randn(1, 8, 3, 5)
    torch.testing.assert_close(pixel_shuffle(x[..., None], (2, 2, 1))[..., 0], F.pixel_shuffle(x, 2))


def test_transposed_upsampling_places_each_kernel_once() -> None:
    up: Any = Upsample(3, 2, (2, 1, 3), "transposed")
    x = torch.randn(1, 3, 2, 2, 2)
    expected = torch.einsum("bcxyz,coijk->boxiyjzk", x, up.grow.weight).reshape(1, 2, 4, 2, 6)
    torch.testing.assert_close(up(x), expected + up.grow.bias.view(1, 2, 1, 1, 1))


def test_interpolation_is_linear_between_voxel_centres() -> None:
    up: Any = Upsample(1, 1, (2, 1, 4), "interpolation")
    with torch.no_grad():
        up.narrow.weight.fill_(1.0)
        up.smooth.weight.zero_()
        up.smooth.weight[0, 0, 1, 1, 1] = 1.0
        up.smooth.bias.zero_()
    x = torch.randn(1, 1, 3, 2, 3)
    wanted = x[0, 0].numpy()
    for axis, factor in ((0, 2), (2, 4)):
        centres = (np.arange(3 * factor) + 0.5) / factor - 0.5
        wanted = np.moveaxis(
            interp1d(np.arange(3), np.moveaxis(wanted, axis, 0), axis=0)(np.clip(centres, 0, 2)), 0, axis
        )
    np.testing.assert_allclose(up(x)[0, 0].detach().numpy(), wanted, atol=1e-5)


@pytest.mark.parametrize("upsampling", UPSAMPLINGS)
def test_upsampling_keeps_places(upsampling: str) -> None:
    torch.manual_seed(0)
    up, x = Upsample(1, 4, (2, 2, 1), upsampling), torch.zeros(1, 1, 5, 5, 5)
    without = up(x)
    x[0, 0, 1, 2, 3] = 1
    change = (up(x) - without).abs().sum(dim=(0, 1)).detach()
    centre = [
        float((change.sum(dim=[b for b in range(3) if b != a]) * torch.arange(n)).sum() / change.sum())
        for a, n in enumerate((10, 10, 5))
    ]
    assert centre == pytest.approx([2.5, 4.5, 3], abs=0.8)  # fine centre of coarse voxel (1, 2, 3)


def test_unknown_upsamplings_are_refused() -> None:
    with pytest.raises(ValueError, match="'bilinear' is none of the upsamplings"):
        Upsample(1, 1, (2, 2, 2), "bilinear")


@pytest.mark.parametrize("factor", [(2, 2, 2), (3, 1, 2)])
def test_transposed_convolutions_start_with_the_fan_in_of_their_voxels(factor: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    up: Any = Upsample(400, 32, factor, "transposed", normalise=True)
    # Each voxel that is made is a sum over 400 channels: E[out²] = 2 / (1 + 0.01²).
    assert float(up.grow(torch.randn(1, 400, 4, 4, 4)).detach().std()) == pytest.approx(2**0.5, rel=0.05)
    assert up.grow.bias is None  # the norm behind it takes a bias out
