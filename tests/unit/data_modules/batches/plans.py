"""Plans by hand, and patches to carry them out on."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from data_modules.batches.plan import PatchPlan
from data_modules.config import AugmentationConfig, DataConfig, GridConfig, SamplingConfig

SPACING = (0.8, 1.0, 2.0)
SHAPE = (24, 20, 12)
WINDOW = (-200.0, 1000.0)


def plan_of(n: int, **changes: Any) -> PatchPlan:
    """The plan of n samples that change nothing, but for what is given: one value for all, or one a sample."""
    still = PatchPlan(
        seed=3,
        epoch=2,
        index=np.arange(n) * 7 + 1,
        series=np.zeros(n, dtype=np.int64),
        corner=np.zeros((n, 3), dtype=np.int64),
        around_lesion=np.zeros(n, dtype=bool),
        flip=np.zeros(n, dtype=bool),
        affine=np.zeros(n, dtype=bool),
        scales=np.ones((n, 3)),
        degrees=np.zeros((n, 3)),
        own_mm=np.full(n, SPACING[2]),
        position_mm=np.zeros((n, 3)),
        spacing_mm=np.tile(SPACING, (n, 1)),
        thicker_mm=np.full(n, np.nan),
        roundness=np.zeros(n),
        widening=np.ones(n),
        slice_thickness_mm=np.ones(n, dtype=np.float32),
        gain=np.ones(n),
        offset_hu=np.zeros(n),
        blur_mm=np.zeros(n),
        noise_hu=np.zeros(n),
        gamma=np.ones(n),
        window_hu=np.tile(WINDOW, (n, 1)),
    )
    given = {
        name: np.broadcast_to(np.asarray(value), getattr(still, name).shape).astype(getattr(still, name).dtype)
        for name, value in changes.items()
    }
    return replace(still, **given)


def data_config(**augmentation: Any) -> DataConfig:
    """Of patches of `SHAPE`."""
    return DataConfig(
        grid=GridConfig(spacing_mm=SPACING),
        sampling=SamplingConfig(crop=SHAPE),
        augmentation=AugmentationConfig(**augmentation),
        window_hu=WINDOW,
    )


def smooth_hu(n: int, seed: int = 0) -> Tensor:
    """`[n, 1, *SHAPE]` HU without edges, where interpolations agree."""
    noise = np.random.default_rng(seed).normal(0, 2500, (n, 1, *SHAPE))
    return torch.from_numpy(ndimage.gaussian_filter(noise, (0, 0, 1.5, 1.5, 1.5)).astype(np.float32))


def lesions(n: int, seed: int = 1) -> Tensor:
    """`[n, 1, *SHAPE]` occupancy: a lesion in the middle and one at the border of each patch; every third is free."""
    rng = np.random.default_rng(seed)
    label = torch.zeros(n, 1, *SHAPE)
    for row in range(n):
        if row % 3 != 2:
            label[row, 0, 9:13, 8:11, 4:7] = torch.from_numpy(rng.random((4, 3, 3)).astype(np.float32))
            label[row, 0, :2, 17:, 11] = 0.7
    return label


def to_hu(image: Tensor) -> Tensor:
    """HU within the window of a brightness."""
    low, high = WINDOW
    return (image + 1) * (high - low) / 2 + low
