"""Lightning's strategy for several devices: DDP, or FSDP for ViTs whose weights and optimiser do not fit one GPU."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.strategies import DDPStrategy, FSDPStrategy, Strategy
from torch import nn

from data_modules.errors import UserError
from iac_lightning.config.batching import accumulated_batches, processes
from iac_lightning.config.schema import ExperimentConfig
from iac_lightning.models.vit import Block
from iac_lightning.modules.checkpoint import load_checkpoint

TIMEOUT = timedelta(hours=2)
"""How long a process waits for the others, such as for the first one's figures."""
WRAPPER = "_fsdp_wrapped_module."
"""What FSDP puts into the names of the parameters below a module that it has wrapped."""


class ShardedStrategy(FSDPStrategy):
    """FSDP whose checkpoints are whole files of tensors and plain types, as those of one device.

    Lightning reads them back through pickle; here a file is first read with ``weights_only=True``, which refuses
    everything else.
    """

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """As Lightning's, after the check."""
        load_checkpoint(Path(checkpoint_path))
        return super().load_checkpoint(checkpoint_path, weights_only)


def build_strategy(config: ExperimentConfig) -> Strategy | str:
    """The strategy of an experiment; Lightning's own choice for one device.

    Raises:
        UserError: for FSDP without CUDA.
    """
    trainer = config.trainer
    if trainer.strategy.startswith("fsdp"):
        if not torch.cuda.is_available():
            raise UserError(f"trainer.strategy={trainer.strategy} needs CUDA GPUs, and there is none: use ddp.")
        return sharded_strategy(offload=trainer.strategy == "fsdp_cpu_offload")
    if trainer.strategy == "auto" and processes(config) == 1:
        return "auto"
    if trainer.accelerator in ("mps", "tpu"):
        return trainer.strategy
    unused = trainer.strategy == "ddp_find_unused_parameters_true"
    # Every step has the same graph. With accumulation, DDP's first exchange would come before it has seen the graph.
    static = accumulated_batches(config) == 1 and not unused and not trainer.compile
    return DDPStrategy(
        timeout=TIMEOUT, find_unused_parameters=unused, gradient_as_bucket_view=True, static_graph=static
    )


def sharded_strategy(offload: bool = False) -> ShardedStrategy:
    """FSDP, one unit a transformer block and one for the rest.

    Parameters keep their names and groups (`use_orig_params`), which the learning rates by layer need. Activations are
    recomputed by the networks themselves (`model.vit.activation_checkpointing`).

    Args:
        offload: keep weights and optimiser in the memory of the host between uses.
    """
    return ShardedStrategy(
        timeout=TIMEOUT,
        auto_wrap_policy={Block},
        sharding_strategy="FULL_SHARD",
        state_dict_type="full",
        cpu_offload=offload,
        use_orig_params=True,
        limit_all_gathers=True,
    )


def whole_state(wrapped: nn.Module, prefix: str) -> dict[str, torch.Tensor]:
    """The whole weights of a network that FSDP has shared out, on every process; all processes call it together.

    Args:
        wrapped: what FSDP has wrapped.
        prefix: of the names to return, which lose it.
    """
    from torch.distributed.fsdp import FullStateDictConfig, FullyShardedDataParallel, StateDictType

    settings = FullStateDictConfig(offload_to_cpu=False, rank0_only=False)
    with FullyShardedDataParallel.state_dict_type(wrapped, StateDictType.FULL_STATE_DICT, settings):
        state = wrapped.state_dict()
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def check_launched_processes(config: ExperimentConfig) -> None:
    """Compare the processes that torchrun has started with those of the experiment.

    Raises:
        UserError: with the setting to change, where they differ.
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return
    world, local = int(os.environ["WORLD_SIZE"]), int(os.environ["LOCAL_WORLD_SIZE"])
    if (config.trainer.devices, config.trainer.num_nodes) != (local, world // local):
        raise UserError(
            f"torchrun has started {local} processes on each of {world // local} nodes, and the experiment has "
            f"trainer.devices={config.trainer.devices} trainer.num_nodes={config.trainer.num_nodes}: set "
            f"trainer.devices={local} trainer.num_nodes={world // local}, or start others."
        )
