from __future__ import annotations

import math
from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import nn

from iac_lightning.config.schema import OptimizerConfig
from iac_lightning.models.vit import ViTEncoder
from iac_lightning.modules.optimisers import build_optimizer, parameter_groups, schedule_factor


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = ViTEncoder(
            crop=(8, 8, 8), patch_size=(4, 4, 4), dim=12, depth=3, heads=2, mlp_ratio=2.0, drop_path=0.0
        )
        self.head = nn.Linear(12, 2)


def test_cosine_by_hand() -> None:
    config = OptimizerConfig(warmup_fraction=0.1, min_lr_fraction=0.01, schedule="cosine")
    assert schedule_factor(0, 100, config) == pytest.approx(0.1)
    assert schedule_factor(9, 100, config) == pytest.approx(1.0)
    assert schedule_factor(55, 100, config) == pytest.approx(0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi / 2)))
    assert schedule_factor(100, 100, config) == pytest.approx(0.01)


def test_poly_is_that_of_nnunet() -> None:
    config = OptimizerConfig(warmup_fraction=0, schedule="poly")
    assert schedule_factor(250, 1000, config) == pytest.approx(0.75**0.9)
    assert schedule_factor(1000, 1000, config) == 0


def test_every_parameter_is_in_one_group_with_its_decay_and_rate() -> None:
    net = Net()
    config = OptimizerConfig(lr=1.0, weight_decay=0.05, layer_decay=0.5)
    groups = parameter_groups(net, config)
    rate, decay = {}, {}
    for group in groups:
        for parameter in group["params"]:
            assert id(parameter) not in rate
            rate[id(parameter)], decay[id(parameter)] = group["lr"], group["weight_decay"]
    names = dict(net.named_parameters())
    assert set(rate) == {id(p) for p in names.values()}

    def of(name: str) -> tuple[float, float]:
        return rate[id(names[name])], decay[id(names[name])]

    assert of("head.weight") == (1.0, 0.05)
    assert of("head.bias") == (1.0, 0.0)
    assert of("encoder.position_embedding") == (0.5**4, 0.0)
    blocks = {n: p for n, p in names.items() if ".blocks.2." in n and p.ndim == 2}
    assert blocks
    assert all(rate[id(p)] == 0.5 and decay[id(p)] == 0.05 for p in blocks.values())
    first = [p for n, p in names.items() if ".blocks.0." in n and p.ndim == 1]
    assert first
    assert all(rate[id(p)] == 0.5**3 and decay[id(p)] == 0 for p in first)
    assert of("encoder.patch_embedding.weight")[0] == 0.5**4


def test_without_layer_decay_all_learn_at_one_rate() -> None:
    groups = parameter_groups(Net(), OptimizerConfig(lr=2.0))
    assert {g["lr"] for g in groups} == {2.0}
    assert {g["weight_decay"] for g in groups} == {0.0, 0.05}


def test_sgd_is_nesterov_and_follows_the_schedule() -> None:
    net = nn.Linear(2, 2)
    config = OptimizerConfig(name="sgd", lr=0.1, schedule="poly", warmup_fraction=0, momentum=0.99)
    built = build_optimizer(net, config, 10)
    optimizer, scheduler = built["optimizer"], built["lr_scheduler"]["scheduler"]
    assert isinstance(optimizer, torch.optim.SGD)
    assert optimizer.defaults["nesterov"]
    assert built["lr_scheduler"]["interval"] == "step"
    optimizer.step()
    scheduler.step()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.1 * 0.9**0.9)


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_a_state_goes_on_with_the_implementation_of_this_device(name: str) -> None:
    """A checkpoint of a CPU goes on fused on a GPU, and one of a GPU as torch chooses (fused runs here too)."""

    def step(net: nn.Module, fused: bool | None, state: dict[str, Any] | None = None) -> torch.optim.Optimizer:
        optimizer: torch.optim.Optimizer = build_optimizer(net, config, 10, fused=fused)["optimizer"]
        if state is not None:
            optimizer.load_state_dict(deepcopy(state))
        net(torch.ones(1, 2)).sum().backward()
        optimizer.step()
        return optimizer

    config = OptimizerConfig(name=name, lr=0.1, warmup_fraction=0)
    torch.manual_seed(0)
    net = nn.Linear(2, 2)
    state = step(net, None).state_dict()
    weights = [{k: v.clone() for k, v in net.state_dict().items()}]
    for fused in (True, None):
        other = nn.Linear(2, 2)
        other.load_state_dict(weights[0])
        optimizer = step(other, fused, state)
        assert {group["fused"] for group in optimizer.param_groups} == {fused}
        weights.append(dict(other.state_dict()))
    assert not torch.equal(weights[1]["weight"], weights[0]["weight"])
    torch.testing.assert_close(weights[1], weights[2])


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_weights_in_another_memory_format_than_the_checkpoint_are_updated_alike(name: str) -> None:
    config = OptimizerConfig(name=name, lr=0.1, warmup_fraction=0)
    image = torch.randn(2, 3, 4, 4, 4, generator=torch.Generator().manual_seed(1))

    def trained(
        memory_format: torch.memory_format, then: torch.memory_format, fused: bool | None
    ) -> list[torch.Tensor]:
        torch.manual_seed(0)
        net = nn.Conv3d(3, 5, 3)
        state = None
        for layout in (memory_format, then):  # a training, and one that goes on from its checkpoint
            net = net.to(memory_format=layout)  # type: ignore[call-overload]
            optimizer: torch.optim.Optimizer = build_optimizer(net, config, 10, fused=fused)["optimizer"]
            if state is not None:
                optimizer.load_state_dict(state)
            for _ in range(2):
                optimizer.zero_grad()
                net(image).square().sum().backward()
                optimizer.step()
            state = deepcopy(optimizer.state_dict())
        return [p.detach().contiguous() for p in net.parameters()]

    plain = trained(torch.contiguous_format, torch.contiguous_format, None)
    for first, then in (
        (torch.channels_last_3d, torch.contiguous_format),
        (torch.contiguous_format, torch.channels_last_3d),
    ):
        torch.testing.assert_close(trained(first, then, True), plain, rtol=1e-4, atol=1e-5)
