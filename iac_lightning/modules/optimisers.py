"""Optimisers and learning-rate schedules: AdamW with layer-wise decay for the ViT, nnU-Net's SGD for the CNN."""

from __future__ import annotations

import math
import re
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from iac_lightning.config.schema import OptimizerConfig
from iac_lightning.modules.strategies import WRAPPER

POLY_POWER = 0.9
"""Exponent of nnU-Net's polynomial decay."""


def schedule_factor(step: int, total_steps: int, config: OptimizerConfig) -> float:
    """Learning rate at a step, relative to the peak: linear warm-up, then the decay.

    The first step of a warm-up of w steps has the factor 1 / w; poly is (1 − progress)^0.9 (nnU-Net).
    """
    warmup = round(config.warmup_fraction * total_steps)
    if step < warmup:
        return (step + 1) / warmup
    progress = min((step - warmup) / max(total_steps - warmup, 1), 1.0)
    if config.schedule == "poly":
        return float((1 - progress) ** POLY_POWER)
    if config.schedule == "cosine":
        low = config.min_lr_fraction
        return low + (1 - low) * 0.5 * (1 + math.cos(math.pi * progress))
    return 1.0


def layer_of(name: str, depth: int) -> int:
    """Depth of a parameter for layer-wise decay: 0 embeddings, 1…`depth` encoder blocks, `depth` + 1 all else."""
    block = re.search(r"encoder\.blocks\.(\d+)\.", name)
    if block:
        return int(block.group(1)) + 1
    embeds = re.search(r"encoder\.(?!norm\.)", name)  # tokeniser, place, registers
    return 0 if embeds else depth + 1


def decayed_parameters(model: nn.Module) -> frozenset[str]:
    """Names of the parameters with weight decay: not biases, norms (one-dimensional), position embeddings, tokens."""
    return frozenset(
        name
        for name, parameter in model.named_parameters()
        if parameter.ndim > 1 and not name.endswith(("position_embedding", "mask_token", "registers"))
    )


def parameter_groups(
    model: nn.Module, config: OptimizerConfig, decayed: frozenset[str] | None = None
) -> list[dict[str, Any]]:
    """Groups with their own weight decay and learning rate.

    With `layer_decay` d < 1 a parameter k layers below the top learns at d^k of the rate (Clark et al. 2020; He et al.
    2022 for fine-tuning).

    Args:
        model: the network.
        config: rate, decays.
        decayed: `decayed_parameters` of the network before FSDP, which flattens what a process holds of a parameter.
    """
    decayed = decayed_parameters(model) if decayed is None else decayed
    blocks = [int(m.group(1)) for n, _ in model.named_parameters() if (m := re.search(r"encoder\.blocks\.(\d+)\.", n))]
    depth = max(blocks) + 1 if blocks else 0
    groups: dict[tuple[int, bool], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        decays = name.replace(WRAPPER, "") in decayed
        layer = layer_of(name, depth) if config.layer_decay < 1 else depth + 1
        group = groups.setdefault(
            (layer, decays),
            {
                "params": [],
                "lr": config.lr * config.layer_decay ** (depth + 1 - layer),
                "weight_decay": config.weight_decay if decays else 0.0,
                "name": f"layer{layer}{'' if decays else '_no_decay'}",
            },
        )
        group["params"].append(parameter)
    return list(groups.values())


def build_optimizer(
    model: nn.Module,
    config: OptimizerConfig,
    total_steps: int,
    decayed: frozenset[str] | None = None,
    fused: bool | None = None,
) -> dict[str, Any]:
    """Lightning's dictionary of an optimiser and its schedule, stepped after every weight update.

    Args:
        model: the network.
        config: name, rate, decays.
        total_steps: of the schedule.
        decayed: as `parameter_groups` takes them.
        fused: update each group in one launch, where the device has a kernel for it; None: as torch chooses.
    """
    groups = parameter_groups(model, config, decayed)
    optimizer: torch.optim.Optimizer
    if config.name == "sgd":
        optimizer = torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum, nesterov=True, fused=fused)
    else:
        optimizer = torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, fused=fused)
    optimizer.register_load_state_dict_pre_hook(_of_this_device)
    optimizer.register_load_state_dict_post_hook(_laid_out_as_weights)
    scheduler = LambdaLR(optimizer, lambda step: schedule_factor(step, total_steps, config))
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def _of_this_device(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> dict[str, Any]:
    """A checkpoint's state with the implementation that this process has chosen: it may come from another device."""
    chosen = {key: optimizer.defaults[key] for key in ("fused", "foreach")}
    return {**state, "param_groups": [{**group, **chosen} for group in state["param_groups"]]}


def _laid_out_as_weights(optimizer: torch.optim.Optimizer) -> None:
    """Moments in the memory format of their weights, which may be another on another device.

    A fused update walks through all of them as they lie in memory.
    """
    for parameter, state in optimizer.state.items():
        for key, value in state.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape and value.stride() != parameter.stride():
                state[key] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
