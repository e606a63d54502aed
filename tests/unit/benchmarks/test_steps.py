"""The bare step learns, whatever the network."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from benchmarks import steps
from benchmarks.device import open_device
from benchmarks.steps import bare_optimizer, bare_step, compiled, network_loss, training_step
from benchmarks.synthetic import NETWORKS, TINY, example, experiment
from iac_lightning.models.build import build_model

CPU = open_device("cpu", "32-true")


def test_a_step_learns() -> None:
    network = nn.Linear(2, 1)
    before = network.weight.detach().clone()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4)
    training_step(lambda: network(torch.ones(1, 2)).sum(), optimizer, "32-true", CPU)()
    # AdamW's first step has the size of the rate (1e-4), against the gradient's sign, beside a little decay
    torch.testing.assert_close(network.weight.detach(), before * (1 - 1e-6) - 1e-4, rtol=0, atol=1e-6)


def test_mixed_precision_computes_in_bfloat16() -> None:
    network, seen = nn.Linear(2, 1), []

    def loss() -> Tensor:
        output: Tensor = network(torch.ones(1, 2))
        seen.append(output.dtype)
        return output.float().sum()

    for precision in ("bf16-mixed", "32-true"):
        training_step(loss, torch.optim.SGD(network.parameters(), lr=0.1), precision, CPU)()
    assert seen == [torch.bfloat16, torch.float32]


@pytest.mark.parametrize("network", NETWORKS)
def test_the_loss_falls(network: str) -> None:
    config = experiment(network, TINY, patch=8)
    config.optimizer.lr = 1e-3
    batch, model = example(config, CPU.torch), build_model(config).train()
    loss = network_loss(model, config)
    values: list[float] = []

    def noted() -> Tensor:
        torch.manual_seed(0)  # the same tokens are hidden
        value = loss(batch)
        values.append(float(value.detach()))
        return value

    step = training_step(noted, bare_optimizer(model, config, CPU), "32-true", CPU)
    for _ in range(5):
        step()
    assert values[-1] < values[0]
    bare_step(config, batch, CPU)()


def test_off_compiles_nothing() -> None:
    assert compiled(torch.sum, "off") is torch.sum


@pytest.mark.parametrize(("network", "channels_last"), [("cnn", False), ("vit", True)])
def test_weights_lie_as_those_of_a_training(network: str, channels_last: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU the CNN's are contiguous; what is divided by a bare step must be of the same network."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    config, seen = experiment(network, TINY, device="cuda"), []
    monkeypatch.setattr(steps, "bare_optimizer", lambda made, *_: seen.append(made))
    bare_step(config, {}, CPU)
    weights = [w for w in seen[0].parameters() if w.ndim == 5 and w.shape[1] > 1 and w[0, 0].numel() > 1]
    assert {w.is_contiguous(memory_format=torch.channels_last_3d) for w in weights} == {channels_last}
