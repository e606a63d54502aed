"""Regions of interest in, probabilities out: on the common grid many at once, on a scan's own grid one by one."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from monai.inferers import sliding_window_inference
from numpy.typing import NDArray
from torch import Tensor, nn

from data_modules.batches.condition import SLICE_AXIS, Acquisition, condition_values, position_mm
from data_modules.batches.patches import normalise
from data_modules.batches.volumes import to_device
from data_modules.errors import UserError
from data_modules.prepare.common_grid import on_common_grid
from data_modules.prepare.store import PreparedSeries
from data_modules.scan.geometry import Volume
from data_modules.scan.resampling import probability_on_scan
from data_modules.scan.scan import Scan
from iac_lightning.config.schema import ExperimentConfig, InferenceConfig
from iac_lightning.models.ensemble import Ensemble

GPU_VOXELS = 2**23
"""Voxels of all windows that go through a network at once on a GPU, where `inference.window_batch` asks for no more: 14
regions with 8 windows of 48 × 48 × 32 each. A wide network takes about 5 GB for them."""


@dataclass(frozen=True)
class Told:
    """What a network is told beside the image, of any window of some regions.

    Attributes:
        condition_on: which numbers, in this order.
        made: how the scan of each region was made.
        spacing_mm: of the common grid.
    """

    condition_on: Sequence[str]
    made: Sequence[Acquisition]
    spacing_mm: tuple[float, float, float]

    def of_windows(
        self,
        places: Sequence[Sequence[slice]],
        shape: Sequence[int],
        crop: tuple[int, int, int],
        device: torch.device,
    ) -> tuple[tuple[Tensor], tuple[Tensor]]:
        """Conditions `[B, K]` of windows and of their mirror images.

        Args:
            places: of each window, its region and where it lies along x, y, z, as MONAI tells: in a region that is
                smaller than a window, in the padded one.
            shape: of the regions.
            crop: of a window.
            device: of the conditions.
        """
        padding = np.maximum(np.subtract(crop, shape), 0) // 2
        corner = np.array([[side.start for side in place[2:]] for place in places]) - padding
        seen_mm = position_mm(corner, crop, shape, self.spacing_mm)
        made = [self.made[place[0].start] for place in places]
        thickness_mm = np.array([m.told_thickness_mm(self.spacing_mm[SLICE_AXIS]) for m in made])
        scan_mm = np.array([m.spacing_mm for m in made])

        def condition(positions_mm: NDArray[np.float64]) -> Tensor:
            values = condition_values(self.condition_on, positions_mm, thickness_mm, scan_mm)
            return to_device(torch.from_numpy(values), device)

        return (condition(seen_mm),), (condition(seen_mm * (-1, 1, 1)),)


def predict_regions(
    model: Callable[..., Tensor],
    images: Tensor,
    crop: tuple[int, int, int],
    config: InferenceConfig,
    told: Told | None = None,
) -> Tensor:
    """Probabilities over whole regions by overlapping windows, blended with Gaussian weights.

    Probabilities, not logits, are averaged over windows and mirrored copies. Where a region is smaller than the
    crop it is padded with air (−1 after normalisation). `config.window_batch` windows of each region are taken at once;
    what is predicted of a region depends on those beside it only by the rounding of larger batches.

    Args:
        model: `[B, 1, *crop]` → logits `[B, 1, *crop]`; with `told`, its second argument is the condition `[B, K]`.
        images: `[N, 1, X, Y, Z]`, normalised.
        crop: window in voxels.
        config: overlap, mirroring, windows at once.
        told: what the model is told of each window beside the image; mirrored windows lie on the other side.

    Returns:
        `[N, X, Y, Z]` float32 in [0, 1].
    """

    def probability(windows: Tensor, places: Sequence[Sequence[slice]]) -> Tensor:
        plain, mirrored = ((), ()) if told is None else told.of_windows(places, images.shape[2:], crop, images.device)
        result = torch.sigmoid(model(windows, *plain).float())
        if config.mirror:
            result = (result + torch.sigmoid(model(windows.flip(2), *mirrored).float()).flip(2)) / 2
        return result

    at_once = config.window_batch * len(images)
    with torch.inference_mode():
        blended = sliding_window_inference(
            images, crop, at_once, probability, overlap=config.overlap, mode="gaussian", cval=-1.0, with_coord=True
        )
    assert isinstance(blended, Tensor)
    return blended[:, 0].clamp(0, 1)


def predict_volumes(
    model: nn.Module,
    volumes: Sequence[Volume],
    made: Sequence[Acquisition],
    config: ExperimentConfig,
    device: torch.device,
) -> list[Volume]:
    """Probabilities of regions on the common grid, from their HU there; all of one shape, predicted at once.

    `made` says how the scan of each was made. The model's training mode is restored afterwards. Members of an ensemble
    predict with their own settings, but for those of `config.inference`; their probabilities are averaged.

    Raises:
        UserError: when what the network gives is not finite, which would pass for no lesion.
    """
    if isinstance(model, Ensemble):
        said = [
            predict_volumes(member, volumes, made, replace(own, inference=config.inference), device)
            for member, own in model.each()
        ]
        return [
            Volume(np.stack([v.data for v in of_one]).mean(axis=0, dtype=np.float64).astype(np.float32), of_one[0].grid)
            for of_one in zip(*said, strict=True)
        ]
    data = config.data
    dtype = next((weight.dtype for weight in model.parameters()), torch.float32)

    def in_its_numbers(windows: Tensor, *condition: Tensor) -> Tensor:
        logits: Tensor = model(windows.to(dtype), *condition)  # no float32 while a training with bf16-true validates
        return logits

    images = np.stack([normalise(np.asarray(v.data, dtype=np.float32), data.window_hu) for v in volumes])[:, None]
    condition_on = config.model.condition_on
    told = Told(condition_on, made, data.grid.spacing_mm) if condition_on else None
    training = model.training
    model.eval()
    try:
        given = torch.from_numpy(images).to(device)
        found = predict_regions(in_its_numbers, given, data.sampling.crop, config.inference, told)
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
        items = series[first : first + n]
        volumes = [Volume(item.hu(), item.grid) for item in items]
        yield from predict_volumes(model, volumes, [Acquisition.of_series(item) for item in items], config, device)


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
    made = Acquisition.of_region(region)
    (common,) = predict_volumes(model, [on_common_grid(scan, region, config.data.grid)], [made], config, device)
    return probability_on_scan(common, region.volume, config.loss.restrict_hu)
