"""Rotation and scaling of patches about their centre, for a batch at once: what `tio.Affine` does.

Values are interpolated linearly. Where a voxel comes from beyond the outer edge of the outermost voxels, air comes in;
within that edge the outermost voxel stands for its whole width (ITK's rule, which TorchIO follows).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from data_modules.batches.volumes import to_device
from data_modules.scan.geometry import AIR_HU

Floats = NDArray[np.float64]

_SLAB = 2**15
"""Voxels that the CPU interpolates at once: what it holds of them stays in its caches."""


def source_matrices(scales: Floats, degrees: Floats, spacing_mm: tuple[float, float, float]) -> Floats:
    """`[R, 3, 3]` from the place of a voxel relative to the patch's centre to where it comes from, both in voxels.

    The patch is rotated (about y, then x, then z: ITK's order), then scaled, in mm.

    Args:
        scales: `[R, 3]` factors of size.
        degrees: `[R, 3]` about x, y, z.
        spacing_mm: voxel size.
    """
    sine, cosine = np.sin(np.radians(degrees)).T, np.cos(np.radians(degrees)).T
    rotation = np.zeros((3, len(scales), 3, 3))
    for axis in range(3):
        first, second = (axis + 1) % 3, (axis + 2) % 3
        rotation[axis, :, axis, axis] = 1
        rotation[axis, :, first, first] = rotation[axis, :, second, second] = cosine[axis]
        rotation[axis, :, first, second], rotation[axis, :, second, first] = -sine[axis], sine[axis]
    forward = scales[:, :, None] * (rotation[2] @ rotation[0] @ rotation[1])
    spacing = np.asarray(spacing_mm)
    return np.asarray(np.linalg.inv(forward) * spacing / spacing[:, None])


def moved(hu: Tensor, label: Tensor | None, peak_hu: Tensor | None, matrices: Floats) -> tuple[Tensor, ...]:
    """Patches of any device after an affine change; all three by one set of coordinates.

    Args:
        hu: `[R, 1, X, Y, Z]` float32, interpolated linearly.
        label: `[R, 1, X, Y, Z]` float32 in [0, 1] or None, interpolated linearly.
        peak_hu: `[R, 1, X, Y, Z]` or None; each voxel takes the value of the nearest one, since what is the largest of
            something stays one.
        matrices: `[R, 3, 3]`, from `source_matrices`.

    Returns:
        The three that are not None, new tensors.
    """
    if hu.device.type != "cpu":
        return _moved_by_grid(hu, label, peak_hu, matrices)
    outs = [torch.empty_like(hu)]
    outs += [] if label is None else [torch.zeros_like(label)]
    outs += [] if peak_hu is None else [torch.empty_like(peak_hu)]
    for row, matrix in enumerate(matrices):
        out = iter(outs)
        _interpolate(hu[row, 0], matrix, next(out)[row, 0], AIR_HU, _linear)
        if label is not None:
            _interpolate_label(label[row, 0], matrix, next(out)[row, 0])
        if peak_hu is not None:
            _interpolate(peak_hu[row, 0], matrix, next(out)[row, 0], AIR_HU, _nearest)
    return tuple(outs)


def _moved_by_grid(hu: Tensor, label: Tensor | None, peak_hu: Tensor | None, matrices: Floats) -> tuple[Tensor, ...]:
    """As `moved`, by torch's `grid_sample`: one kernel on a GPU, but three times as slow as gathering on a CPU."""
    shape = hu.shape[2:]
    half = torch.tensor([max(n - 1, 1) / 2 for n in shape])
    matrix = to_device(torch.from_numpy(matrices / half.numpy()[:, None]).to(torch.float32), hu.device)
    ramps = [torch.arange(n, device=hu.device, dtype=torch.float32) - (n - 1) / 2 for n in shape]
    x, y, z = (ramp[:, None] * matrix[:, None, :, axis] for axis, ramp in enumerate(ramps))  # [R, n, 3]
    place = x[:, :, None, None] + y[:, None, :, None] + z[:, None, None, :]  # -1 and 1: the outermost centres
    edge = to_device(torch.tensor([n / max(n - 1, 1) for n in shape]), hu.device)
    outside = (place.abs() > edge).any(dim=-1)[:, None]
    grid = place.flip(-1)  # grid_sample counts axes from the last
    smooth = torch.cat([x for x in (hu, label) if x is not None], dim=1)
    smooth = functional.grid_sample(smooth, grid, "bilinear", "border", align_corners=True)
    out = [smooth[:, :1].masked_fill(outside, AIR_HU)]
    if label is not None:
        out.append(smooth[:, 1:].masked_fill(outside, 0))
    if peak_hu is not None:
        nearest = functional.grid_sample(peak_hu.to(torch.float32), grid, "nearest", "border", align_corners=True)
        out.append(nearest.masked_fill_(outside, AIR_HU).to(peak_hu.dtype))
    return tuple(out)


def _interpolate(volume: Tensor, matrix: Floats, out: Tensor, fill: float, values: Any) -> None:
    """Write a moved volume `[X, Y, Z]` of the CPU, by `_linear` or `_nearest`, a few planes at once."""
    shape = volume.shape
    x, y, z = (np.arange(n) - (n - 1) / 2 for n in shape)
    plane = x[:, None, None] * matrix[:, 0] + y[:, None] * matrix[:, 1] + (np.array(shape) - 1) / 2  # [X, Y, 3]
    plane, step = plane.transpose(2, 0, 1), matrix[:, 2]
    start = torch.from_numpy(np.ascontiguousarray(plane, dtype=np.float32))[..., None]
    steps = torch.from_numpy(np.outer(step, z).astype(np.float32))[:, None, None]
    at_once = max(1, _SLAB // (len(y) * len(z)))
    work = torch.empty(3, at_once * len(y) * len(z))
    for a in range(0, len(x), at_once):
        rows = slice(a, a + at_once)
        into = out[rows]
        places = work[:, : into.numel()].view(3, *into.shape)
        torch.add(start[:, rows], steps, out=places)
        values(volume.view(-1), places.flatten(1), shape, into.view(-1))
    first, last = _inside(plane, step, z[0], shape)
    number = np.arange(len(z), dtype=np.float32)
    np.putmask(out.numpy(), (number < first[..., None]) | (number > last[..., None]), fill)


def _interpolate_label(label: Tensor, matrix: Floats, out: Tensor) -> None:
    """As `_interpolate`, but only where something may be labelled: interpolation takes long, and lesions are small.

    Args:
        label: `[X, Y, Z]` of the CPU.
        matrix: `[3, 3]`.
        out: of zeros.
    """
    shape = np.array(label.shape)
    centre = (shape - 1) / 2
    voxels = np.stack(np.unravel_index(np.flatnonzero(label.numpy() > 0), label.shape), axis=-1)
    forward = np.linalg.inv(matrix)
    spread = np.abs(forward).sum(axis=1)  # a voxel is mixed into those that come from less than one voxel beside it
    first = np.ceil((voxels - centre) @ forward.T + centre - spread).astype(int)
    size = (2 * spread).astype(int) + 1
    first = first[((first > -size) & (first < shape)).all(axis=1)]
    reached = np.zeros(shape + 2 * size, dtype=bool)  # with a margin, so that no part of a reach is outside
    around = np.ravel_multi_index(np.indices(size).reshape(3, -1), reached.shape)
    reached.ravel()[np.ravel_multi_index(tuple((first + size).T), reached.shape)[:, None] + around] = True
    x, y, z = (slice(margin, margin + n) for margin, n in zip(size.tolist(), label.shape, strict=True))
    index = np.flatnonzero(reached[x, y, z])
    places = (np.stack(np.unravel_index(index, label.shape), axis=-1) - centre) @ matrix.T + centre
    inside = ((places >= -0.5) & (places <= shape - 0.5)).all(axis=1)
    values = torch.empty(int(inside.sum()))
    _linear(label.view(-1), torch.from_numpy(places[inside].T.astype(np.float32, order="C")), label.shape, values)
    out.view(-1)[torch.from_numpy(index[inside])] = values


def _inside(plane: Floats, step: Floats, z: float, shape: torch.Size) -> tuple[NDArray[np.float32], ...]:
    """`[x, y]` first and last voxel along z that come from within the volume.

    Places along a line of voxels are linear, so those within lie together.

    Args:
        plane: `[3, x, y]`, place at the middle of z.
        step: `[3]`, from one voxel to the next along z.
        z: first voxel of the line, from the middle.
        shape: of the volume.
    """
    first, last = np.full(plane.shape[1:], -np.inf), np.full(plane.shape[1:], np.inf)
    for place, along, n in zip(plane, step.tolist(), shape, strict=True):
        if along == 0:
            first[(place < -0.5) | (place > n - 0.5)] = np.inf
            continue
        ends = (-0.5 - place) / along, (n - 0.5 - place) / along
        first = np.maximum(first, ends[along < 0])
        last = np.minimum(last, ends[along > 0])
    return (first - z).astype(np.float32), (last - z).astype(np.float32)


def _nearest(flat: Tensor, places: Tensor, shape: torch.Size, out: Tensor) -> None:
    """Values `[n]` of a flattened volume at `[3, n]` places, which are overwritten."""
    for place, n in zip(places, shape, strict=True):
        place.clamp_(0, n - 1).round_()
    torch.index_select(flat, 0, _position(places, shape), out=out)


def _linear(flat: Tensor, places: Tensor, shape: torch.Size, out: Tensor) -> None:
    """As `_nearest`, from the eight voxels around each place. Memory is taken once: that is a third of the time."""
    shares, (low, high) = torch.empty_like(places), torch.empty_like(places[:2])
    for place, share, n in zip(places, shares, shape, strict=True):
        # The last voxel's centre counts as just before it, so that it has one on either side too.
        torch.frac(place.clamp_(0, float(np.nextafter(np.float32(max(n - 1, 1)), np.float32(0)))), out=share)
        place.sub_(share)
    index = _position(places, shape)
    next_x, next_y, next_z = (math.prod(shape[axis + 1 :]) * (shape[axis] > 1) for axis in range(3))

    def along_z(offset: int, into: Tensor) -> Tensor:
        torch.index_select(flat[offset:], 0, index, out=into)
        torch.index_select(flat[offset + next_z :], 0, index, out=high)
        return torch.lerp(into, high, shares[2], out=into)

    def along_y(offset: int, into: Tensor, other: Tensor) -> Tensor:
        return torch.lerp(along_z(offset, into), along_z(offset + next_y, other), shares[1], out=into)

    torch.lerp(along_y(0, out, low), along_y(next_x, low, places[0]), shares[0], out=out)


def _position(corner: Tensor, shape: torch.Size) -> Tensor:
    """`[n]` int64, of voxels in the flattened volume, from whole numbers `[3, n]`, the first of which are lost."""
    x, y, z = corner if math.prod(shape) < 2**24 else corner.double()  # float32 counts no farther
    torch.add(y, x, alpha=shape[1], out=x)
    return torch.add(z, x, alpha=shape[2], out=x).to(torch.int64)
