"""Whole segmentation networks that restore what is hidden."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from iac_lightning.config.schema import ExperimentConfig
from iac_lightning.models.build import build_model, build_segmenter
from iac_lightning.models.masked_networks import MaskedSegmenter, MaskedUNet
from iac_lightning.models.restoring import Restorer

CROP = (16, 16, 16)
KINDS: dict[str, dict[str, Any]] = {
    "sparse CNN": {"name": "cnn"},
    "dense CNN": {"name": "cnn", "sparse": False},
    "residual CNN": {"name": "cnn", "cnn": "residual"},
    "progressive": {"decoder": "progressive"},
    "unetr": {"decoder": "unetr"},
    "all ways round": {"decoder": "unetr", "ways_round": True},
    "encoder": {"pretrain": "encoder"},
}


def settings(
    name: str = "vit",
    sparse: bool = True,
    cnn: str = "plain",
    decoder: str = "progressive",
    ways_round: bool = False,
    pretrain: str = "segmenter",
    condition_on: tuple[str, ...] = (),
) -> ExperimentConfig:
    config = ExperimentConfig(name="tiny", task="pretrain")
    config.data.sampling.crop, config.data.grid.spacing_mm = CROP, (1.0, 1.0, 1.0)
    model = config.model
    model.name, model.mae.sparse, model.mae.pretrain, model.cnn.encoder = name, sparse, pretrain, cnn
    model.condition_on = condition_on
    model.cnn.base_features, model.vit.patch_size = 4, (8, 8, 4)
    model.vit.dim, model.vit.depth, model.vit.heads, model.vit.tokeniser_channels = 24, 2, 2, 4
    model.decoder.name, model.decoder.channels = decoder, 4
    model.decoder.image = model.decoder.tokeniser_skips = ways_round
    model.cnn.deep_supervision = True
    model.mae.decoder_dim = 24
    return config


def restorer(**changes: Any) -> Restorer:
    torch.manual_seed(0)
    network = build_model(settings(**changes))
    assert isinstance(network, Restorer)
    return network


@pytest.fixture
def image() -> Tensor:
    return torch.randn(2, 1, *CROP, generator=torch.Generator().manual_seed(1))


NOISE = torch.stack([torch.randperm(16, generator=torch.Generator().manual_seed(k)) for k in (0, 1)])


@pytest.mark.parametrize("kind", KINDS)
def test_hidden_voxels_do_not_reach_the_prediction_and_visible_ones_do(kind: str, image: Tensor) -> None:
    network = restorer(**KINDS[kind]).eval()
    before = network(image, noise=NOISE)
    assert before.mask.sum(dim=1).tolist() == [12, 12]
    hidden, other = network.token_mask_to_voxels(before.mask), torch.randn_like(image)
    assert torch.equal(network(torch.where(hidden, other, image), noise=NOISE).reconstruction, before.reconstruction)
    changed = network(torch.where(hidden, image, other), noise=NOISE).reconstruction
    assert not torch.allclose(changed[hidden], before.reconstruction[hidden])


@pytest.mark.parametrize("kind", KINDS)
def test_every_parameter_has_a_gradient(kind: str, image: Tensor) -> None:
    network = restorer(**KINDS[kind]).train()
    output = network(image, noise=NOISE)
    output.loss.backward()
    assert output.reconstruction is None
    without = [n for n, p in network.named_parameters() if p.grad is None]
    assert not without, "plain DDP would stop"
    for name, parameter in network.named_parameters():
        residual = kind == "residual CNN" and (".conv" in name or ".skip" in name)  # a norm that starts at 0
        assert residual or parameter.grad.any(), name  # type: ignore[union-attr]


@pytest.mark.parametrize("kind", ["sparse CNN", "progressive"])
def test_loss_is_the_mean_square_over_hidden_voxels(kind: str, image: Tensor) -> None:
    network = restorer(**KINDS[kind]).eval()
    output = network(image, noise=NOISE)
    hidden = network.token_mask_to_voxels(output.mask)
    assert output.loss.item() == pytest.approx((output.reconstruction - image)[hidden].square().mean().item(), rel=1e-5)
    network.normalise_targets = True
    told = network(image, noise=NOISE)
    assert told.loss.item() != pytest.approx(output.loss.item(), rel=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_it_learns_a_pattern(kind: str) -> None:
    network = restorer(**KINDS[kind]).train()
    pattern = torch.sin(torch.arange(16.0))[None, None, :, None, None].expand(2, 1, *CROP)
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-2)
    losses = []
    for _ in range(25):
        loss = network(pattern, noise=NOISE).loss
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]


@pytest.mark.parametrize("kind", ["sparse CNN", "all ways round"])
def test_a_step_compiles_whole(kind: str, image: Tensor) -> None:
    network = restorer(**KINDS[kind]).train()
    compiled = torch.compile(lambda x: network(x, noise=NOISE).loss, fullgraph=True, dynamic=False, backend="eager")
    torch.testing.assert_close(compiled(image), network(image, noise=NOISE).loss)


def test_sparse_and_dense_differ_by_what_the_encoder_knows(image: Tensor) -> None:
    sparse, dense = restorer(name="cnn"), restorer(name="cnn", sparse=False)
    assert isinstance(sparse, MaskedUNet)
    assert isinstance(dense, MaskedUNet)
    assert [len(v) for v in sparse.mask_values] == list(sparse.network.plan.features)
    assert [len(v) for v in dense.mask_values] == [1]
    assert {n for n, _ in sparse.network.named_parameters()} == {n for n, _ in dense.network.named_parameters()}


def test_names_are_those_of_the_network_that_segments() -> None:
    for name in ("vit", "cnn"):
        config = settings(name=name)
        segmenting = build_segmenter(config).state_dict()
        pretrained = {n.removeprefix("network."): t.shape for n, t in restorer(name=name).state_dict().items()}
        common = {n: t.shape for n, t in segmenting.items() if not n.startswith("heads.")}
        assert common.items() <= pretrained.items()


@pytest.mark.parametrize("kind", KINDS)
def test_features_of_tokens_for_the_probe(kind: str, image: Tensor) -> None:
    network = restorer(**KINDS[kind]).eval()
    with torch.no_grad():
        features = network.token_features(image)
    assert features.shape == (2, 16, 16 if "CNN" in kind else 24)
    if "CNN" in kind:  # of 4 × 4 × 4 places, 2 × 2 × 1 make a token
        assert isinstance(network, MaskedUNet)
        deepest = network.network.encode(image)[-1]
        torch.testing.assert_close(features[0, 0], deepest[0, :, :2, :2, 0].mean((1, 2)))


@pytest.mark.parametrize("kind", KINDS)
def test_what_the_network_is_told_is_handed_on(kind: str, image: Tensor) -> None:
    network = restorer(**KINDS[kind], condition_on=("slice_thickness",)).eval()
    for module in network.modules():
        if hasattr(module, "deviation"):  # a film, which starts as the identity
            torch.nn.init.normal_(module.bias)
            torch.nn.init.normal_(module.weight)
    thin, thick = (network(image, noise=NOISE, condition=torch.full((2, 1), mm)).loss.item() for mm in (0.6, 5.0))
    assert thin != thick
    features = [network.token_features(image, torch.full((2, 1), mm)) for mm in (0.6, 5.0)]
    assert not torch.equal(*features)


def test_the_unetr_decoder_has_a_mask_token_for_each_feature() -> None:
    network = restorer(decoder="unetr")
    assert isinstance(network, MaskedSegmenter)
    assert len(network.mask_tokens) == len(network.decoder.depths) + 1 > 1
