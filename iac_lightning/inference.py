"""A region of interest in, probabilities on its native grid out."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from monai.inferers import sliding_window_inference
from torch import Tensor, nn

from data_modules.batches.patches import normalise
from data_modules.errors import UserError
from data_modules.prepare.common_grid import on_common_grid
from data_modules.prepare.store import PreparedSeries
from data_modules.scan.geometry import Volume
from data_modules.scan.resampling import resample_probability
from data_modules.scan.scan import Scan
from iac_lightning.config.schema import ExperimentConfig, InferenceConfig


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
    model: nn.Module, common: Volume, native_hu: Volume, config: ExperimentConfig, device: torch.device
) -> Volume:
    """Probability on a native grid from HU on the common grid; the model's training mode is restored afterwards.

    A network that learnt under the restricted objective (`loss.restrict_hu`) has never been told about darker voxels:
    its probability there is 0, by the scan's own HU.

    Raises:
        UserError: when what the network gives is not finite, which would pass for no lesion.
    """
    data = config.data
    image = torch.from_numpy(normalise(np.asarray(common.data, dtype=np.float32), data.window_hu))[None, None]
    training = model.training
    model.eval()
    try:
        probability = predict_region(model, image.to(device), data.sampling.crop, config.inference).cpu().numpy()
    finally:
        model.train(training)
    if not np.isfinite(probability).all():
        raise UserError(
            f"{config.name}: the network gives values that are not finite: its weights are damaged, or its training "
            "has diverged. Restore the checkpoint from a backup, or train again at a lower optimizer.lr."
        )
    native = resample_probability(Volume(probability, common.grid), native_hu.grid)
    if config.loss.restrict_hu is None:
        return native
    return native.with_data(np.where(native_hu.data >= config.loss.restrict_hu, native.data, np.float32(0)))


def predict_prepared(
    model: nn.Module, series: PreparedSeries, config: ExperimentConfig, device: torch.device
) -> Volume:
    """Probability of a prepared series on the native grid of its region of interest."""
    native_hu = Volume(series.native_hu(), series.native_grid)
    return predict_volume(model, Volume(series.hu(), series.grid), native_hu, config, device)


def predict_scan(model: nn.Module, scan: Scan, region: Scan, config: ExperimentConfig, device: torch.device) -> Volume:
    """Probability of a scan on the native grid of its region of interest (see `data_modules.prepare.roi`)."""
    return predict_volume(model, on_common_grid(scan, region, config.data.grid), region.volume, config, device)
