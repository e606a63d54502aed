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
from iac_lightning.cluster import ranks
from iac_lightning.cluster.slurm import slurm_job
from iac_lightning.config.batching import accumulated_batches, processes
from iac_lightning.config.schema import ExperimentConfig
from iac_lightning.models.vit_blocks import Block
from iac_lightning.modules.checkpoint import load_training
from iac_lightning.runs.directory import is_main_process

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
        load_training(Path(checkpoint_path))
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
    static = accumulated_batches(config) == 1 and not unused and trainer.compile == "off"
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
    """Compare the processes that a launcher has started with those of the experiment.

    Raises:
        UserError: with the setting to change, where they differ.
    """
    trainer = config.trainer
    if ranks.TORCHRUN in os.environ:
        world, local = int(os.environ["WORLD_SIZE"]), int(os.environ["LOCAL_WORLD_SIZE"])
        launcher, started = "torchrun", (local, world // local)
    elif slurm_job() is not None:
        nodes = int(os.environ.get("SLURM_NNODES", 1))
        launcher, started = "SLURM", (int(os.environ["SLURM_NTASKS"]) // nodes, nodes)
    elif processes(config) == 1 and not is_main_process():
        raise UserError(
            f"{ranks.described()} in the environment say that this process is one of several, and the experiment has "
            "trainer.devices=1 trainer.num_nodes=1: unset these variables, or set as many devices as were started."
        )
    else:
        return
    local, nodes = started
    if (trainer.devices, trainer.num_nodes) != started:
        raise UserError(
            f"{launcher} has started {local} processes on each of {nodes} nodes, and the experiment has "
            f"trainer.devices={trainer.devices} trainer.num_nodes={trainer.num_nodes}: set "
            f"trainer.devices={local} trainer.num_nodes={nodes}, or start others."
        )
