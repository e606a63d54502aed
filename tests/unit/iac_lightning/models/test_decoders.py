from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from iac_lightning.config.model_schema import DecoderConfig
from iac_lightning.models.decoders import ViTSegmenter, build_decoder
from iac_lightning.models.upsampling import UPSAMPLINGS
from iac_lightning.models.vit import ViTEncoder
from iac_lightning.models.vit_tokens import upsampling_steps

PATCHES = [(4, 4, 4), (8, 8, 8), (16, 16, 16), (8, 8, 4), (16, 16, 2), (6, 6, 4), (4, 4, 2), (2, 2, 2), (5, 4, 1)]
USUAL = [(8, 8, 4), (4, 4, 2), (6, 6, 4), (8, 8, 8)]
KINDS = [("linear", "transposed"), *((name, up) for name in ("progressive", "unetr") for up in UPSAMPLINGS)]
OPTIONS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "before": {"normalise": False, "image": True, "pyramid": True, "convolutions": 2},
    "image": {"image": True},
    "pyramid": {"image": True, "pyramid": True},
    "tokeniser": {"tokeniser_skips": True},
    "all skips": {"image": True, "pyramid": True, "tokeniser_skips": True},
    "lightest": {"convolutions": 0},
    "lightest with skips": {"convolutions": 0, "image": True, "tokeniser_skips": True},
    "deep supervision": {"deep_supervision": True, "convolutions": 2},
}
Triple = tuple[int, int, int]


def encoder_of(patch: Triple, grid: Triple = (2, 1, 2), depth: int = 4) -> ViTEncoder:
    crop = [g * p for g, p in zip(grid, patch, strict=True)]
    return ViTEncoder(crop=crop, patch_size=patch, dim=12, depth=depth, heads=2, tokeniser="conv", tokeniser_channels=3)


def settings_of(name: str = "progressive", upsampling: str = "transposed", **options: Any) -> DecoderConfig:
    return DecoderConfig(**({"name": name, "upsampling": upsampling, "channels": 2, "max_channels": 6} | options))


def decoder_of(encoder: ViTEncoder, name: str = "progressive", upsampling: str = "transposed", **options: Any) -> Any:
    torch.manual_seed(0)
    return build_decoder(settings_of(name, upsampling, **options), encoder)


def inputs_of(
    encoder: ViTEncoder, decoder: Any, batch: int = 2, grid: Triple | None = None
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """An image, features and a tokeniser's details, all with gradients."""
    grid = grid or encoder.grid
    size = [g * p for g, p in zip(grid, encoder.patch_size, strict=True)]
    image = torch.randn(batch, 1, *size, requires_grad=True)
    features = [torch.randn(batch, math.prod(grid), 12, requires_grad=True) for _ in range(len(decoder.depths) + 1)]
    details = []
    for channels, factor in zip(encoder.detail_channels, upsampling_steps(encoder.patch_size)[::-1], strict=True):
        details.append(torch.randn(batch, channels, *size, requires_grad=True))
        size = [s // f for s, f in zip(size, factor, strict=True)]
    return image, features, details


@pytest.mark.parametrize(("name", "upsampling"), KINDS)
@pytest.mark.parametrize("patch", PATCHES)
def test_every_patch_size_gives_voxel_logits_and_full_gradients(patch: Triple, name: str, upsampling: str) -> None:
    encoder = encoder_of(patch)
    model = ViTSegmenter(encoder, decoder_of(encoder, name, upsampling))
    image = torch.randn(2, 1, *(g * p for g, p in zip((2, 1, 2), patch, strict=True)))
    logits = model(image)
    assert logits.shape == image.shape
    (logits * torch.randn_like(logits)).sum().backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("patch", USUAL)
def test_every_option_uses_what_it_is_given_and_nothing_else(patch: Triple, option: str) -> None:
    options, encoder = OPTIONS[option], encoder_of(patch)
    # Each option meets four of the six kinds, one a patch size.
    name, upsampling = KINDS[1:][(list(OPTIONS).index(option) + USUAL.index(patch)) % 6]
    decoder = decoder_of(encoder, name, upsampling, **options)
    image, features, details = inputs_of(encoder, decoder)
    levels = decoder(image, features, details)
    levels = levels if isinstance(levels, list) else [levels]
    assert levels[0].shape == image.shape
    sum((level * torch.randn_like(level)).sum() for level in levels).backward()
    for key, parameter in decoder.named_parameters():
        assert parameter.grad is not None, key
    assert all(f.grad is not None and f.grad.any() for f in features)
    assert (image.grad is not None and bool(image.grad.any())) == options.get("image", False)
    for detail in details:
        assert (detail.grad is not None and bool(detail.grad.any())) == options.get("tokeniser_skips", False)


def test_several_outputs() -> None:
    for name in ("linear", "unetr"):
        encoder = encoder_of((4, 4, 2))
        decoder = build_decoder(settings_of(name), encoder, out_channels=3)
        assert ViTSegmenter(encoder, decoder)(torch.randn(1, 1, 8, 4, 4)).shape == (1, 3, 8, 4, 4)


@pytest.mark.parametrize(("name", "upsampling"), KINDS)
def test_normalised_features_may_come_on_any_scale(name: str, upsampling: str) -> None:
    encoder = encoder_of((8, 8, 4))
    for normalise in (True, False):
        decoder = decoder_of(encoder, name, upsampling, normalise=normalise).eval()
        image, features, _ = inputs_of(encoder, decoder)
        with torch.no_grad():
            logits = decoder(image, features)
            for i in range(len(features)):
                scaled = [10 * f + 3 if i == k else f for k, f in enumerate(features)]
                same = torch.allclose(decoder(image, scaled), logits, atol=1e-3)
                assert same == normalise, (normalise, i)


def test_details_of_the_tokeniser_may_come_on_any_scale() -> None:
    encoder = encoder_of((8, 8, 4))
    decoder = decoder_of(encoder, tokeniser_skips=True).eval()
    image, features, details = inputs_of(encoder, decoder)
    scaled = decoder(image, features, [10 * d + 3 for d in details])
    torch.testing.assert_close(scaled, decoder(image, features, details), atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("upsampling", UPSAMPLINGS)
def test_every_stage_starts_at_the_same_scale_whatever_the_width(upsampling: str) -> None:
    encoder = encoder_of((8, 8, 8), (3, 3, 3))
    decoder = decoder_of(encoder, "unetr", upsampling, channels=8, max_channels=32)
    image, features, _ = inputs_of(encoder, decoder)
    seen = {}
    for name, module in decoder.named_modules():
        if name == "project" or (name.startswith(("grow", "skips")) and name.endswith("after.0")):
            module.register_forward_hook(
                lambda _, __, output, name=name: seen.update({name: float(output.detach().std())})
            )
    decoder(image, features)
    assert len(seen) == 1 + 3 + 1 + 2
    assert all(0.7 < deviation < 2 for deviation in seen.values()), seen


def test_deep_supervision_gives_a_level_each_in_training_only() -> None:
    encoder = encoder_of((8, 8, 4))
    decoder = decoder_of(encoder, deep_supervision=True)
    image, features, _ = inputs_of(encoder, decoder)
    levels = decoder(image, features)
    assert [tuple(level.shape[2:]) for level in levels] == [(16, 8, 8), (8, 4, 8), (4, 2, 4), (2, 1, 2)]
    assert len(decoder.heads) == 4
    assert torch.equal(decoder.eval()(image, features), levels[0])


def test_a_depth_of_nothing_takes_what_the_tokeniser_made() -> None:
    encoder = encoder_of((8, 8, 8), depth=0)
    assert decoder_of(encoder, "unetr").depths == (0, 0)
    assert ViTSegmenter(encoder, decoder_of(encoder, "unetr"))(torch.randn(1, 1, 16, 8, 16)).shape == (1, 1, 16, 8, 16)


def test_names_of_what_older_checkpoints_hold() -> None:
    decoder = decoder_of(encoder_of((4, 4, 2)), "unetr", **OPTIONS["before"])
    block = ("0.weight", "1.weight", "1.bias")
    double = [f"{k}.{name}" for k in (0, 1) for name in block]
    wanted = {
        f"{part}.{end}" for part in ("project", "grow.0.grow", "grow.1.grow", "head") for end in ("weight", "bias")
    }
    wanted |= {f"skips.0.{part}.{end}" for part in ("0", "1.grow") for end in ("weight", "bias")}
    wanted |= {f"{part}.{i}.{name}" for part in ("stem", "merge") for i in (0, 1) for name in double}
    assert set(decoder.state_dict()) == wanted


def test_unetr_takes_evenly_spaced_depths_shallow_for_fine() -> None:
    encoder = encoder_of((16, 16, 16), (1, 1, 1), depth=12)
    assert decoder_of(encoder, "unetr").depths == (9, 6, 3)
    assert decoder_of(encoder, "progressive").depths == ()


def test_channels_double_up_to_the_limit() -> None:
    encoder = encoder_of((16, 16, 16), (1, 1, 1))
    decoder = decoder_of(encoder, channels=3, max_channels=10)
    assert [decoder.project.out_channels, *(block[0][0].out_channels for block in decoder.merge)] == [10, 10, 10, 6, 3]


@pytest.mark.parametrize("convolutions", [0, 1, 3])
def test_as_many_convolutions_follow_each_upsampling_as_are_wanted(convolutions: int) -> None:
    decoder = decoder_of(encoder_of((4, 4, 2)), convolutions=convolutions)
    assert [len(list(merge.children())) for merge in decoder.merge] == [convolutions] * 2


def test_the_pyramid_brings_the_image_to_every_level_below_the_tokens() -> None:
    encoder = encoder_of((8, 8, 4))
    none, plain, full = (
        decoder_of(encoder, "unetr", channels=2, max_channels=128, image=image, pyramid=pyramid)
        for image, pyramid in ((False, False), (True, False), (True, True))
    )
    assert [len(none.stem), len(plain.stem), len(full.stem)] == [0, 1, 3]
    details = [full.stem[0](torch.randn(1, 1, 16, 16, 8))]
    for block in full.stem[1:]:
        details.append(block(details[-1]))
    assert [tuple(d.shape[1:]) for d in details] == [(2, 16, 16, 8), (4, 8, 8, 8), (8, 4, 4, 4)]
    # widths where they meet: what was enlarged, the tokens' features (not at full resolution), the image's
    assert [block[0][0].in_channels for block in none.merge] == [16, 8, 2]
    assert [block[0][0].in_channels for block in plain.merge] == [16, 8, 4]
    assert [block[0][0].in_channels for block in full.merge] == [24, 12, 4]


@pytest.mark.parametrize(("name", "upsampling"), KINDS)
def test_voxels_depend_on_the_token_that_covers_them(name: str, upsampling: str) -> None:
    grid, encoder = (3, 4, 5), encoder_of((8, 8, 4), (3, 4, 5))
    options = {**OPTIONS["before"], "pyramid": False, "channels": 8, "max_channels": 16}
    decoder = decoder_of(encoder, name, upsampling, **options).eval()
    image, tokens, _ = inputs_of(encoder, decoder)
    logits = decoder(image, tokens)
    covered = logits[:, :, 8:16, 16:24, 12:16]
    (covered * torch.randn_like(covered)).sum().backward()
    for feature in tokens:
        assert feature.grad is not None
        influence = feature.grad.square().sum(dim=(0, 2)).reshape(grid)
        near = influence[:, 1:4, 2:5].sum() / influence.sum()  # token (1, 2, 3) and its neighbours
        assert near > (0.7 if upsampling == "pixelshuffle" else 0.75)  # its convolution reaches one token further


def test_linear_decoder_keeps_to_its_patch() -> None:
    encoder = encoder_of((4, 4, 2), (2, 2, 2))
    decoder = decoder_of(encoder, "linear")
    tokens = torch.randn(1, 8, 12)
    moved = tokens.clone()
    moved[0, np.ravel_multi_index((1, 0, 1), (2, 2, 2))] = torch.randn(12)
    image = torch.zeros(1, 1, 8, 8, 4)
    changed = (decoder(image, [moved]) != decoder(image, [tokens]))[0, 0]
    assert changed[4:8, 0:4, 2:4].all()
    assert int(changed.sum()) == math.prod((4, 4, 2))


def test_segmenter_takes_another_crop() -> None:
    encoder = encoder_of((4, 4, 2))
    model = ViTSegmenter(encoder, decoder_of(encoder, "unetr", "interpolation")).eval()
    assert model(torch.randn(1, 1, 12, 8, 6)).shape == (1, 1, 12, 8, 6)


def test_a_decoder_is_one_graph() -> None:
    torch._dynamo.reset()
    encoder = encoder_of((4, 4, 2))
    decoder = decoder_of(encoder, "unetr", **OPTIONS["all skips"], deep_supervision=True)
    inputs = inputs_of(encoder, decoder)
    traced = torch.compile(decoder, fullgraph=True, backend="eager")(*inputs)
    for a, b in zip(traced, decoder(*inputs), strict=True):
        torch.testing.assert_close(a, b)


def test_unknown_choices_are_listed() -> None:
    encoder = encoder_of((4, 4, 4))
    with pytest.raises(ValueError, match=r"'unet' is none of the decoders linear, progressive, unetr"):
        decoder_of(encoder, "unet")
    with pytest.raises(ValueError, match=r"'bilinear' is none of the upsamplings transposed, interp"):
        decoder_of(encoder, "linear", "bilinear")
    with pytest.raises(ValueError, match="nothing to enlarge"):
        decoder_of(encoder_of((1, 1, 1)), "unetr")
