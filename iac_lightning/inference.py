"""Regions of interest in, probabilities out: on the common grid many at once, on a scan's own grid one by one."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from monai.inferers import sliding_window_inference
from torch import Tensor, nn

from data_modules.batches.patches import normalise
from data_modules.errors import UserError
from data_modules.prepare.common_grid import on_common_grid
from data_modules.prepare.store import PreparedSeries
from data_modules.scan.geometry import Volume
from data_modules.scan.resampling import probability_on_scan
from data_modules.scan.scan import Scan
from iac_lightning.config.schema import ExperimentConfig, InferenceConfig

GPU_VOXELS = 2**23
"""Voxels of all windows that go through a network at once on a GPU, where `inference.window_batch` asks for no more: 14
regions with 8 windows of 48 × 48 × 32 each. A wide network takes about 5 GB for them."""


def predict_regions(
    model: Callable[[Tensor], Tensor], images: Tensor, crop: tuple[int, int, int], config: InferenceConfig
) -> Tensor:
    """Probabilities over whole regions by overlapping windows, blended with Gaussian weights.

    Probabilities, not logits, are averaged over windows and mirrored copies. Where a region is smaller than the
    crop it is padded with air (−1 after normalisation). `config.window_batch` windows of each region are taken at once;
    what is predicted of a region depends on those beside it only by the rounding of larger batches.

    Args:
        model: `[B, 1, *crop]` → logits `[B, 1, *crop]`.
        images: `[N, 1, X, Y, Z]`, normalised.
        crop: window in voxels.
        config: overlap, mirroring, windows at once.

    Returns:
        `[N, X, Y, Z]` float32 in [0, 1].
    """

    def probability(windows: Tensor) -> Tensor:
        result = torch.sigmoid(model(windows).float())
        if config.mirror:
            result = (result + torch.sigmoid(model(windows.flip(2)).float()).flip(2)) / 2
        return result

    at_once = config.window_batch * len(images)
    with torch.inference_mode():
        blended = sliding_window_inference(
            images, crop, at_once, probability, overlap=config.overlap, mode="gaussian", cval=-1.0
        )
    assert isinstance(blended, Tensor)
    return blended[:, 0].clamp(0, 1)


def predict_volumes(
    model: nn.Module, volumes: Sequence[Volume], config: ExperimentConfig, device: torch.device
) -> list[Volume]:
    """Probabilities of regions on the common grid, from their HU there; all of one shape, predicted at once.

    The model's training mode is restored afterwards.

    Raises:
        UserError: when what the network gives is not finite, which would pass for no lesion.
    """
    data = config.data
    dtype = next((weight.dtype for weight in model.parameters()), torch.float32)

    def in_its_numbers(windows: Tensor) -> Tensor:
        logits: Tensor = model(windows.to(dtype))  # no float32 while a training with bf16-true validates
        return logits

    images = np.stack([normalise(np.asarray(v.data, dtype=np.float32), data.window_hu) for v in volumes])[:, None]
    training = model.training
    model.eval()
    try:
        given = torch.from_numpy(images).to(device)
        found = predict_regions(in_its_numbers, given, data.sampling.crop, config.inference)
        probabilities = found.cpu().numpy()
    finally:
        model.train(training)
    if not np.isfinite(probabilities).all():
        raise UserError(
            f"{config.name}: the network gives values that are not finite: its weights are damaged, or its training "
            "has diverged. Restore the checkpoint from a backup, or train again at a lower optimizer.lr."
        )
    return [Volume(p, volume.grid) for p, volume in zip(probabilities, volumes, strict=True)]


def predict_prepared(
    model: nn.Module, series: Sequence[PreparedSeries], config: ExperimentConfig, device: torch.device
) -> Iterator[Volume]:
    """Probabilities of prepared series on the common grid, in their order, as many at once as suit the device."""
    n = regions_at_once(config, device)
    for first in range(0, len(series), n):
        volumes = [Volume(item.hu(), item.grid) for item in series[first : first + n]]
        yield from predict_volumes(model, volumes, config, device)


def regions_at_once(config: ExperimentConfig, device: torch.device) -> int:
    """Regions that are predicted together: many on a GPU, which one leaves idle.

    One elsewhere, where more are no faster: there a region's probabilities are the same, bit by bit, alone or among
    others.
    """
    if device.type != "cuda":
        return 1
    return max(1, GPU_VOXELS // (config.inference.window_batch * math.prod(config.data.sampling.crop)))


def predict_scan(model: nn.Module, scan: Scan, region: Scan, config: ExperimentConfig, device: torch.device) -> Volume:
    """Probability of a scan on the native grid of its region of interest (see `data_modules.prepare.roi`)."""
    (common,) = predict_volumes(model, [on_common_grid(scan, region, config.data.grid)], config, device)
    return probability_on_scan(common, region.volume, config.loss.restrict_hu)
