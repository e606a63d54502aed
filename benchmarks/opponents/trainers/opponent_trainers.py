"""nnU-Net's trainers with the length as an argument; found through `nnUNet_extTrainer`, in the opponents' environment.

Everything else is nnU-Net's own. `OPPONENTS_EPOCHS` and `OPPONENTS_ITERATIONS` (of an epoch; validation takes a fifth
of them, as 50 of 250) are set by `python -m benchmarks.opponents`.
"""

from __future__ import annotations

import os
from typing import Any

import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.training.nnUNetTrainer.primus.primus_trainers import nnUNet_PrimusV3S_Trainer

CUDA = torch.device("cuda")


def set_length(trainer: Any) -> None:
    """As many epochs and iterations as the environment says."""
    trainer.num_epochs = int(os.environ["OPPONENTS_EPOCHS"])
    trainer.num_iterations_per_epoch = int(os.environ["OPPONENTS_ITERATIONS"])
    trainer.num_val_iterations_per_epoch = max(1, trainer.num_iterations_per_epoch // 5)


def mirrors() -> bool:
    """Whether training and prediction mirror their patches, as nnU-Net does."""
    return bool(os.environ["OPPONENTS_MIRROR"])


class OpponentTrainer(nnUNetTrainer):
    """nnU-Net's default: SGD, Nesterov momentum 0.99, polynomial decay, deep supervision."""

    def __init__(
        self, plans: dict, configuration: str, fold: int, dataset_json: dict, device: torch.device = CUDA
    ) -> None:
        super().__init__(plans, configuration, fold, dataset_json, device)
        set_length(self)

    def configure_rotation_dummyDA_mirroring_and_inital_patch_size(self) -> tuple:  # noqa: N802 - nnU-Net's name
        """As nnU-Net, but for a trial, which does not mirror."""
        *others, axes = super().configure_rotation_dummyDA_mirroring_and_inital_patch_size()
        self.inference_allowed_mirroring_axes = axes if mirrors() else None
        return (*others, self.inference_allowed_mirroring_axes)


class OpponentPrimusV3S(nnUNet_PrimusV3S_Trainer):
    """PrimusV3-S as its authors train it: AdamW at 3e-4, weight decay 0.05, clipping at 1.

    Their warm-up of 50 epochs of 1,000 stays that share of a shorter training.
    """

    def __init__(
        self, plans: dict, configuration: str, fold: int, dataset_json: dict, device: torch.device = CUDA
    ) -> None:
        super().__init__(plans, configuration, fold, dataset_json, device)
        set_length(self)
        self.warmup_duration_whole_net = max(1, round(self.num_epochs / 20))

    def configure_rotation_dummyDA_mirroring_and_inital_patch_size(self) -> tuple:  # noqa: N802 - nnU-Net's name
        """As nnU-Net, but for a trial, which does not mirror."""
        *others, axes = super().configure_rotation_dummyDA_mirroring_and_inital_patch_size()
        self.inference_allowed_mirroring_axes = axes if mirrors() else None
        return (*others, self.inference_allowed_mirroring_axes)
