from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from iac_lightning.config.cnn_plan import plan_cnn
from iac_lightning.config.model_schema import DecoderConfig
from iac_lightning.models.build import build_model
from iac_lightning.models.cnn import PlannedUNet
from iac_lightning.models.condition import Film, usual_condition
from iac_lightning.models.decoders import ViTSegmenter, build_decoder
from iac_lightning.models.vit import ViTEncoder
from tests.unit.iac_lightning.models.test_build import tiny_config

EVERYTHING = ("position", "slice_thickness", "spacing")
CONDITION = torch.tensor([[-12.0, 3.0, 8.0, 5.0, 0.4, 0.4, 5.0], [10.0, 0.0, -4.0, 1.0, 0.5, 0.5, 1.0]])
IMAGE = torch.randn(2, 1, 16, 16, 8, generator=torch.Generator().manual_seed(0))


def cnn(condition_on: Sequence[str], encoder: str = "plain", seed: int = 0, **settings: bool) -> PlannedUNet:
    torch.manual_seed(seed)
    plan = plan_cnn((16, 16, 8), (0.8, 0.8, 1.6), base_features=2, max_features=6, encoder=encoder)
    return PlannedUNet(plan, condition_on=condition_on, **settings)


def taught(network: Any) -> Any:
    """With films that do something."""
    torch.manual_seed(1)
    for module in network.modules():
        if isinstance(module, Film):
            nn.init.normal_(module.weight)
    return network


@pytest.mark.parametrize("shape", [(2, 5, 6), (2, 6, 3, 4, 5)])
def test_a_film_starts_as_the_identity(shape: tuple[int, ...]) -> None:
    features = torch.randn(shape)
    assert torch.equal(Film(EVERYTHING, 6)(features, CONDITION), features)


def test_a_film_scales_and_shifts_each_channel() -> None:
    film = Film(("slice_thickness",), 2)
    nn.init.zeros_(film.weight)
    film.bias.data = torch.tensor([1.0, -1.0, 0.5, 0.25])
    tokens = torch.tensor([[[3.0, 4.0], [5.0, 6.0]]])
    assert film(tokens, torch.tensor([[2.0]])).tolist() == [[[6.5, 0.25], [10.5, 0.25]]]
    maps = tokens.transpose(1, 2).reshape(1, 2, 2, 1, 1)
    assert film(maps, torch.tensor([[2.0]])).flatten().tolist() == [6.5, 10.5, 0.25, 0.25]


def test_each_sample_by_its_own_numbers() -> None:
    film, features = taught(Film(EVERYTHING, 6)), torch.randn(2, 6, 3, 4, 5)
    both = film(features, CONDITION)
    for k in range(2):
        torch.testing.assert_close(film(features[[k]], CONDITION[[k]])[0], both[k])
    assert not torch.allclose(film(features, CONDITION.flip(0)), both)


def test_usual_numbers_are_small_once_standardised() -> None:
    film = Film(EVERYTHING, 2)
    assert ((CONDITION - film.middle) / film.deviation).abs().max() < 2
    told = usual_condition(EVERYTHING, 3)["condition"]
    assert told.shape == (3, 7)
    assert ((told - film.middle) == 0).all()
    assert usual_condition((), 3) == {}


def test_nothing_given_is_refused() -> None:
    with pytest.raises(ValueError, match="condition_on"):
        cnn(("position",))(IMAGE)


@pytest.mark.parametrize("encoder", ["plain", "residual"])
class TestCNN:
    def test_it_changes_nothing_at_the_start(self, encoder: str) -> None:
        plain, told = cnn((), encoder).eval(), cnn(EVERYTHING, encoder).eval()
        state = told.state_dict()
        assert all(torch.equal(value, state[name]) for name, value in plain.state_dict().items())
        assert torch.equal(told(IMAGE, CONDITION), plain(IMAGE))

    def test_every_film_learns(self, encoder: str) -> None:
        network = taught(cnn(EVERYTHING, encoder)).train()
        if encoder == "residual":  # whose blocks start as their skips
            for p in network.parameters():
                p.data += 0.1 * torch.randn_like(p)
        sum(level.square().mean() for level in network(IMAGE, CONDITION)).backward()
        films = [m for m in network.modules() if isinstance(m, Film)]
        assert len(films) == len(network.encoder_stages) + len(network.decoder_stages)
        for film in films:
            for parameter in film.parameters():
                assert parameter.grad is not None
                assert parameter.grad.abs().sum() > 0

    def test_recomputed_activations_are_told_too(self, encoder: str) -> None:
        gradients = []
        for recompute in (False, True):
            network = taught(cnn(EVERYTHING, encoder, activation_checkpointing=recompute)).train()
            network(IMAGE, CONDITION)[0].square().mean().backward()
            gradients.append([p.grad for p in network.parameters()])
        for a, b in zip(*gradients, strict=True):
            torch.testing.assert_close(a, b)


@pytest.mark.parametrize("tokeniser", ["linear", "conv"])
class TestEncoder:
    def encoder(self, tokeniser: str, condition_on: Sequence[str]) -> ViTEncoder:
        torch.manual_seed(0)
        return ViTEncoder(
            crop=(16, 16, 8), patch_size=(4, 4, 4), dim=12, depth=2, heads=2, tokeniser=tokeniser, tokeniser_channels=4,
            registers=1, condition_on=condition_on,
        )  # fmt: skip

    def test_it_changes_nothing_at_the_start(self, tokeniser: str) -> None:
        plain, told = (
            self.encoder(tokeniser, words)(IMAGE, return_depths=[0, 1], condition=CONDITION)
            for words in ((), EVERYTHING)
        )
        assert torch.equal(plain.tokens, told.tokens)
        for a, b in zip(plain.features, told.features, strict=True):
            assert torch.equal(a, b)

    def test_visible_tokens_are_told_too(self, tokeniser: str) -> None:
        encoder, keep = taught(self.encoder(tokeniser, EVERYTHING)), torch.tensor([[0, 3, 7], [1, 2, 30]])
        before, after = (
            encoder(IMAGE, keep, return_depths=[0], condition=told) for told in (CONDITION, CONDITION.flip(0))
        )
        assert before.tokens.shape == (2, 3, 12)
        assert not torch.allclose(before.features[0], after.features[0])
        before.tokens.square().sum().backward()
        assert encoder.film.hidden.weight.grad.abs().sum() > 0


DECODERS = [
    DecoderConfig(name="linear"),
    DecoderConfig(name="progressive", convolutions=0, channels=4),
    DecoderConfig(name="unetr", convolutions=2, channels=4, deep_supervision=True, tokeniser_skips=True, image=True),
]


@pytest.mark.parametrize("settings", DECODERS, ids=lambda settings: settings.name)
class TestSegmenter:
    def segmenter(self, settings: DecoderConfig, condition_on: Sequence[str]) -> ViTSegmenter:
        torch.manual_seed(0)
        encoder = ViTEncoder(
            crop=(16, 16, 8), patch_size=(4, 4, 4), dim=12, depth=2, heads=2, tokeniser="conv", tokeniser_channels=4,
            condition_on=condition_on,
        )  # fmt: skip
        return ViTSegmenter(encoder, build_decoder(settings, encoder))

    def test_it_changes_nothing_at_the_start(self, settings: DecoderConfig) -> None:
        plain, told = (self.segmenter(settings, words).eval() for words in ((), EVERYTHING))
        assert torch.equal(told(IMAGE, CONDITION), plain(IMAGE))

    def test_every_film_learns_and_shifts_arrive(self, settings: DecoderConfig) -> None:
        network = taught(self.segmenter(settings, EVERYTHING)).train()
        outputs = network(IMAGE, CONDITION)
        outputs = outputs if isinstance(outputs, list) else [outputs]
        (outputs[0] * torch.randn(IMAGE.shape)).sum().backward()
        films = [m for m in network.modules() if isinstance(m, Film)]
        assert len(films) == 2 if settings.name == "linear" else 3
        for film in films:
            assert film.hidden.weight.grad.abs().sum() > 0
            scales, shifts = film.bias.grad.chunk(2)
            assert scales.abs().min() > 1e-4
            assert shifts.abs().max() > 1e-4

    def test_nothing_given_is_refused(self, settings: DecoderConfig) -> None:
        with pytest.raises(ValueError, match="condition_on"):
            self.segmenter(settings, EVERYTHING)(IMAGE)


@pytest.mark.parametrize(
    ("name", "part", "sparse"),
    [("vit", "encoder", True), ("vit", "segmenter", True), ("cnn", "encoder", True), ("cnn", "encoder", False)],
)
def test_every_pretraining_is_told_too(name: str, part: str, sparse: bool) -> None:
    losses = []
    for words in ((), EVERYTHING):
        config = tiny_config("pretrain", name, patch_size=(4, 4, 4), tokeniser="conv", tokeniser_channels=4)
        config.model.mae.pretrain, config.model.mae.sparse, config.model.condition_on = part, sparse, words
        torch.manual_seed(0)
        network = build_model(config).train()
        losses.append(network(IMAGE, noise=torch.arange(32).flip(0).repeat(2, 1), condition=CONDITION).loss)
    assert torch.equal(*losses)
    losses[1].backward()
    assert all(p.grad is not None for p in network.parameters())
    assert any(isinstance(m, Film) for m in network.modules())


def test_what_only_the_place_tells_can_be_learnt() -> None:
    """Every image is the same noise; lesions lie on one side of the head."""
    network = cnn(("position",), deep_supervision=False).train()
    optimizer = torch.optim.Adam(network.parameters(), lr=0.02)
    generator = torch.Generator().manual_seed(0)

    def crops(n: int) -> tuple[Tensor, Tensor, Tensor]:
        place = (torch.rand(n, 3, generator=generator) * 2 - 1) * torch.tensor([20.0, 15.0, 12.0])
        side = (place[:, 0] > 0).float()
        return torch.randn(n, 1, 16, 16, 8, generator=generator), place, side.view(-1, 1, 1, 1, 1)

    for _ in range(60):
        image, place, side = crops(8)
        loss = nn.functional.binary_cross_entropy_with_logits(
            network(image, place),
            side.expand_as(image),  # type: ignore[arg-type]
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    image, place, side = crops(64)
    with torch.no_grad():
        right = ((network(image, place) > 0).float() == side).float().mean()  # type: ignore[operator]
        blind = ((network(image, place.flip(0)) > 0).float() == side).float().mean()  # type: ignore[operator]
    assert right > 0.9
    assert blind < 0.7
