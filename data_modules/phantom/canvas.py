"""A patient's own space: from world to anatomical coordinates, and solids painted there in cells of 0.5 mm or more.

Anatomical coordinates have their origin in the sella turcica, x to the right, y forward, z up (RAS mm). A patient's
own scale, rotation, shift and a smooth warp lead from world to anatomical coordinates, so every patient differs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from data_modules.scan.geometry import Grid

FINE_MM = 0.5
"""Voxel size of the anatomy, before imaging."""

Box = tuple[slice, slice, slice]
Floats = NDArray[np.float32]
Point = tuple[float, float, float]


@dataclass(frozen=True, eq=False)
class Frame:
    """From world to a patient's anatomical coordinates: q = matrix (p − shift) + warp(p)."""

    matrix: NDArray[np.float64]
    shift: NDArray[np.float64]
    amplitude: NDArray[np.float64]
    wavelength: NDArray[np.float64]
    phase: NDArray[np.float64]

    def on_axes(self, axes: list[NDArray[np.float64]]) -> list[Floats]:
        """Anatomical coordinates over the box spanned by three world axes: three arrays `[X, Y, Z]`."""
        out = []
        for i in range(3):
            parts = []
            for j, axis in enumerate(axes):
                wave = self.amplitude[i, j] * np.sin(2 * np.pi * axis / self.wavelength[i, j] + self.phase[i, j])
                parts.append((self.matrix[i, j] * (axis - self.shift[j]) + wave).astype(np.float32))
            plane = parts[1][:, None] + parts[2][None, :]
            out.append(parts[0][:, None, None] + plane[None])
        return out

    def to_world(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """World positions `[N, 3]` of anatomical points, by fixed-point iteration (the warp is a contraction)."""
        inverse = np.linalg.inv(self.matrix)
        world = points.copy()
        for _ in range(8):
            waves = np.sin(2 * np.pi * world[:, None, :] / self.wavelength + self.phase)
            world = self.shift + (points - (self.amplitude * waves).sum(-1)) @ inverse.T
        return world


def random_frame(rng: np.random.Generator) -> Frame:
    """A patient's own scale (±10 %), rotation (±6° an axis), shift (±2 mm) and smooth warp."""
    angles = np.deg2rad(rng.uniform(-6, 6, 3))
    matrix = np.eye(3)
    for axis, angle in enumerate(angles):
        a, b = [k for k in range(3) if k != axis]
        turn = np.eye(3)
        turn[[a, a, b, b], [a, b, a, b]] = np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)
        matrix = turn @ matrix
    scale = rng.uniform(0.94, 1.07) * rng.uniform(0.97, 1.03, 3)
    return Frame(
        matrix / scale,
        rng.uniform(-2.0, 2.0, 3),
        rng.uniform(0.1, 0.6, (3, 3)) * (1 - np.eye(3)),
        rng.uniform(25, 60, (3, 3)),
        rng.uniform(0, 2 * np.pi, (3, 3)),
    )


def linear_operator(n_out: int, n_in: int) -> sparse.csr_array:
    """`[n_out, n_in]` float32: linear interpolation of `n_in` knots onto `n_out` samples, ends aligned."""
    return linear_operator_at(np.linspace(0, n_in - 1, n_out), n_in)


def linear_operator_at(position: NDArray[np.float64], n_in: int) -> sparse.csr_array:
    """`[len(position), n_in]` float32: linear interpolation of `n_in` knots at places within 0 to `n_in` - 1."""
    low = np.minimum(position.astype(int), n_in - 2)
    weight = (position - low).astype(np.float32)
    rows = np.arange(len(position))
    places = (np.concatenate([rows, rows]), np.concatenate([low, low + 1]))
    return sparse.coo_array((np.concatenate([1 - weight, weight]), places), shape=(len(position), n_in)).tocsr()


def apply_along(operator: sparse.csr_array, array: Floats, axis: int) -> Floats:
    """Multiply one axis of `array` by a sparse matrix.

    Sparse products run on one thread in a fixed order, so results do not depend on how many cores BLAS is given.
    """
    front = np.ascontiguousarray(np.moveaxis(array, axis, 0))
    out = operator @ front.reshape(front.shape[0], -1)
    return np.moveaxis(out.reshape(operator.shape[0], *front.shape[1:]), 0, axis)


class Canvas:
    """A grid of one patient with its anatomical coordinates.

    Args:
        frame: the patient's own.
        half_mm: half the extent of the grid along x, y, z.
        cell_mm: voxel size.
        center_mm: middle of the grid, RAS mm.
    """

    def __init__(
        self, frame: Frame, half_mm: Point, cell_mm: float = FINE_MM, center_mm: Point = (0.0, 0.0, 0.0)
    ) -> None:
        shape = [int(np.ceil(2 * h / cell_mm)) for h in half_mm]
        affine = np.diag([cell_mm, cell_mm, cell_mm, 1.0])
        affine[:3, 3] = [c - (n - 1) / 2 * cell_mm for c, n in zip(center_mm, shape, strict=True)]
        self.grid = Grid((shape[0], shape[1], shape[2]), affine)
        self.frame = frame
        self.cell_mm = cell_mm
        self.q = frame.on_axes([affine[k, 3] + cell_mm * np.arange(shape[k]) for k in range(3)])

    def box(self, low: Any, high: Any, margin_mm: float = 2.5) -> Box:
        """Index box that holds an anatomical box, with room for the warp."""
        corners = np.array(np.meshgrid(*zip(low, high, strict=True), indexing="ij")).reshape(3, -1).T
        index = self.grid.to_index(self.frame.to_world(corners.astype(np.float64)))
        margin = margin_mm / self.cell_mm
        starts = np.clip(np.floor(index.min(0) - margin), 0, self.grid.shape).astype(int)
        stops = np.clip(np.ceil(index.max(0) + margin) + 1, 0, self.grid.shape).astype(int)
        a, b, c = (slice(int(i), int(j)) for i, j in zip(starts, stops, strict=True))
        return a, b, c

    def at(self, box: Box) -> list[Floats]:
        """Anatomical x, y and z of the voxels of a box: three arrays `[X, Y, Z]`, views."""
        return [axis[box] for axis in self.q]

    def texture(self, rng: np.random.Generator, knot_mm: float) -> Floats:
        """Smooth random field of about unit variance."""
        knots = [max(3, round(n * self.cell_mm / knot_mm)) for n in self.grid.shape]
        field = 1.6 * rng.standard_normal(knots, dtype=np.float32)
        for axis in (2, 1, 0):
            field = apply_along(linear_operator(self.grid.shape[axis], knots[axis]), field, axis)
        return field


@dataclass(frozen=True)
class Shape:
    """A solid: an ellipsoid (`end` absent) or a tapered capsule, with coordinates stretched by `stretch`."""

    start: Point
    radius: Any
    end: Point | None = None
    end_radius: float = 0.0
    stretch: Point = (1.0, 1.0, 1.0)

    def bounds(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Lowest and highest corner `[3]` of an anatomical box that holds the solid."""
        if self.end is None:
            reach = np.asarray(self.radius, dtype=np.float64) * np.ones(3)
            return np.asarray(self.start) - reach, np.asarray(self.start) + reach
        reach = max(self.radius, self.end_radius) * np.asarray(self.stretch)
        return np.minimum(self.start, self.end) - reach, np.maximum(self.start, self.end) + reach

    def distance(self, q: list[Floats]) -> Floats:
        """Signed distance, negative inside; a close estimate near the surface."""
        if self.end is None:
            radii = [np.float32(r) for r in np.asarray(self.radius, dtype=np.float64) * np.ones(3)]
            d = [(q[k] - np.float32(self.start[k])) / radii[k] for k in range(3)]
            k0 = np.sqrt(d[0] * d[0] + d[1] * d[1] + d[2] * d[2])
            k1 = np.sqrt(sum((d[k] / radii[k]) ** 2 for k in range(3)))
            return k0 * (k0 - 1) / np.maximum(k1, np.float32(1e-6))
        v = [(q[k] - np.float32(self.start[k])) / np.float32(self.stretch[k]) for k in range(3)]
        axis = [np.float32((self.end[k] - self.start[k]) / self.stretch[k]) for k in range(3)]
        length2 = sum(a * a for a in axis)
        t = np.clip((v[0] * axis[0] + v[1] * axis[1] + v[2] * axis[2]) / np.float32(length2), 0, 1)
        square = sum((v[k] - t * axis[k]) ** 2 for k in range(3))
        return np.sqrt(square) - (np.float32(self.radius) + t * np.float32(self.end_radius - self.radius))


def occupancy(distance: Floats, cell_mm: float = FINE_MM) -> Floats:
    """Share of a voxel inside a surface at signed distance `distance` (exact for a plane along the grid)."""
    return np.clip(np.float32(0.5) - distance / np.float32(cell_mm), 0, 1)


def paint(canvas: Canvas, hu: Floats, shape: Shape, value: float) -> None:
    """Mix `value` into `hu` `[X, Y, Z]` where the solid lies, by its share of each voxel."""
    box = canvas.box(*shape.bounds())
    view = hu[box]
    if view.size:
        view += occupancy(shape.distance(canvas.at(box)), canvas.cell_mm) * (np.float32(value) - view)


def unite(canvas: Canvas, field: Floats, shape: Shape) -> None:
    """Add a solid to a field of signed distances `[X, Y, Z]`."""
    box = canvas.box(*shape.bounds(), margin_mm=4.0)
    if field[box].size:
        np.minimum(field[box], shape.distance(canvas.at(box)), out=field[box])


def jittered(rng: np.random.Generator, point: Point, amount: float) -> Point:
    """A point moved by up to `amount` mm along each axis."""
    x, y, z = (float(c + rng.uniform(-amount, amount)) for c in point)
    return x, y, z


def mirrored(side: int, point: Point) -> Point:
    """A point given for the right, on the side: 1 right, -1 left."""
    return side * point[0], point[1], point[2]
