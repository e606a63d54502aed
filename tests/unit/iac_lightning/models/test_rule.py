"""Bright voxels by their place, by hand."""

from __future__ import annotations

import pytest
import torch

from data_modules.batches.condition import Acquisition, position_mm
from data_modules.batches.patches import normalise
from iac_lightning.config.schema import InferenceConfig
from iac_lightning.inference import Told, predict_regions
from iac_lightning.models.rule import DARK_LOGIT, PlaceRule

REGION, SPACING_MM, WINDOW_HU = (6, 4, 2), (1.0, 2.0, 4.0), (-200.0, 1000.0)


@pytest.fixture
def rule() -> PlaceRule:
    network = PlaceRule(REGION, SPACING_MM, WINDOW_HU, 130)
    network.logits.copy_(torch.arange(48.0).reshape(REGION) / 48)
    return network


def told(*corners: tuple[int, int, int], crop: tuple[int, int, int]) -> torch.Tensor:
    return torch.from_numpy(position_mm(corners, crop, REGION, SPACING_MM)).float()


def test_each_voxel_has_the_value_of_its_place_and_dark_ones_have_none(rule: PlaceRule) -> None:
    hu = torch.full((2, 1, 4, 2, 2), 130.0)
    hu[0, 0, 2, 1, 0] = 129
    image = torch.from_numpy(normalise(hu.numpy(), WINDOW_HU))
    logits = rule(image, told((1, 2, 0), (2, 0, 0), crop=(4, 2, 2)))
    assert logits.shape == image.shape
    expected = rule.logits[1:5, 2:4].clone()
    expected[2, 1, 0] = DARK_LOGIT
    assert torch.equal(logits[0, 0], expected)
    assert torch.equal(logits[1, 0], rule.logits[2:6, 0:2])


def test_beyond_the_region_the_edge_goes_on(rule: PlaceRule) -> None:
    logits = rule(torch.ones(1, 1, 8, 4, 2), told((-1, 0, 0), crop=(8, 4, 2)))[0, 0]
    assert torch.equal(logits[1:7], rule.logits)
    assert torch.equal(logits[0], rule.logits[0])
    assert torch.equal(logits[7], rule.logits[5])


@pytest.mark.parametrize("mirror", [False, True])
def test_windows_over_a_region_give_the_prior_back(rule: PlaceRule, mirror: bool) -> None:
    # A mirrored window is told the mirrored place. It gives what the other side has, so both are alike here.
    rule.logits.copy_(rule.logits + rule.logits.flip(0) if mirror else rule.logits)
    whole = Told(("position",), [Acquisition(4.0, 2, SPACING_MM)], SPACING_MM)
    settings = InferenceConfig(overlap=0.5, mirror=mirror)
    found = predict_regions(rule, torch.ones(1, 1, *REGION), (4, 2, 2), settings, whole)
    assert torch.allclose(found[0], torch.sigmoid(rule.logits), atol=1e-6)


def test_without_the_place_it_means_nothing(rule: PlaceRule) -> None:
    with pytest.raises(ValueError, match=r"model.condition_on: \[position\]"):
        rule(torch.ones(1, 1, 4, 2, 2))
