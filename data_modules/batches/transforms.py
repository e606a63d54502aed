"""Random changes of training patches, whole batches at once, as a plan decides them; on any device.

Patches become batches here: HU to what a network sees, occupancy to the label that it is taught, and where the loss
counts. `transforms_torchio` does the same patch by patch with TorchIO's transforms, as a reference.

Which rows change is known on the host, and what the device is told travels without being waited for: nothing here makes
the host wait for a GPU. On the CPU a batch is made row by row: its caches hold a row, and a product has the same bits
whatever else is in the batch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data_modules.batches.condition import SLICE_AXIS
from data_modules.batches.philox import NOISE, normal
from data_modules.batches.plan import PatchPlan
from data_modules.batches.thick_labels import protocol_label
from data_modules.batches.transforms_affine import moved, source_matrices
from data_modules.batches.transforms_slices import along_z, bright_on_thick, slice_operators
from data_modules.batches.volumes import to_device
from data_modules.config import DataConfig

_TRUNCATE = 4
"""Standard deviations at which a Gaussian ends (SciPy's rule, which TorchIO follows)."""


def augment(
    hu: Tensor,
    occupancy: Tensor | None,
    peak_hu: Tensor | None,
    plan: PatchPlan,
    config: DataConfig,
    restrict_hu: float | None = None,
    labelled: Tensor | None = None,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Turn cut patches, mirrored already where the plan says so, into what a network is trained on.

    Rotation and scale, then thicker slices, move image and label together. Then it is decided where the loss counts,
    for that depends on true HU. What changes HU alone follows: blur in the slice plane (where a reconstruction kernel
    acts), gain and offset, noise, the window, gamma.

    Args:
        hu: `[B, 1, X, Y, Z]`, integer or float32. The first three may be changed in place.
        occupancy: `[B, 1, X, Y, Z]` share of each voxel that is labelled, uint8 (255 = full) or float32 in [0, 1].
        peak_hu: `[B, 1, X, Y, Z]`, the brightest native voxel of each; None: the loss goes by `hu`.
        plan: of these patches.
        config: grid and augmentation.
        restrict_hu: the loss counts from this HU, and where labelled; None: everywhere.
        labelled: `[n]` ascending places in the flattened batch where `occupancy` is above 0; None: they are looked for.

    Returns:
        Image in [-1, 1] and label in [0, 1], both float32, and the loss region (bool), each `[B, 1, X, Y, Z]`; the
        last two are None where `occupancy` is.
    """
    batch = _Patches(
        hu.to(torch.float32),
        None if occupancy is None else share(occupancy),
        peak_hu if restrict_hu is not None and occupancy is not None else None,
        None if occupancy is None else torch.empty(hu.shape, dtype=torch.bool, device=hu.device),
        labelled,
    )
    at_once = 1 if hu.device.type == "cpu" else max(1, len(plan))
    with _exact_products(hu.device):
        for start in range(0, len(plan), at_once):
            rows = slice(start, start + at_once)
            some, some_plan = batch.rows(rows), plan.rows(rows)
            _move(some, some_plan, config, restrict_hu)
            _change_intensity(some.image, some_plan, config.grid.spacing_mm)
    return batch.image, batch.label, batch.region


@dataclass(frozen=True, eq=False)
class _Patches:
    """Tensors that are changed in place: `image` from HU to brightness, `region` written where there is a label."""

    image: Tensor
    label: Tensor | None
    peak_hu: Tensor | None
    region: Tensor | None
    labelled: Tensor | None

    def rows(self, rows: slice) -> _Patches:
        """Views of some rows."""
        labelled = self.labelled
        if labelled is not None and (rows.start, rows.stop) != (0, len(self.image)):
            n = math.prod(self.image.shape[1:])
            first, last = np.searchsorted(labelled.numpy(), (rows.start * n, rows.stop * n))
            labelled = labelled[first:last] - rows.start * n
        label, peak_hu, region = (None if x is None else x[rows] for x in (self.label, self.peak_hu, self.region))
        return _Patches(self.image[rows], label, peak_hu, region, labelled)


class _Rows:
    """Some rows of a batch, known on the host: to take them and to put them back without waiting for the device."""

    def __init__(self, chosen: NDArray[np.bool_], device: torch.device) -> None:
        self.host = np.flatnonzero(chosen)
        self._all = len(self.host) == len(chosen)
        self._index = None if self._all or not self else to_device(torch.from_numpy(self.host), device)

    def __bool__(self) -> bool:
        return len(self.host) > 0

    def of(self, values: Tensor) -> Tensor:
        """These rows: a view where they are all."""
        return values if self._index is None else values.index_select(0, self._index)

    def put(self, values: Tensor, rows: Tensor) -> None:
        """Replace these rows."""
        if self._index is not None:
            values.index_copy_(0, self._index, rows)
        elif rows is not values:
            values.copy_(rows)


def _move(patches: _Patches, plan: PatchPlan, config: DataConfig, restrict_hu: float | None) -> None:
    """Rotation, scale and thicker slices, and where the loss counts."""
    image, label, peak_hu, region = patches.image, patches.label, patches.peak_hu, patches.region
    rows = _Rows(plan.affine, image.device)
    if rows:
        matrices = source_matrices(plan.scales[rows.host], plan.degrees[rows.host], config.grid.spacing_mm)
        given = [x for x in (image, label, peak_hu) if x is not None]
        label_rows, peak_rows = (None if x is None else rows.of(x) for x in (label, peak_hu))
        new = [*moved(rows.of(image), label_rows, peak_rows, matrices)]
        if peak_hu is not None:  # the nearest peak may be less bright than what is interpolated
            new[-1] = torch.maximum(new[-1], new[0].ceil().to(peak_hu.dtype))
        for values, values_moved in zip(given, new, strict=True):
            rows.put(values, values_moved)
    if peak_hu is not None and region is not None and restrict_hu is not None:
        _at_least(peak_hu, restrict_hu, region)
    thick = _Rows(np.isfinite(plan.thicker_mm), image.device)
    if thick:
        _thicken(patches, thick, plan.rows(thick.host), config, restrict_hu)
    if region is None or label is None:
        return
    if restrict_hu is None:
        region.fill_(True)
        return
    if peak_hu is None:
        _at_least(image, restrict_hu, region)
    if patches.labelled is not None and not rows and not thick:
        region.view(-1).index_fill_(0, patches.labelled, True)
    else:
        region.logical_or_(_above(label, 0))


def _thicken(patches: _Patches, rows: _Rows, plan: PatchPlan, config: DataConfig, restrict_hu: float | None) -> None:
    """Re-image some rows, whose plan is given, with thicker slices."""
    image, label, peak_hu, region = patches.image, patches.label, patches.peak_hu, patches.region
    spacing_mm = config.grid.spacing_mm[SLICE_AXIS]
    operators = slice_operators(
        image.shape[-1], spacing_mm, plan.own_mm, plan.thicker_mm, plan.roundness, plan.widening
    )
    there_and_back, to_thick, overlap = (
        to_device(torch.from_numpy(x).to(torch.float32), image.device)
        for x in (operators.there_and_back, operators.to_thick, operators.overlap)
    )
    hu = rows.of(image)
    if label is not None:
        protocol = config.augmentation.thickness_label == "protocol"
        occupancy = rows.of(label)
        thick = protocol_label(hu, occupancy, to_thick, overlap) if protocol else _smeared(occupancy, there_and_back)
        rows.put(label, thick)
    if peak_hu is not None and region is not None and restrict_hu is not None:
        rows.put(region, bright_on_thick(rows.of(peak_hu), restrict_hu, to_thick, overlap))
    rows.put(image, along_z(hu, there_and_back))


def _smeared(occupancy: Tensor, there_and_back: Tensor) -> Tensor:
    """Occupancy through the slice profile; on the CPU only the few columns that hold any."""
    if occupancy.device.type != "cpu":
        return along_z(occupancy, there_and_back)
    out = torch.zeros_like(occupancy)
    for row, matrix in enumerate(there_and_back):
        label, smeared = (values[row].flatten(0, 2) for values in (occupancy, out))
        columns = torch.from_numpy(np.flatnonzero((label.numpy() > 0).any(axis=1)))
        smeared[columns] = label[columns] @ matrix.T
    return out


def _change_intensity(image: Tensor, plan: PatchPlan, spacing_mm: tuple[float, float, float]) -> None:
    """From HU to brightness in [-1, 1]: all that changes HU alone."""
    device = image.device
    rows = _Rows(plan.blur_mm > 0, device)
    if rows:
        rows.put(image, _blurred(rows.of(image), plan.blur_mm[rows.host], spacing_mm))
    low, high = plan.window_hu.T
    scale = 2 / (high - low)
    # A gain, an offset and the window are one line.
    slope, start = scale * plan.gain, scale * (plan.offset_hu - (low + high) / 2)
    if len(plan) == 1:  # in one pass over memory, of which a CPU has a row at a time
        torch.add(_column(start, device), image, alpha=float(slope[0]), out=image)
    else:
        image.mul_(_column(slope, device)).add_(_column(start, device))
    rows = _Rows(plan.noise_hu > 0, device)
    if rows:
        index = to_device(torch.from_numpy(plan.index[rows.host]), device)
        noise = normal(plan.seed, NOISE, plan.epoch, index, math.prod(image.shape[1:])).view(-1, *image.shape[1:])
        noise.mul_(_column((scale * plan.noise_hu)[rows.host], device))
        rows.put(image, rows.of(image).add_(noise))
    image.clamp_(-1, 1)
    rows = _Rows(plan.gamma != 1, device)
    if rows:
        share = rows.of(image).add_(1).div_(2).pow_(_column(plan.gamma[rows.host], device))
        rows.put(image, share.mul_(2).sub_(1))


def _blurred(hu: Tensor, sigma_mm: NDArray[np.float64], spacing_mm: tuple[float, float, float]) -> Tensor:
    """`[R, 1, X, Y, Z]` blurred in plane by a Gaussian; at the border patches are mirrored."""
    along_x, along_y = (
        to_device(torch.from_numpy(_gaussians(hu.shape[2 + axis], sigma_mm / spacing_mm[axis])), hu.device)
        for axis in (0, 1)
    )
    hu = torch.bmm(along_x, hu.flatten(2).flatten(0, 1).view(len(hu), hu.shape[2], -1)).view(hu.shape)
    return torch.matmul(along_y[:, None, None], hu)


def _gaussians(n: int, sigma: NDArray[np.float64]) -> NDArray[np.float32]:
    """`[R, n, n]`: filters of n voxels by a Gaussian of each standard deviation (voxels), as SciPy's with `reflect`."""
    radius = (_TRUNCATE * sigma + 0.5).astype(int)
    offsets = np.arange(-radius.max(), radius.max() + 1)
    weights = np.exp(-0.5 * (offsets / sigma[:, None]) ** 2) * (np.abs(offsets) <= radius[:, None])
    weights /= weights.sum(axis=1, keepdims=True)
    filters = np.zeros((len(sigma), n, n))
    target = np.arange(n)
    for offset, weight in zip(offsets, weights.T, strict=True):
        source = (target + offset) % (2 * n)
        filters[:, target, np.minimum(source, 2 * n - 1 - source)] += weight[:, None]
    return filters.astype(np.float32)


def _column(values: NDArray[np.float64], device: torch.device) -> Tensor:
    """`[R, 1, 1, 1, 1]` float32, one number a row."""
    return to_device(torch.from_numpy(values.astype(np.float32)), device).view(-1, 1, 1, 1, 1)


def share(occupancy: Tensor) -> Tensor:
    """Float32 in [0, 1] of a label as it is cut; the very tensor where it is of floats already."""
    return occupancy if occupancy.is_floating_point() else occupancy.to(torch.float32).div_(255)


def _at_least(values: Tensor, threshold: float, out: Tensor) -> None:
    """Where values reach a threshold; on a CPU by numpy, ten times as fast as torch is."""
    if not values.is_floating_point():  # torch would wrap around what the type does not hold
        held = torch.iinfo(values.dtype)
        threshold = min(max(math.ceil(threshold), held.min), held.max)
    if values.device.type == "cpu":
        np.greater_equal(values.numpy(), threshold, out=out.numpy())
    else:
        torch.ge(values, threshold, out=out)


def _above(values: Tensor, threshold: float) -> Tensor:
    return torch.from_numpy(values.numpy() > threshold) if values.device.type == "cpu" else values > threshold


@contextmanager
def _exact_products(device: torch.device) -> Iterator[None]:
    """HU need more digits than a GPU's fast products keep, which trainings may have chosen."""
    chosen = torch.get_float32_matmul_precision()
    if device.type == "cpu" or chosen == "highest":
        yield
        return
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(chosen)
