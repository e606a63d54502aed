"""`recorded.py` under FSDP on two processes without a GPU: what Lightning and torch refuse there is patched here.

Not a way to train: it shows that the strategy, the parameter groups, clipping, validation, checkpoints and resuming fit
together, which a test without a GPU could not see otherwise. `STOP_AT_EPOCH=k` in the environment fails at epoch k.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import lightning.fabric.strategies.fsdp as fabric_fsdp
import lightning.pytorch.strategies.fsdp as lightning_fsdp
import torch
from lightning.pytorch.strategies import FSDPStrategy
from lightning.pytorch.trainer.connectors.accelerator_connector import _AcceleratorConnector
from torch.distributed import fsdp

from iac_lightning.modules import strategies
from iac_lightning.modules.throughput import DataWait
from iac_lightning.workflows import train as workflow
from tests.integration import recorded


def patch() -> None:
    check = _AcceleratorConnector._check_strategy_and_fallback
    _AcceleratorConnector._check_strategy_and_fallback = (  # type: ignore[method-assign]
        lambda self: None if isinstance(self._strategy_flag, FSDPStrategy) else check(self)
    )
    initialise = fsdp.FullyShardedDataParallel.__init__

    def on_cpu(self: Any, *arguments: Any, **settings: Any) -> None:
        initialise(self, *arguments, **{**settings, "device_id": torch.device("cpu")})

    fsdp.FullyShardedDataParallel.__init__ = on_cpu  # type: ignore[method-assign]

    def whole(module: Any, world_size: int, rank0_only: bool = True) -> Any:
        # "Offloading" from the CPU to the CPU hands out memory that FSDP frees.
        return fsdp.FullyShardedDataParallel.state_dict_type(
            module,
            fsdp.StateDictType.FULL_STATE_DICT,
            fsdp.FullStateDictConfig(offload_to_cpu=False, rank0_only=False),
            fsdp.FullOptimStateDictConfig(offload_to_cpu=False, rank0_only=rank0_only),
        )

    lightning_fsdp._get_full_state_dict_context = fabric_fsdp._get_full_state_dict_context = whole
    workflow.build_strategy = lambda config: strategies.sharded_strategy()
    stop_at = os.environ.get("STOP_AT_EPOCH")
    if stop_at:
        start = DataWait.on_train_epoch_start

        def stop(self: Any, trainer: Any, module: Any) -> None:
            if trainer.current_epoch == int(stop_at):
                raise RuntimeError("stopped by the test")
            start(self, trainer, module)

        DataWait.on_train_epoch_start = stop  # type: ignore[method-assign]


if __name__ == "__main__":
    patch()
    recorded.main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
