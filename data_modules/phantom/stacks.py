"""Stacks of parallel slices as scanners deliver them, and their images: sheared, of two thicknesses, reformatted.

As `imaging` images one regular series of the skull base finely, this images any stack of slices of whole heads: a
slice averages over a slab (box profile of the thickness) along its normal and over the point spread in its plane. The
profile and the point spread across rows are sums over points with linear interpolation between cells, which any tilt
allows; along rows, which no tilt turns, the point spread is exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from data_modules.phantom.canvas import Floats
from data_modules.phantom.imaging import Acquisition, Kernel, blur_operator, image_noise
from data_modules.scan.geometry import Grid

_FWHM_PER_SIGMA = 2 * np.sqrt(2 * np.log(2))


@dataclass(frozen=True, eq=False)
class Field:
    """Something to be imaged: `data` `[Y · Z, X]` float32 HU (0 outside) of the cells of a grid along the axes."""

    data: Floats
    grid: Grid

    @classmethod
    def of(cls, hu: Floats, grid: Grid) -> Field:
        """A field from `[X, Y, Z]`."""
        return cls(np.ascontiguousarray(hu.transpose(1, 2, 0)).reshape(-1, hu.shape[0]), grid)


@dataclass(frozen=True, eq=False, kw_only=True)
class Stack:
    """Where the slices of a series lie and how they are made.

    Attributes:
        centers_mm: `[N, 3]`, middle of each slice, RAS mm relative to the patient's origin.
        thicknesses_mm: `[N]`.
        turn_deg: of the planes about the x axis: 0 axial, the gantry's tilt, 90 coronal.
        matrix: rows and columns.
        pixel_mm: spacing of both.
        kernel: of the reconstruction.
        dose_noise: factor of the noise.
    """

    centers_mm: NDArray[np.float64]
    thicknesses_mm: NDArray[np.float64]
    turn_deg: float
    matrix: int
    pixel_mm: float
    kernel: Kernel
    dose_noise: float = 1.0

    @property
    def directions(self) -> NDArray[np.float64]:
        """`[3, 3]`, RAS: along a row (to the patient's left), along a column, across the slices."""
        a = np.deg2rad(self.turn_deg)
        return np.array([[-1, 0, 0], [0, -np.cos(a), -np.sin(a)], [0, -np.sin(a), np.cos(a)]])

    @property
    def corners_mm(self) -> NDArray[np.float64]:
        """`[N, 3]`, middle of each slice's first pixel, RAS mm."""
        x, y, _ = self.directions
        return self.centers_mm - (self.matrix - 1) / 2 * self.pixel_mm * (x + y)


def image_stack(fields: Sequence[Field], stack: Stack) -> Floats:
    """The sum of some fields as a stack shows it, without noise: `[N, rows, columns]` float32."""
    shape = (len(stack.centers_mm), stack.matrix, stack.matrix)
    image = np.zeros(shape, dtype=np.float32)
    kernel = stack.kernel
    width = max(kernel.fwhm_mm, 0.9 * stack.pixel_mm)  # what a coarse matrix shows was smoothed for it
    passes = [(1 + kernel.edge, width)] + ([(-kernel.edge, 2 * width)] if kernel.edge else [])
    first = -(stack.matrix - 1) / 2 * stack.pixel_mm + stack.centers_mm[0, 0]
    for field in fields:
        cell, start, n_in = field.grid.spacing_mm[0], field.grid.affine[0, 3], field.grid.shape[0]
        for weight, fwhm in passes:
            along = blur_operator(stack.matrix, first, stack.pixel_mm, n_in, start, fwhm, cell)
            rows, across = _across(stack, field.grid, fwhm)
            lines = np.float32(weight) * (along @ (across @ field.data).T).T
            image.reshape(-1, stack.matrix)[rows] += lines[:, ::-1]
    return image


def stack_noise(stack: Stack, rng: np.random.Generator) -> Floats:
    """Noise of a stack, HU, `[N, rows, columns]` float32; slices of a run share what they overlap."""
    n = len(stack.thicknesses_mm)
    starts = [0, *(1 + np.flatnonzero(np.diff(stack.thicknesses_mm))).tolist(), n]
    across = np.abs(stack.centers_mm @ stack.directions[2])
    noise = []
    for first, last in pairwise(starts):
        thickness = float(stack.thicknesses_mm[first])
        step = float(np.abs(np.diff(across[first:last])).mean()) if last - first > 1 else thickness
        spacing = (stack.pixel_mm, stack.pixel_mm, step)
        run = Acquisition(
            grid=Grid((stack.matrix, stack.matrix, last - first), np.diag([*spacing, 1.0])),
            slice_thickness_mm=thickness,
            kernel=stack.kernel,
            dose_noise=stack.dose_noise,
        )
        noise.append(image_noise(run, rng).transpose(2, 1, 0))
    return np.concatenate(noise)


def _across(stack: Stack, grid: Grid, fwhm_mm: float) -> tuple[NDArray[np.intp], sparse.csr_array]:
    """Which lines of pixels (slices × rows) see a field, and what they see of its `[Y · Z]`: `[lines, Y · Z]`."""
    _, column, normal = stack.directions[:, 1:]
    cell = grid.spacing_mm[0]
    rows_mm = (np.arange(stack.matrix) - (stack.matrix - 1) / 2) * stack.pixel_mm
    middle = (stack.centers_mm[:, None, 1:] + rows_mm[None, :, None] * column).reshape(-1, 2)
    thickness = np.repeat(stack.thicknesses_mm, stack.matrix)
    reach = thickness[:, None] / 2 + 1.1 * fwhm_mm + cell
    low = grid.affine[1:3, 3]
    high = low + cell * (np.asarray(grid.shape[1:]) - 1)
    lines = np.flatnonzero(((middle > low - reach) & (middle < high + reach)).all(axis=1))
    middle, thickness = middle[lines], thickness[lines]

    n_slab = max(2, int(np.ceil(stack.thicknesses_mm.max() / cell)))
    slab = (np.arange(n_slab) + 0.5) / n_slab - 0.5
    n_spread = 2 * int(np.ceil(1.1 * fwhm_mm / cell)) + 1
    spread = np.linspace(-1.1 * fwhm_mm, 1.1 * fwhm_mm, n_spread)  # 2.6 σ
    gauss = np.exp(-0.5 * (spread * _FWHM_PER_SIGMA / fwhm_mm) ** 2)
    points = (
        middle[:, None, None]
        + (thickness[:, None] * slab)[:, :, None, None] * normal
        + spread[None, None, :, None] * column
    )
    share = np.broadcast_to(gauss / (gauss.sum() * n_slab), points.shape[:-1])
    return lines, _linear(points, share, grid)


def _linear(points: NDArray[np.float64], share: NDArray[np.float64], grid: Grid) -> sparse.csr_array:
    """`[lines, Y · Z]` float32: weighted linear interpolation at `points` `[lines, slab, spread, 2]` (y and z)."""
    _, ny, nz = grid.shape
    place = (points - grid.affine[1:3, 3]) / grid.spacing_mm[0]
    cell = np.floor(place).astype(np.int64)
    fraction = place - cell
    line = np.broadcast_to(np.arange(len(points))[:, None, None], share.shape)
    lines, cells, weights = [], [], []
    for dy in (0, 1):
        for dz in (0, 1):
            i, j = cell[..., 0] + dy, cell[..., 1] + dz
            weight = share * np.where(dy, fraction[..., 0], 1 - fraction[..., 0])
            weight *= np.where(dz, fraction[..., 1], 1 - fraction[..., 1])
            inside = (i >= 0) & (i < ny) & (j >= 0) & (j < nz)
            lines.append(line[inside])
            cells.append((i * nz + j)[inside])
            weights.append(weight[inside].astype(np.float32))
    entries = (np.concatenate(weights), (np.concatenate(lines), np.concatenate(cells)))
    return sparse.coo_array(entries, shape=(len(points), ny * nz)).tocsr()
