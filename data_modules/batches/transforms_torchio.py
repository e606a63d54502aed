"""The reference of `transforms`: the same plans, patch by patch, by TorchIO's transforms where it has them.

They are used in their deterministic form, with the parameters of the plan, and through `apply_transform`: calling them
draws from torch's global generator. TorchIO has no slice profile; its operators, like the noise, are those of the other
engine.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
import torchio as tio
from torch import Tensor

from data_modules.batches.condition import SLICE_AXIS
from data_modules.batches.philox import NOISE, normal
from data_modules.batches.plan import PatchPlan
from data_modules.batches.thick_labels import protocol_label
from data_modules.batches.transforms import share
from data_modules.batches.transforms_slices import along_z, bright_on_thick, slice_operators
from data_modules.config import DataConfig
from data_modules.scan.geometry import AIR_HU


def augment(
    hu: Tensor,
    occupancy: Tensor | None,
    peak_hu: Tensor | None,
    plan: PatchPlan,
    config: DataConfig,
    restrict_hu: float | None = None,
    labelled: Tensor | None = None,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """`transforms.augment`, which says what is given and returned; on the CPU."""
    del labelled  # what it saves is little here
    image = hu.to(torch.float32)
    label = None if occupancy is None else share(occupancy)
    region = None if label is None else torch.empty(image.shape, dtype=torch.bool)
    for row in range(len(plan)):
        one = plan.rows([row])
        label_row, peak_row = (None if x is None else x[row] for x in (label, peak_hu))
        moved, label_moved, bright = _moved(image[row], label_row, peak_row, one, config, restrict_hu)
        if label is not None and region is not None and label_moved is not None:
            label[row] = label_moved
            region[row] = bright | (label_moved > 0)
        image[row] = _changed(moved, one, config.grid.spacing_mm)
    return image, label, region


def _moved(
    hu: Tensor,
    label: Tensor | None,
    peak_hu: Tensor | None,
    plan: PatchPlan,
    config: DataConfig,
    restrict_hu: float | None,
) -> tuple[Tensor, Tensor | None, Tensor]:
    """HU and label `[1, X, Y, Z]` of one patch in another place and with other slices, and where it is bright."""
    if plan.affine[0]:
        hu, label, peak_hu = _affine(hu, label, peak_hu, plan, config.grid.spacing_mm)
    threshold = -math.inf if restrict_hu is None else restrict_hu
    bright = (hu if peak_hu is None else peak_hu) >= threshold
    if np.isnan(plan.thicker_mm[0]):
        return hu, label, bright
    spacing_mm = config.grid.spacing_mm[SLICE_AXIS]
    operators = slice_operators(hu.shape[-1], spacing_mm, plan.own_mm, plan.thicker_mm, plan.roundness, plan.widening)
    there_and_back, to_thick, overlap = (
        torch.from_numpy(x).to(torch.float32) for x in (operators.there_and_back, operators.to_thick, operators.overlap)
    )
    thick = along_z(hu[None], there_and_back)[0]
    if label is not None and config.augmentation.thickness_label == "protocol":
        label = protocol_label(hu[None], label[None], to_thick, overlap)[0]
    elif label is not None:
        label = along_z(label[None], there_and_back)[0]
    if peak_hu is None:
        return thick, label, thick >= threshold
    return thick, label, bright_on_thick(peak_hu[None], threshold, to_thick, overlap)[0]


def _affine(
    hu: Tensor, label: Tensor | None, peak_hu: Tensor | None, plan: PatchPlan, spacing_mm: tuple[float, float, float]
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Rotate, then scale about the patch's centre; air comes in from outside. The label is soft: it is interpolated."""
    around_origin = np.diag([*spacing_mm, 1.0])
    around_origin[:3, 3] = np.multiply(spacing_mm, np.subtract(1, hu.shape[1:]) / 2)

    def changed(values: Tensor | None, fill: float, interpolation: str) -> Tensor | None:
        if values is None:
            return None
        transform = tio.Affine(
            scales=plan.scales[0].tolist(),
            degrees=plan.degrees[0].tolist(),
            translation=(0.0, 0.0, 0.0),
            center="origin",
            default_pad_value=fill,
            image_interpolation=interpolation,
        )
        return _apply(transform, values.to(torch.float32), around_origin)

    moved = changed(hu, AIR_HU, "linear")
    assert moved is not None
    peak = changed(peak_hu, AIR_HU, "nearest")
    return moved, changed(label, 0, "linear"), None if peak is None else torch.maximum(peak, moved.ceil())


def _changed(hu: Tensor, plan: PatchPlan, spacing_mm: tuple[float, float, float]) -> Tensor:
    """`[1, X, Y, Z]` brightness in [-1, 1] of one patch."""
    affine = np.diag([*spacing_mm, 1.0])
    sigma_mm = float(plan.blur_mm[0])
    if sigma_mm > 0:
        hu = _apply(tio.Blur(std=(sigma_mm, sigma_mm, 0.0)), hu, affine)
    hu = hu * float(plan.gain[0]) + float(plan.offset_hu[0])
    if plan.noise_hu[0] > 0:
        noise = normal(plan.seed, NOISE, plan.epoch, torch.from_numpy(plan.index), hu.numel()).view(hu.shape)
        hu = hu + noise * float(plan.noise_hu[0])
    low, high = plan.window_hu[0].tolist()
    share = _apply(tio.Clamp(low, high), hu, affine).sub(low).div(high - low)
    if plan.gamma[0] != 1:
        share = _apply(tio.Gamma(float(plan.gamma[0])), share, affine)
    return share * 2 - 1


def _apply(transform: Any, values: Tensor, affine: np.ndarray[Any, Any]) -> Tensor:
    """`[1, X, Y, Z]` after a deterministic transform."""
    image = tio.ScalarImage(tensor=values, affine=affine)
    changed: Tensor = transform.apply_transform(tio.Subject(image=image))["image"].data
    return changed
