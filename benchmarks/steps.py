"""A bare training step: forward, backward, update."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.device import Device
from iac_lightning.config.schema import ExperimentConfig
from iac_lightning.models.build import build_model, memory_format
from iac_lightning.models.mae import MaskedAutoencoder
from iac_lightning.modules.losses import SegmentationLoss

Step = Callable[[], object]


def bare_step(config: ExperimentConfig, batch: dict[str, Tensor], device: Device) -> Step:
    """Forward, backward and the optimiser's update on one batch that lies on the device: nothing else of a training.

    No schedule, clipping, averaged weights, logging or data. Masks of the autoencoder are drawn on the device. Where
    `trainer.compile` says so, network and loss are compiled as one graph, with its backward pass.
    """
    torch.manual_seed(config.seed)
    network = build_model(config).to(device.torch).train()
    network.to(memory_format=memory_format(config))  # type: ignore[call-overload] # as the module does
    loss = compiled(network_loss(network, config), config.trainer.compile)
    optimizer = bare_optimizer(network, config, device)
    return training_step(lambda: loss(batch), optimizer, config.trainer.precision, device)


def network_loss(network: nn.Module, config: ExperimentConfig) -> Callable[[dict[str, Tensor]], Tensor]:
    """From a batch to its loss, as the product takes it."""
    criterion = SegmentationLoss(config.loss)

    def loss(batch: dict[str, Tensor]) -> Tensor:
        told = {name: batch[name] for name in ("condition",) if name in batch}
        if isinstance(network, MaskedAutoencoder):
            restored: Tensor = network(batch["image"], **told).loss
            return restored
        return criterion(network(batch["image"], **told), batch["label"], batch["loss_region"])["loss"]

    return loss


def compiled(function: Callable[..., Tensor], mode: str) -> Callable[..., Tensor]:
    """The function, compiled as `trainer.compile` says: off, default or cuda_graphs."""
    if mode == "off":
        return function
    inductor = "reduce-overhead" if mode == "cuda_graphs" else None
    return torch.compile(function, fullgraph=True, dynamic=False, mode=inductor)


def bare_optimizer(network: nn.Module, config: ExperimentConfig, device: Device) -> torch.optim.Optimizer:
    """AdamW or SGD over all parameters in one group, fused on a GPU."""
    settings = config.optimizer
    if settings.name == "sgd":
        rates: dict[str, Any] = {"lr": settings.lr, "momentum": settings.momentum, "nesterov": True}
        return torch.optim.SGD(network.parameters(), fused=device.is_cuda, **rates)
    return torch.optim.AdamW(network.parameters(), lr=settings.lr, betas=settings.betas, fused=device.is_cuda)


def training_step(loss: Callable[[], Tensor], optimizer: torch.optim.Optimizer, precision: str, device: Device) -> Step:
    """One update.

    Args:
        loss: forward pass and loss.
        optimizer: of the weights.
        precision: with "bf16-mixed" the forward pass runs under autocast.
        device: that computes.
    """
    mixed = precision == "bf16-mixed"

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        torch.compiler.cudagraph_mark_step_begin()  # what graphs have given before ends here
        with torch.autocast(device.torch.type, torch.bfloat16, enabled=mixed):
            value = loss()
        value.backward()
        optimizer.step()

    return step
