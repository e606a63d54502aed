from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.interpolate import interp1d

from iac_lightning.models.decoders import (
    UPSAMPLINGS,
    Upsample,
    ViTSegmenter,
    build_decoder,
    pixel_shuffle,
    upsampling_steps,
)
from iac_lightning.models.vit import ViTEncoder

PATCHES = [(4, 4, 4), (8, 8, 8), (16, 16, 16), (8, 8, 4), (16, 16, 2), (6, 6, 4), (2, 2, 2), (5, 4, 1)]
KINDS = [("linear", "transposed"), *((name, up) for name in ("progressive", "unetr") for up in UPSAMPLINGS)]


def segmenter(
    name: str,
    upsampling: str,
    patch: tuple[int, int, int] = (4, 4, 2),
    grid: tuple[int, int, int] = (2, 1, 2),
    channels: int = 2,
    max_channels: int = 6,
    out_channels: int = 1,
    pyramid: bool = True,
) -> ViTSegmenter:
    torch.manual_seed(0)
    crop = [g * p for g, p in zip(grid, patch, strict=True)]
    encoder = ViTEncoder(crop=crop, patch_size=patch, dim=12, depth=4, heads=2)
    decoder = build_decoder(name, upsampling, encoder, channels, max_channels, out_channels, pyramid)
    return ViTSegmenter(encoder, decoder)


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


@pytest.mark.parametrize(("name", "upsampling"), KINDS)
@pytest.mark.parametrize("patch", PATCHES)
def test_every_patch_size_gives_voxel_logits_and_full_gradients(
    patch: tuple[int, int, int], name: str, upsampling: str
) -> None:
    model = segmenter(name, upsampling, patch)
    image = torch.randn(2, 1, *(g * p for g, p in zip((2, 1, 2), patch, strict=True)))
    logits = model(image)
    assert logits.shape == image.shape
    (logits * torch.randn_like(logits)).sum().backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key


def test_several_outputs() -> None:
    for name in ("linear", "unetr"):
        assert segmenter(name, "transposed", out_channels=3)(torch.randn(1, 1, 8, 4, 4)).shape == (1, 3, 8, 4, 4)


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


def test_unetr_takes_evenly_spaced_depths_shallow_for_fine() -> None:
    encoder = ViTEncoder(crop=(16, 16, 16), patch_size=(16, 16, 16), dim=12, depth=12, heads=2)
    decoder = build_decoder("unetr", "transposed", encoder, channels=2, max_channels=8)
    assert decoder.depths == (9, 6, 3)
    assert build_decoder("progressive", "transposed", encoder, channels=2).depths == ()


def test_channels_double_up_to_the_limit() -> None:
    encoder = ViTEncoder(crop=(16, 16, 16), patch_size=(16, 16, 16), dim=12, depth=2, heads=2)
    decoder: Any = build_decoder("progressive", "transposed", encoder, channels=3, max_channels=10)
    assert [decoder.project.out_channels, *(block[0][0].out_channels for block in decoder.merge)] == [10, 10, 10, 6, 3]


@pytest.mark.parametrize(("name", "count"), [("linear", 0), ("progressive", 0), ("unetr", 1)])
def test_what_each_decoder_looks_at(name: str, count: int) -> None:
    decoder = segmenter(name, "interpolation", (4, 4, 2)).decoder.eval()
    assert len(decoder.depths) == count
    image, features = torch.randn(1, 1, 8, 4, 4), [torch.randn(1, 4, 12) for _ in range(count + 1)]
    with torch.no_grad():
        logits = decoder(image, features)
        for i in range(count + 1):
            other = [torch.randn(1, 4, 12) if i == k else f for k, f in enumerate(features)]
            assert not torch.allclose(decoder(image, other), logits)
        assert torch.allclose(decoder(torch.randn_like(image), features), logits) == (name == "linear")


def test_the_pyramid_brings_the_image_to_every_level_below_the_tokens() -> None:
    encoder = ViTEncoder(crop=(16, 16, 8), patch_size=(8, 8, 4), dim=12, depth=2, heads=2)
    plain: Any = build_decoder("unetr", "transposed", encoder, channels=2, pyramid=False)
    full: Any = build_decoder("unetr", "transposed", encoder, channels=2, pyramid=True)
    assert [len(plain.stem), len(full.stem)] == [1, 3]
    image = torch.randn(1, 1, 16, 16, 8)
    details = [full.stem[0](image)]
    for block in full.stem[1:]:
        details.append(block(details[-1]))
    assert [tuple(d.shape[1:]) for d in details] == [(2, 16, 16, 8), (4, 8, 8, 8), (8, 4, 4, 4)]
    # widths where they meet: what was enlarged, the tokens' features (not at full resolution), the image's
    assert [block[0][0].in_channels for block in plain.merge] == [16, 8, 4]
    assert [block[0][0].in_channels for block in full.merge] == [24, 12, 4]


@pytest.mark.parametrize(("name", "upsampling"), KINDS)
def test_voxels_depend_on_the_token_that_covers_them(name: str, upsampling: str) -> None:
    grid, patch = (3, 4, 5), (8, 8, 4)
    decoder = segmenter(name, upsampling, patch, grid, channels=8, max_channels=16, pyramid=False).decoder.eval()
    tokens = [torch.randn(2, 60, 12, requires_grad=True) for _ in range(len(decoder.depths) + 1)]
    logits = decoder(torch.randn(2, 1, 24, 32, 20), tokens)
    covered = logits[:, :, 8:16, 16:24, 12:16]
    (covered * torch.randn_like(covered)).sum().backward()
    for feature in tokens:
        assert feature.grad is not None
        influence = feature.grad.square().sum(dim=(0, 2)).reshape(grid)
        near = influence[:, 1:4, 2:5].sum() / influence.sum()  # token (1, 2, 3) and its neighbours
        assert near > (0.7 if upsampling == "pixelshuffle" else 0.8)  # its convolution reaches one token further


def test_linear_decoder_keeps_to_its_patch() -> None:
    decoder = segmenter("linear", "transposed", (4, 4, 2), (2, 2, 2)).decoder
    tokens = torch.randn(1, 8, 12)
    moved = tokens.clone()
    moved[0, np.ravel_multi_index((1, 0, 1), (2, 2, 2))] += 1
    image = torch.zeros(1, 1, 8, 8, 4)
    changed = (decoder(image, [moved]) != decoder(image, [tokens]))[0, 0]
    assert changed[4:8, 0:4, 2:4].all()
    assert int(changed.sum()) == math.prod((4, 4, 2))


def test_segmenter_takes_another_crop() -> None:
    model = segmenter("unetr", "interpolation", (4, 4, 2)).eval()
    assert model(torch.randn(1, 1, 12, 8, 6)).shape == (1, 1, 12, 8, 6)


def test_unknown_choices_are_listed() -> None:
    encoder = ViTEncoder(crop=(4, 4, 4), patch_size=(4, 4, 4), dim=12, depth=1, heads=1)
    with pytest.raises(ValueError, match=r"'unet' is none of the decoders linear, progressive, unetr"):
        build_decoder("unet", "transposed", encoder)
    with pytest.raises(ValueError, match=r"'bilinear' is none of the upsamplings transposed, interp"):
        build_decoder("linear", "bilinear", encoder)
    with pytest.raises(ValueError, match="'bilinear'"):
        Upsample(1, 1, (2, 2, 2), "bilinear")
    voxels = ViTEncoder(crop=(4, 4, 4), patch_size=(1, 1, 1), dim=12, depth=1, heads=1)
    with pytest.raises(ValueError, match="nothing to enlarge"):
        build_decoder("unetr", "transposed", voxels)
