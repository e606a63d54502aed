"""The average of the weights: where it lives, what it is, and that earlier checkpoints go on."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging
from torch import nn
from torch.optim.swa_utils import AveragedModel

from iac_lightning.modules.average import WeightAverage

DECAY = 0.9


class Net(L.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2)


def set_up(callback: EMAWeightAveraging, module: Net, device: str = "cpu") -> AveragedModel:
    strategy = SimpleNamespace(root_device=torch.device(device))
    callback.setup(SimpleNamespace(strategy=strategy), module, "fit")  # type: ignore[arg-type]
    assert callback._average_model is not None
    return callback._average_model


def steps(callback: EMAWeightAveraging, module: Net, first: int, last: int) -> None:
    for step in range(first, last + 1):
        generator = torch.Generator().manual_seed(step)
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
        trainer: Any = SimpleNamespace(global_step=step)
        callback.on_train_batch_end(trainer, module, None, None, 0)


def saved(callback: EMAWeightAveraging, module: Net) -> dict[str, Any]:
    checkpoint = {"state_dict": {k: v.clone() for k, v in module.state_dict().items()}}
    callback.on_save_checkpoint(None, module, checkpoint)  # type: ignore[arg-type]
    return {k: {n: t.clone() for n, t in v.items()} for k, v in checkpoint.items()}


def test_the_average_is_made_on_the_device_of_the_training() -> None:
    module = Net()
    average = set_up(WeightAverage(DECAY), module, "meta")
    assert {p.device.type for p in average.module.parameters()} == {"meta"}
    assert {p.device.type for p in module.parameters()} == {"cpu"}  # moves later
    assert average.n_averaged.device.type == "cpu"  # to ask for it waits for nothing


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_it_is_the_same_average() -> None:
    torch.manual_seed(0)
    module = Net()
    here, there = WeightAverage(DECAY), WeightAverage(DECAY)
    set_up(here, module)
    set_up(there, module, "cuda")
    steps(here, module, 1, 4)
    steps(there, module.cuda(), 1, 4)
    torch.testing.assert_close(
        saved(there, module)["state_dict"], saved(here, module)["state_dict"], check_device=False
    )
    before = saved(there, module)
    again = WeightAverage(DECAY)
    average = set_up(again, Net(), "cuda")
    again.on_load_checkpoint(None, module, before)  # type: ignore[arg-type]
    assert {p.device.type for p in average.module.parameters()} == {"cuda"}


def test_it_is_lightnings_own_to_the_bit_and_reads_its_checkpoints() -> None:
    torch.manual_seed(0)
    module = Net()
    ours, lightnings = WeightAverage(DECAY), EMAWeightAveraging(decay=DECAY)
    for callback in (ours, lightnings):
        set_up(callback, module)
        steps(callback, module, 1, 5)
    one, other = saved(ours, module), saved(lightnings, module)
    assert one.keys() == other.keys() == {"state_dict", "current_model_state", "averaging_state"}
    torch.testing.assert_close(one, other, rtol=0, atol=0)
    assert not torch.equal(one["state_dict"]["layer.weight"], module.layer.weight)

    resumed = WeightAverage(DECAY)
    module_again = Net()
    set_up(resumed, module_again)
    resumed.on_load_checkpoint(None, module_again, other)  # type: ignore[arg-type]
    resumed.load_state_dict(lightnings.state_dict())
    assert resumed.state_key == lightnings.state_key
    for callback, net in ((resumed, module_again), (lightnings, module)):
        steps(callback, net, 5, 7)  # step 5 was counted
    torch.testing.assert_close(saved(resumed, module_again), saved(lightnings, module), rtol=0, atol=0)
