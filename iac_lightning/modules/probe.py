"""While a network is pre-trained: do its features know tokens with a lesion better than a random network's?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from numpy.typing import NDArray
from torch.utils.data import default_collate

from data_modules.batches.ct_data_module import DEV_CROPS, CTDataModule
from data_modules.batches.patches import DevCrops
from iac_lightning.config.schema import ExperimentConfig
from iac_lightning.evaluation.statistics.probe import probe_auc
from iac_lightning.models.build import build_model
from iac_lightning.models.restoring import Restorer
from iac_lightning.models.vit_tokens import patchify
from iac_lightning.modules.common import ExperimentModule, told

LESION_SHARE = 0.5
"""A token holds a lesion where at least one of its voxels is calcified by this share."""
MOST_CROPS = 256
"""Development crops that it looks at; any first part of them covers many series."""
MOST_TOKENS = 10_000
"""Tokens that the probe looks at; beyond it, tokens without a lesion are left out evenly."""


class TokenProbe(Callback):
    """After each validation of a pre-training, a linear probe on development crops: `dev/probe_auc`.

    It looks at the labels of the development split, for this figure alone: neither the weights nor the choice of a
    checkpoint depend on it. Beside it stands what the same network says with its first weights
    (`dev/probe_auc_random`). The first process measures; the others wait at the next exchange.
    """

    def __init__(self, config: ExperimentConfig) -> None:
        self.config = config
        self._tokens: _Tokens | None = None
        self._random: float | None = None

    @rank_zero_only
    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Measure and log."""
        assert isinstance(pl_module, ExperimentModule)
        if trainer.sanity_checking:
            return
        if self._tokens is None:
            self._tokens = _Tokens(trainer.datamodule, self.config)  # type: ignore[attr-defined]
            self._random = self._tokens.auc(initial_network(self.config).to(pl_module.device))
            if self._random is None:
                print(f"{self.config.name}: no probe: it needs labels with lesions of two patients of the dev split")
        if self._random is None:
            return
        trained = self._tokens.auc(pl_module.network)
        values = {"dev/probe_auc": trained, "dev/probe_auc_random": self._random}
        pl_module.log_dict({k: v for k, v in values.items() if v is not None}, rank_zero_only=True)


def initial_network(config: ExperimentConfig) -> Restorer:
    """The network of a pre-training with weights of its seed; the random numbers of the training go on as they were."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        network = build_model(config)
    assert isinstance(network, Restorer)
    return network


class _Tokens:
    """Development tokens: where they are, whose, and whether they hold a lesion."""

    def __init__(self, data: CTDataModule, config: ExperimentConfig) -> None:
        labelled = [s for s in data.dev_series if s.series.label]
        self.crops = DevCrops(labelled, config.data, config.seed, DEV_CROPS, config.model.condition_on)
        self.batch_size = config.data.batch_size
        self.count = min(len(self.crops), MOST_CROPS)
        lesions = [self._lesions(k, config.model.vit.patch_size) for k in range(self.count)]
        self.lesion = np.stack(lesions) if lesions else np.zeros((0, 0), dtype=bool)
        owners = np.array([s.series.patient_id for s in labelled] * DEV_CROPS)[: self.count]
        self.patient = owners[:, None].repeat(self.lesion.shape[1], axis=1)
        self.chosen = chosen_tokens(self.lesion)

    def _lesions(self, index: int, patch_size: tuple[int, int, int]) -> NDArray[np.bool_]:
        occupancy = torch.from_numpy(self.crops.occupancy(index))[None, None]
        found: NDArray[np.bool_] = (patchify(occupancy, patch_size)[0].amax(-1) >= 255 * LESION_SHARE).numpy()
        return found

    def auc(self, network: Any) -> float | None:
        """Of a probe on what a network says; None where there are too few lesions."""
        if not self.lesion.any():
            return None
        training, features = network.training, []
        network.eval()
        first = next(network.parameters())
        with torch.no_grad():
            for start in range(0, self.count, self.batch_size):
                rows = range(start, min(start + self.batch_size, self.count))
                batch = default_collate([self.crops[k] for k in rows])
                inputs = [x.to(first.device, first.dtype) for x in (batch["image"], *told(batch))]
                found = network.token_features(*inputs).float().cpu().numpy()
                features.append(found[self.chosen[rows.start : rows.stop]])
        network.train(training)
        return probe_auc(np.concatenate(features), self.lesion[self.chosen], self.patient[self.chosen])


def chosen_tokens(lesion: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which of the tokens `[crops, N]` the probe looks at: all with a lesion, and evenly of the others."""
    chosen = lesion.copy()
    others = np.flatnonzero(~lesion)
    room = max(MOST_TOKENS - int(lesion.sum()), 1)
    chosen.flat[others[:: max(1, -(-len(others) // room))]] = True
    return chosen


def describe_pretraining(metrics: Mapping[str, Any]) -> str:
    """What a pre-training has learnt, in a sentence, from what its last validation has measured."""
    parts = []
    if "dev/probe_auc" in metrics:
        parts.append(
            f"lesion in a token, linear probe on development scans: AUC {metrics['dev/probe_auc']:.2f} against "
            f"{metrics['dev/probe_auc_random']:.2f} of a random network"
        )
    if "dev/r2" in metrics:
        parts.append(
            f"R² of what was hidden {metrics['dev/r2']:.2f} against {metrics['dev/r2_interpolation']:.2f} of "
            f"interpolation and {metrics['dev/r2_patch_mean']:.2f} of each hidden patch's own mean"
        )
    return "; ".join(parts)
