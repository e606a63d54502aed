"""What a training costs in floating-point operations, counted without computing anything."""

from __future__ import annotations

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from iac_lightning.config.schema import ExperimentConfig
from iac_lightning.models.build import build_model, count_parameters
from iac_lightning.models.condition import usual_condition
from iac_lightning.models.restoring import MAEOutput


def step_flops(config: ExperimentConfig) -> tuple[int, int]:
    """Floating-point operations of one sample forward and backward, and the network's trainable parameters.

    Matrix products, convolutions and attention count, a multiplication and an addition as two; element-wise work does
    not. Runs on fake tensors.
    """
    with FakeTensorMode(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model = build_model(config).train()
        told = usual_condition(config.model.condition_on, 1)
        output = model(torch.zeros(1, 1, *config.data.sampling.crop), **told)
        if isinstance(output, MAEOutput):
            loss = output.loss
        else:
            loss = output.sum() if isinstance(output, Tensor) else torch.stack([o.sum() for o in output]).sum()
        if loss.requires_grad:  # a rule that only counts has no weights
            loss.backward()
        return int(counter.get_total_flops()), count_parameters(model)
