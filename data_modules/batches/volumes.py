"""The training volumes and the patches that are cut out of them, a batch at a time.

`HostVolumes` copies boxes out of arrays or memory maps; `DeviceVolumes` holds all volumes in flat tensors and gathers
a whole batch by index arithmetic, without a word between device and host. Both give the same patches.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data_modules.batches.plan import PatchPlan
from data_modules.batches.residency import DEVICE, HOST
from data_modules.prepare.store import PreparedSeries
from data_modules.scan.geometry import AIR_HU

Corner = tuple[int, int, int]

_OPEN_SERIES = 128  # memory maps a process keeps open; each holds a file descriptor
_GATHERED = 2**26  # voxels of which a gather holds indices at once: a quarter of a gigabyte


@dataclass(frozen=True, eq=False)
class Patches:
    """What is cut for a batch; outside a volume lie air and no label.

    Attributes:
        hu: `[B, 1, X, Y, Z]` int16; float32 where a batch is made of it on the host.
        occupancy: `[B, 1, X, Y, Z]` uint8 (255 = full), or float32 in [0, 1]; None: no labels.
        peak_hu: `[B, 1, X, Y, Z]` like `hu`, the brightest native voxel of each; None: not asked for.
        labelled: `[n]` int64, the voxels of the flattened batch with occupancy; None: not told.
    """

    hu: Tensor
    occupancy: Tensor | None = None
    peak_hu: Tensor | None = None
    labelled: Tensor | None = None

    def map(self, function: Callable[[Tensor], Tensor]) -> Patches:
        """The same with a function applied to each tensor."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        changed: dict[str, Any] = {name: None if value is None else function(value) for name, value in values.items()}
        return Patches(**changed)


def volume_bytes(series: Sequence[PreparedSeries], *, labels: bool, peak: bool) -> dict[str, int]:
    """Memory that the volumes take, by place (`residency`)."""
    voxels = sum(math.prod(s.grid.shape) for s in series)
    labelled = sum(len(s.components) for s in series) if labels else 0
    hu = np.dtype(np.int16).itemsize * (2 if peak else 1)
    return {DEVICE: voxels * (hu + labels), HOST: voxels * hu + labelled * _Sparse.BYTES}


class _Sparse:
    """The labelled voxels of a series, few of all, by x.

    Attributes:
        occupancy: `[n]` uint8, 255 = full.
    """

    BYTES = 3 * 8 + 1
    """A voxel."""

    def __init__(self, series: PreparedSeries) -> None:
        voxels = series.components[:, 1:]
        voxels = voxels[np.argsort(voxels[:, 0], kind="stable")]
        self._x, self._y, self._z = np.ascontiguousarray(voxels.T, dtype=np.int64)
        occupancy = series.occupancy()
        assert occupancy is not None, "series without a label are refused before training"
        self.occupancy = np.asarray(occupancy[tuple(voxels.T)])

    def inside(
        self, corner: Corner, crop: tuple[int, int, int], flip: bool
    ) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
        """Positions in a flattened patch that are labelled, and their occupancy."""
        low, high = self._x.searchsorted((corner[0], corner[0] + crop[0]))
        x, y, z = (axis[low:high] - c for axis, c in zip((self._x, self._y, self._z), corner, strict=True))
        within = (y >= 0) & (y < crop[1]) & (z >= 0) & (z < crop[2])
        x = crop[0] - 1 - x if flip else x
        return ((x * crop[1] + y) * crop[2] + z)[within], self.occupancy[low:high][within]


class HostVolumes:
    """Volumes in memory, or memory maps of them, from which patches are copied one after another.

    Args:
        series: what patches are cut from.
        labels: whether patches hold occupancy; otherwise no label is opened.
        peak: whether they hold the peak HU.
        in_memory: read all now; otherwise each patch is read from the memory maps.
    """

    def __init__(self, series: Sequence[PreparedSeries], *, labels: bool, peak: bool, in_memory: bool) -> None:
        self.series = tuple(series)
        self.peak = peak
        self._sparse = [_Sparse(s) for s in self.series] if labels else None
        self._hu = [np.array(s.hu()) for s in self.series] if in_memory else None
        self._peak = [np.array(s.peak_hu()) for s in self.series] if in_memory and peak else None

    def cut(self, plan: PatchPlan, crop: tuple[int, int, int], *, small: bool = False) -> Patches:
        """The patches of a batch, mirrored where the plan says so.

        Args:
            plan: series, corners and mirroring.
            crop: patch shape.
            small: HU as int16 and occupancy as uint8, to be sent elsewhere; otherwise both as float32, to be changed in
                place.
        """
        shape = (len(plan), 1, *crop)
        hu = torch.empty(shape, dtype=torch.int16 if small else torch.float32)
        peak = torch.empty(shape, dtype=torch.int16) if self.peak else None
        for k, (index, corner, flip) in enumerate(_places(plan)):
            _copy(self._volume(index), corner, hu[k, 0].numpy(), flip)
            if peak is not None:
                _copy(self._peak_volume(index), corner, peak[k, 0].numpy(), flip)
        if self._sparse is None:
            return Patches(hu, peak_hu=peak)
        found = [self._sparse[index].inside(corner, crop, flip) for index, corner, flip in _places(plan)]
        labelled = np.concatenate([where + k * math.prod(crop) for k, (where, _) in enumerate(found)])
        share = np.concatenate([of_voxels for _, of_voxels in found])
        label = torch.zeros(shape, dtype=torch.uint8 if small else torch.float32)
        label.view(-1).numpy()[labelled] = share if small else share / np.float32(255)
        return Patches(hu, label, peak, None if small else torch.from_numpy(labelled))

    def _volume(self, index: int) -> NDArray[np.int16]:
        return _mapped_hu(self.series[index]) if self._hu is None else self._hu[index]

    def _peak_volume(self, index: int) -> NDArray[np.int16]:
        return _mapped_peak(self.series[index]) if self._peak is None else self._peak[index]


class DeviceVolumes:
    """Volumes in flat tensors of one device.

    Args:
        series: what patches are cut from.
        labels: whether patches hold occupancy; otherwise no label is opened.
        peak: whether they hold the peak HU.
        device: where the volumes lie and batches are made.
    """

    def __init__(self, series: Sequence[PreparedSeries], *, labels: bool, peak: bool, device: torch.device) -> None:
        self.device = device
        self._shapes = np.array([s.grid.shape for s in series], dtype=np.int64)
        sizes = self._shapes.prod(axis=1)
        self._starts = np.cumsum(sizes) - sizes
        self._index = torch.int32 if sizes.sum() < 2**31 else torch.int64
        self._hu = self._flat([s.hu for s in series], torch.int16)
        self._occupancy = self._flat([s.occupancy for s in series], torch.uint8) if labels else None
        self._peak = self._flat([s.peak_hu for s in series], torch.int16) if peak else None

    def _flat(self, arrays: Sequence[Callable[[], NDArray[Any] | None]], dtype: torch.dtype) -> Tensor:
        ends = self._starts + self._shapes.prod(axis=1)
        flat = torch.empty(int(ends[-1]), dtype=dtype, device=self.device)
        for read, start, end in zip(arrays, self._starts.tolist(), ends.tolist(), strict=True):
            array = read()
            assert array is not None, "series without a label are refused before training"
            flat[start:end] = torch.from_numpy(np.array(array).ravel())  # of a memory map: read once
        return flat

    def cut(self, plan: PatchPlan, crop: tuple[int, int, int]) -> Patches:
        """The patches of a batch, mirrored where the plan says so; occupancy as uint8.

        Args:
            plan: series, corners and mirroring.
            crop: patch shape.
        """
        at_once = max(1, _GATHERED // math.prod(crop))
        parts = [self._gather(plan.rows(slice(k, k + at_once)), crop) for k in range(0, len(plan), at_once)]
        return parts[0] if len(parts) == 1 else _joined(parts)

    def _gather(self, plan: PatchPlan, crop: tuple[int, int, int]) -> Patches:
        index, inside = self._where(plan, crop)

        def gathered(flat: Tensor | None, fill: int) -> Tensor | None:
            if flat is None:
                return None
            patches = flat.index_select(0, index.view(-1)).view(len(plan), 1, *crop)
            return patches if inside is None else patches.masked_fill_(~inside, fill)

        hu = gathered(self._hu, AIR_HU)
        assert hu is not None
        return Patches(hu, gathered(self._occupancy, 0), gathered(self._peak, AIR_HU))

    def _where(self, plan: PatchPlan, crop: tuple[int, int, int]) -> tuple[Tensor, Tensor | None]:
        """`[B, 1, X, Y, Z]`: place of each voxel in the flat tensors, and whether it lies inside (None: all do).

        Outside, the place is that of the volume's nearest voxel.
        """
        shape = self._shapes[plan.series]
        reaches_out = bool(
            ((plan.corner < 0) | (plan.corner + crop > shape)).any()
        )  # the host knows: no mask where not
        facts = np.column_stack([self._starts[plan.series], shape, plan.corner, plan.flip])
        start, *told, flip = to_device(torch.from_numpy(facts), self.device)[..., None].unbind(1)
        size, corner = told[:3], told[3:]
        index, inside = start.view(-1, 1, 1, 1, 1), None
        strides: tuple[Any, ...] = (size[1] * size[2], size[2], 1)
        for axis, stride in enumerate(strides):
            along = torch.arange(crop[axis], device=self.device)
            if axis == 0:  # mirrored left and right
                along = torch.where(flip > 0, crop[0] - 1 - along, along)
            along = along + corner[axis]
            side = [-1, 1, 1, 1, 1]
            side[2 + axis] = crop[axis]
            if reaches_out:
                within = ((along >= 0) & (along < size[axis])).view(side)
                inside = within if inside is None else inside & within
                along = torch.minimum(along.clamp_(min=0), size[axis] - 1)
            index = index.to(self._index) + (along * stride).to(self._index).view(side)
        return index, inside


def cut(array: NDArray[Any], corner: Corner, out: NDArray[Any], fill: float) -> None:
    """Copy a patch out of a volume, reading (from a memory map: from disk) nothing but the patch.

    Args:
        array: `[X, Y, Z]`.
        corner: voxel of `array` that becomes voxel (0, 0, 0) of the patch; may lie outside.
        out: the patch to write, of the patch's shape and of any type that holds the values.
        fill: value outside the volume.
    """
    low = [max(c, 0) for c in corner]
    high = [max(a, min(c + n, size)) for a, c, n, size in zip(low, corner, out.shape, array.shape, strict=True)]
    inside = [slice(a - c, b - c) for a, b, c in zip(low, high, corner, strict=True)]
    for axis, side in enumerate(inside):
        before = (slice(None),) * axis
        out[(*before, slice(None, side.start))] = fill
        out[(*before, slice(side.stop, None))] = fill
    np.copyto(out[tuple(inside)], array[tuple(slice(a, b) for a, b in zip(low, high, strict=True))], casting="unsafe")


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """A copy on a device that the host does not wait for (on a GPU: through page-locked memory)."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def _joined(parts: Sequence[Patches]) -> Patches:
    columns = {name: [getattr(part, name) for part in parts] for name in ("hu", "occupancy", "peak_hu")}
    whole: dict[str, Any] = {name: None if column[0] is None else torch.cat(column) for name, column in columns.items()}
    return Patches(**whole)


def _places(plan: PatchPlan) -> Iterator[tuple[int, Corner, bool]]:
    """Series, corner and mirroring of each sample."""
    corners = (tuple(corner) for corner in plan.corner.tolist())
    return zip(plan.series.tolist(), corners, plan.flip.tolist(), strict=True)


def _copy(array: NDArray[np.int16], corner: Corner, out: NDArray[Any], flip: bool) -> None:
    cut(array, corner, out[::-1] if flip else out, AIR_HU)


@lru_cache(maxsize=_OPEN_SERIES)
def _mapped_hu(prepared: PreparedSeries) -> NDArray[np.int16]:
    return prepared.hu()


@lru_cache(maxsize=_OPEN_SERIES)
def _mapped_peak(prepared: PreparedSeries) -> NDArray[np.int16]:
    return prepared.peak_hu()
