"""A rule's training: it counts, once, before the only validation. Checkpoints come as they do for any network."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from data_modules.batches.ct_data_module import CTDataModule
from data_modules.prepare.store import PreparedSeries
from iac_lightning.config.schema import ExperimentConfig
from iac_lightning.models.rule import PlaceRule
from iac_lightning.modules.segmentation_module import SegmentationModule

_FULL = 255  # occupancy of a voxel that is labelled wholly
_LEAST = 1e-6  # a probability is neither 0 nor 1: its logit is finite


class RuleModule(SegmentationModule):
    """`SegmentationModule` without gradients: the training series are counted when training starts."""

    def configure_optimizers(self) -> None:
        """There are none."""
        warnings.filterwarnings("ignore", message=".*configure_optimizers.*returned `None`")
        warnings.filterwarnings("ignore", message=".*training_step.*returned `None`")
        warnings.filterwarnings("ignore", message=".*models that have no learning rate schedulers")

    def configure_gradient_clipping(self, *arguments: Any, **options: Any) -> None:
        """There are no gradients."""

    def on_train_start(self) -> None:
        """Count."""
        network = self.model
        assert isinstance(network, PlaceRule)
        data: CTDataModule = self.trainer.datamodule  # type: ignore[attr-defined]
        prior = count_prior(data.train_series, self.config)
        network.logits.copy_(torch.from_numpy(prior))

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> None:  # type: ignore[override]
        """Nothing is learnt from patches."""


def count_prior(series: Iterable[PreparedSeries], config: ExperimentConfig) -> NDArray[np.float32]:
    """Logit, at each place of the region, of a bright voxel being labelled.

    Bright voxels of all series and, since heads are alike on both sides, of their mirror images are counted, with
    weights that fall off with distance as a Gaussian (1 at the place itself); so are the labelled ones among them (by
    the share of the voxel that is labelled). One voxel of the mean share is added, so that places where nothing bright
    was seen have that share.

    Args:
        series: prepared, with labels.
        config: `model.rule` says from which HU and how widely, `data.grid` the spacing.

    Returns:
        `[X, Y, Z]` float32.
    """
    rule, spacing_mm = config.model.rule, config.data.grid.spacing_mm
    bright, labelled = np.zeros((2, *config.data.grid.region))
    for item in series:
        occupancy = item.occupancy()
        assert occupancy is not None, "series without a label were refused before"
        seen = np.asarray(item.hu()) >= rule.threshold_hu
        bright += seen
        labelled += seen * (np.asarray(occupancy) / _FULL)
    share = labelled.sum() / max(bright.sum(), 1)
    sigma = [rule.smoothing_mm / mm for mm in spacing_mm]
    sums = [sum(math.exp(-0.5 * (k / s) ** 2) for k in range(-_reach(s), _reach(s) + 1)) for s in sigma]

    def around(counts: NDArray[np.float64]) -> NDArray[np.float64]:
        mean = gaussian_filter(counts + counts[::-1], sigma, mode="constant", radius=[_reach(s) for s in sigma])
        return np.asarray(mean * math.prod(sums))

    prior = np.clip((around(labelled) + share) / (around(bright) + 1), _LEAST, 1 - _LEAST)
    logits: NDArray[np.float32] = np.log(prior / (1 - prior)).astype(np.float32)
    return logits


def _reach(sigma: float) -> int:
    """Voxels after which a Gaussian is cut off."""
    return math.ceil(4 * sigma)
