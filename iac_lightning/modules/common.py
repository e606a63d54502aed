"""What both LightningModules share: randomness that survives a restart, and what a checkpoint remembers."""

from __future__ import annotations

from typing import Any

import lightning as L
import numpy as np
import torch
from torch import nn

from iac_lightning.config import config_dict
from iac_lightning.models.build import build_model
from iac_lightning.models.cost import training_steps
from iac_lightning.modules.optimisers import build_optimizer
from iac_lightning.schema import ExperimentConfig


class ExperimentModule(L.LightningModule):
    """Network, optimiser and memory of one experiment.

    Attributes:
        config: the experiment.
        model: its network; names in its state are those of a plain `torch.nn.Module`, without prefix, on transfer.
        trained_on: whom it and its encoder learnt from, as salted hashes (`data_modules.cohort.seen_patients`), one
            record a training; goes into every checkpoint.
    """

    def __init__(self, config: ExperimentConfig) -> None:
        super().__init__()
        self.config = config
        # Convolutions over few channels are faster with the channels innermost (a ViT decoder's step by a quarter).
        self.model: nn.Module = build_model(config).to(  # type: ignore[call-overload]
            memory_format=torch.channels_last_3d
        )
        self.trained_on: list[dict[str, Any]] = []

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Seed this step from (seed, step, rank), so that a resumed run draws what the uninterrupted one would."""
        entropy = (self.config.seed, self.global_step, batch_idx, self.global_rank)
        torch.manual_seed(int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0] >> np.uint64(1)))

    def configure_optimizers(self) -> Any:
        """Optimiser and schedule from the config, over all steps of the run.

        `trainer.estimated_stepping_batches` would make Lightning open the loader before it has read the checkpoint, and
        then forget where in the epoch the loader was.
        """
        return build_optimizer(self.model, self.config.optimizer, training_steps(self.config))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store plain types only, so that the file loads with ``weights_only=True``."""
        checkpoint["iac"] = {"config": config_dict(self.config), "trained_on": self.trained_on}
