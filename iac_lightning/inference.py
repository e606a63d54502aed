"""A region of interest in, probabilities on its native grid out."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from monai.inferers import sliding_window_inference
from torch import Tensor, nn

from data_modules.config import DataConfig
from data_modules.ct import Scan
from data_modules.ct_data_module import normalise
from data_modules.geometry import Grid, Volume
from data_modules.prepare.common_grid import on_common_grid
from data_modules.resampling import resample_probability
from data_modules.store import PreparedSeries
from iac_lightning.schema import InferenceConfig


def predict_region(
    model: Callable[[Tensor], Tensor], image: Tensor, crop: tuple[int, int, int], config: InferenceConfig
) -> Tensor:
    """Probabilities over a whole region by overlapping windows, blended with Gaussian weights.

    Probabilities, not logits, are averaged over windows and mirrored copies. Where the region is smaller than the
    crop it is padded with air (−1 after normalisation).

    Args:
        model: `[B, 1, *crop]` → logits `[B, 1, *crop]`.
        image: `[1, 1, X, Y, Z]`, normalised.
        crop: window in voxels.
        config: overlap, mirroring, windows at once.

    Returns:
        `[X, Y, Z]` float32 in [0, 1].
    """

    def probability(windows: Tensor) -> Tensor:
        result = torch.sigmoid(model(windows).float())
        if config.mirror:
            result = (result + torch.sigmoid(model(windows.flip(2)).float()).flip(2)) / 2
        return result

    with torch.inference_mode():
        blended = sliding_window_inference(
            image, crop, config.window_batch, probability, overlap=config.overlap, mode="gaussian", cval=-1.0
        )
    assert isinstance(blended, Tensor)
    return blended[0, 0].clamp(0, 1)


def predict_volume(
    model: nn.Module, common: Volume, native: Grid, data: DataConfig, config: InferenceConfig, device: torch.device
) -> Volume:
    """Probability on `native` from HU on the common grid; the model's training mode is restored afterwards."""
    image = torch.from_numpy(normalise(np.asarray(common.data, dtype=np.float32), data.window_hu))[None, None]
    training = model.training
    model.eval()
    try:
        probability = predict_region(model, image.to(device), data.sampling.crop, config).cpu().numpy()
    finally:
        model.train(training)
    return resample_probability(Volume(probability, common.grid), native)


def predict_prepared(
    model: nn.Module, series: PreparedSeries, data: DataConfig, config: InferenceConfig, device: torch.device
) -> Volume:
    """Probability of a prepared series on the native grid of its region of interest."""
    return predict_volume(model, Volume(series.hu(), series.grid), series.native_grid, data, config, device)


def predict_scan(
    model: nn.Module, scan: Scan, region: Scan, data: DataConfig, config: InferenceConfig, device: torch.device
) -> Volume:
    """Probability of a scan on the native grid of its region of interest (see `data_modules.prepare.roi`)."""
    return predict_volume(model, on_common_grid(scan, region, data.grid), region.grid, data, config, device)
