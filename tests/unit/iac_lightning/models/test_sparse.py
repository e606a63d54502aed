"""Convolutions over what is visible: nothing of hidden places, not even in the norms."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from iac_lightning.config.cnn_plan import plan_cnn
from iac_lightning.models.cnn import PlannedUNet
from iac_lightning.models.sparse import emptied, normalised, visible_at


def test_a_coarse_place_is_visible_where_any_voxel_below_it_is() -> None:
    visible = torch.zeros(1, 1, 4, 6, 2)
    visible[0, 0, 3, 2, 1] = 1
    coarse = visible_at(visible, torch.zeros(1, 5, 2, 2, 2))
    assert coarse.shape == (1, 1, 2, 2, 2)
    assert coarse.nonzero().tolist() == [[0, 0, 1, 0, 1]]
    assert visible_at(visible, torch.zeros(1, 3, 4, 6, 2)) is visible


def test_norms_look_at_visible_places_alone() -> None:
    torch.manual_seed(0)
    x, visible = torch.randn(2, 3, 4, 4, 2), (torch.rand(2, 1, 4, 4, 2) < 0.4).float()
    norm = nn.InstanceNorm3d(3, affine=True)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    found = emptied(normalised(norm, x, visible), visible)
    for b in range(2):
        seen = visible[b, 0] > 0
        mean, deviation = x[b][:, seen].mean(1, keepdim=True), x[b][:, seen].std(1, correction=0, keepdim=True)
        expected = (x[b][:, seen] - mean) / (deviation**2 + norm.eps).sqrt() * norm.weight[:, None] + norm.bias[:, None]
        torch.testing.assert_close(found[b][:, seen], expected)
        assert not found[b][:, ~seen].any()


@pytest.mark.parametrize("encoder", ["plain", "residual"])
def test_where_all_is_visible_it_is_the_dense_network(encoder: str) -> None:
    torch.manual_seed(0)
    network = PlannedUNet(plan_cnn((16, 16, 16), (1, 1, 1), base_features=4, encoder=encoder)).eval()
    image = torch.randn(2, 1, 16, 16, 16)
    sparse = network.encode(image, visible=torch.ones_like(image))
    for a, b in zip(sparse, network.encode(image), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("encoder", ["plain", "residual"])
@pytest.mark.parametrize("told", [(), ("slice_thickness",)])
def test_hidden_places_stay_empty_at_every_resolution(encoder: str, told: tuple[str, ...]) -> None:
    torch.manual_seed(0)
    plan = plan_cnn((16, 16, 16), (1, 1, 1), base_features=4, encoder=encoder)
    network = PlannedUNet(plan, condition_on=told)
    for film in network.encoder_films:
        nn.init.normal_(film.bias)  # type: ignore[arg-type]
    visible = torch.zeros(1, 1, 16, 16, 16)
    visible[..., :8, :8, :4] = 1
    condition = torch.tensor([[2.0]]) if told else None
    for x in network.encode(torch.randn(1, 1, 16, 16, 16) * visible, condition, visible):
        seen = visible_at(visible, x).expand_as(x) > 0
        assert not x[~seen].any()
        assert x[seen].any()
