"""What a network predicts under a control, where the answer is known."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from iac_lightning.config.model_schema import DecoderConfig
from iac_lightning.config.schema import ExperimentConfig
from iac_lightning.models.build import build_model
from iac_lightning.models.controls import CONTROLS, controls_of, mean_tokens, silenced_attention
from iac_lightning.models.decoders import LinearDecoder, ViTSegmenter
from iac_lightning.models.vit import ViTEncoder
from iac_lightning.models.vit_blocks import Attention

PATCH = (2, 2, 2)
SHAPE = (4, 4, 2)
IMAGE = torch.randn(2, 1, *SHAPE, generator=torch.Generator().manual_seed(1))


class Blind(nn.Module):
    """A decoder that looks at the image alone."""

    depths: tuple[int, ...] = (1,)

    def forward(self, image: Tensor, *_: Any, **__: Any) -> Tensor:
        return 2 * image


class Listening(nn.Module):
    """A decoder that keeps what it is given."""

    depths: tuple[int, ...] = (1,)

    def forward(self, image: Tensor, features: list[Tensor], *_: Any, **__: Any) -> Tensor:
        self.heard = list(features)
        return image


def encoder(depth: int = 2) -> ViTEncoder:
    torch.manual_seed(0)
    return ViTEncoder(crop=SHAPE, patch_size=PATCH, dim=12, depth=depth, heads=2)


def linear(depth: int = 2) -> ViTSegmenter:
    made = encoder(depth)
    return ViTSegmenter(made, LinearDecoder(made, DecoderConfig(name="linear"))).eval()


@pytest.mark.parametrize("control", CONTROLS.values())
def test_a_decoder_that_ignores_the_tokens_is_untouched(control: Any) -> None:
    network = ViTSegmenter(encoder(), Blind()).eval()  # type: ignore[arg-type]
    plain = network(IMAGE)
    with control(network):
        assert torch.equal(network(IMAGE), plain)


def test_every_token_and_feature_becomes_the_mean_of_its_crop() -> None:
    decoder = Listening()
    network = ViTSegmenter(encoder(), decoder).eval()  # type: ignore[arg-type]
    network(IMAGE)
    before = decoder.heard
    with mean_tokens(network):
        network(IMAGE)
    assert len(before) == len(decoder.heard) == 2
    for own, averaged in zip(before, decoder.heard, strict=True):
        assert own.std(dim=1).min() > 1e-3
        for k in range(own.shape[1]):
            torch.testing.assert_close(averaged[:, k], own.mean(dim=1))
    network(IMAGE)
    assert all(torch.equal(a, b) for a, b in zip(before, decoder.heard, strict=True))


def test_with_mean_tokens_a_linear_decoder_says_the_same_everywhere() -> None:
    network = linear()
    with mean_tokens(network):
        logits = network(IMAGE)
    patches = [logits[:, :, x : x + 2, y : y + 2] for x in (0, 2) for y in (0, 2)]
    for patch in patches[1:]:
        torch.testing.assert_close(patch, patches[0])
    assert not torch.allclose(logits[0], logits[1])  # the mean is of one crop, not of the batch


def test_silenced_attention_passes_each_tokens_own_value() -> None:
    network = linear()
    layer = next(m for m in network.modules() if isinstance(m, Attention))
    x = torch.randn(2, 5, 12, generator=torch.Generator().manual_seed(2))
    value = F.linear(x, layer.qkv.weight[24:], layer.qkv.bias[24:])
    expected = layer.projection(value)
    with silenced_attention(network):
        torch.testing.assert_close(layer(x), expected)
        torch.testing.assert_close(layer(x, 3), expected[:, 3:])
    assert not torch.allclose(layer(x), expected)


def test_without_attention_no_token_hears_of_another() -> None:
    network, other = linear(), IMAGE.clone()
    other[:, :, 2:] += 1.0  # the first half of x is left alone
    assert (network(other) - network(IMAGE))[:, :, :2].abs().max() > 1e-4
    with silenced_attention(network):
        moved = (network(other) - network(IMAGE)).abs()
    assert moved[:, :, :2].max() == 0
    assert moved[:, :, 2:].max() > 1e-3


@pytest.mark.parametrize("control", CONTROLS.values())
@pytest.mark.parametrize("decoder", [{"name": "unetr"}, {"name": "progressive", "tokeniser_skips": True}])
def test_any_network_of_the_settings_takes_a_control(decoder: dict[str, Any], control: Any) -> None:
    config = ExperimentConfig(name="vit")
    config.data.sampling.crop = (8, 8, 8)
    vit = {"patch_size": (4, 4, 4), "dim": 24, "depth": 2, "heads": 2, "registers": 1, "layer_scale": 1.0}
    for section, values in ((config.model.vit, vit), (config.model.decoder, decoder)):
        for name, value in values.items():
            setattr(section, name, value)
    torch.manual_seed(0)
    network = build_model(config).eval()
    image = torch.randn(1, 1, 8, 8, 8)
    plain = network(image)
    with control(network):
        assert (network(image) - plain).abs().max() > 1e-5
    assert torch.equal(network(image), plain)


@pytest.mark.parametrize("control", CONTROLS.values())
def test_an_error_ends_a_control_too(control: Any) -> None:
    network = linear()
    plain = network(IMAGE)
    with pytest.raises(KeyError), control(network):
        raise KeyError
    assert torch.equal(network(IMAGE), plain)


def test_which_controls_say_something() -> None:
    assert controls_of(linear()) == tuple(CONTROLS)
    assert controls_of(linear(depth=0)) == ("mean_tokens",)
    assert controls_of(nn.ModuleList([linear(), nn.Identity()])) == tuple(CONTROLS)
    config = ExperimentConfig(name="cnn")
    config.model.name, config.data.sampling.crop = "cnn", (16, 16, 8)
    assert controls_of(build_model(config)) == ()


def test_all_members_of_a_network_of_several_are_under_control() -> None:
    network = nn.ModuleList([linear(), linear(depth=1)])
    with mean_tokens(network), silenced_attention(network):
        for member in network:
            logits = member(IMAGE)
            torch.testing.assert_close(logits[:, :, :2], logits[:, :, 2:])
            assert all(m.silenced for m in member.modules() if isinstance(m, Attention))
    assert not any(m.silenced for m in network.modules() if isinstance(m, Attention))
