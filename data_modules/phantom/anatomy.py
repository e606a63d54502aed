"""A skull base in millimetres: bone, air, cisterns, arteries, plaques and look-alikes, painted at 0.5 mm.

Anatomical coordinates have their origin in the sella turcica, x to the right, y forward, z up (RAS mm). A patient's
own scale, rotation, shift and a smooth warp lead from world to anatomical coordinates, so every patient differs.
The measures follow textbook anatomy of the parasellar region coarsely: enough for the task (calcium in the wall of
a carotid siphon that touches bone of the same brightness), not enough for surgery.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.interpolate import CubicSpline
from scipy.spatial import cKDTree

from data_modules.scan.geometry import Grid

FINE_MM = 0.5
"""Voxel size of the anatomy, before imaging."""

Box = tuple[slice, slice, slice]
Floats = NDArray[np.float32]
Point = tuple[float, float, float]

_FAT_HU, _MUSCLE_HU, _CSF_HU, _AIR_HU = -95.0, 52.0, 5.0, -1000.0


@dataclass(frozen=True, eq=False, kw_only=True)
class Vessel:
    """An artery as a tube.

    Attributes:
        name: such as ``"siphon_right"``.
        center_mm: `[N, 3]`, centreline every 0.25 mm, RAS mm.
        radius_mm: `[N]`, outer radius at each point.
        plaque_range: indices of the centreline between which plaques may lie.
    """

    name: str
    center_mm: NDArray[np.float64]
    radius_mm: NDArray[np.float64]
    plaque_range: tuple[int, int]


@dataclass(frozen=True, eq=False, kw_only=True)
class Plaque:
    """One painted plaque: its kind (``"intimal"`` or ``"medial"``), vessel, brightness and volume."""

    kind: str
    vessel: str
    hu: float
    volume_mm3: float


@dataclass(frozen=True, eq=False, kw_only=True)
class Anatomy:
    """One patient before imaging.

    Attributes:
        grid: fine grid, `FINE_MM` isotropic.
        hu: `[X, Y, Z]` float32.
        plaque: `[X, Y, Z]` float32, share of each voxel that is arterial plaque.
        plaque_signal: `[X, Y, Z]` float32, HU that plaque adds to blood.
        other_signal: `[X, Y, Z]` float32, HU that bone and calcium outside arteries add to soft tissue.
        vessels: arteries.
        plaques: plaques.
        true_volume_mm3: volume of all plaque.
    """

    grid: Grid
    hu: Floats
    plaque: Floats
    plaque_signal: Floats
    other_signal: Floats
    vessels: tuple[Vessel, ...]
    plaques: tuple[Plaque, ...]
    true_volume_mm3: float


@dataclass(frozen=True, eq=False)
class _Frame:
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


def _random_frame(rng: np.random.Generator) -> _Frame:
    angles = np.deg2rad(rng.uniform(-6, 6, 3))
    matrix = np.eye(3)
    for axis, angle in enumerate(angles):
        a, b = [k for k in range(3) if k != axis]
        turn = np.eye(3)
        turn[[a, a, b, b], [a, b, a, b]] = np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)
        matrix = turn @ matrix
    scale = rng.uniform(0.94, 1.07) * rng.uniform(0.97, 1.03, 3)
    return _Frame(
        matrix / scale,
        rng.uniform(-2.0, 2.0, 3),
        rng.uniform(0.1, 0.6, (3, 3)) * (1 - np.eye(3)),
        rng.uniform(25, 60, (3, 3)),
        rng.uniform(0, 2 * np.pi, (3, 3)),
    )


def linear_operator(n_out: int, n_in: int) -> sparse.csr_array:
    """`[n_out, n_in]` float32: linear interpolation of `n_in` knots onto `n_out` samples, ends aligned."""
    position = np.linspace(0, n_in - 1, n_out)
    low = np.minimum(position.astype(int), n_in - 2)
    weight = (position - low).astype(np.float32)
    rows = np.arange(n_out)
    places = (np.concatenate([rows, rows]), np.concatenate([low, low + 1]))
    return sparse.coo_array((np.concatenate([1 - weight, weight]), places), shape=(n_out, n_in)).tocsr()


def apply_along(operator: sparse.csr_array, array: Floats, axis: int) -> Floats:
    """Multiply one axis of `array` by a sparse matrix.

    Sparse products run on one thread in a fixed order, so results do not depend on how many cores BLAS is given.
    """
    front = np.ascontiguousarray(np.moveaxis(array, axis, 0))
    out = operator @ front.reshape(front.shape[0], -1)
    return np.moveaxis(out.reshape(operator.shape[0], *front.shape[1:]), 0, axis)


class _Canvas:
    """The fine grid of one patient with its anatomical coordinates."""

    def __init__(self, frame: _Frame, half_mm: Point) -> None:
        shape = [int(np.ceil(2 * h / FINE_MM)) for h in half_mm]
        affine = np.diag([FINE_MM, FINE_MM, FINE_MM, 1.0])
        affine[:3, 3] = [-(n - 1) / 2 * FINE_MM for n in shape]
        self.grid = Grid((shape[0], shape[1], shape[2]), affine)
        self.frame = frame
        self.q = frame.on_axes([affine[k, 3] + FINE_MM * np.arange(shape[k]) for k in range(3)])

    def box(self, low: Any, high: Any, margin_mm: float = 2.5) -> Box:
        """Index box that holds an anatomical box, with room for the warp."""
        corners = np.array(np.meshgrid(*zip(low, high, strict=True), indexing="ij")).reshape(3, -1).T
        index = self.grid.to_index(self.frame.to_world(corners.astype(np.float64)))
        margin = margin_mm / FINE_MM
        starts = np.clip(np.floor(index.min(0) - margin), 0, self.grid.shape).astype(int)
        stops = np.clip(np.ceil(index.max(0) + margin) + 1, 0, self.grid.shape).astype(int)
        a, b, c = (slice(int(i), int(j)) for i, j in zip(starts, stops, strict=True))
        return a, b, c

    def at(self, box: Box) -> list[Floats]:
        return [axis[box] for axis in self.q]

    def texture(self, rng: np.random.Generator, knot_mm: float) -> Floats:
        """Smooth random field of about unit variance."""
        knots = [max(3, round(n * FINE_MM / knot_mm)) for n in self.grid.shape]
        field = 1.6 * rng.standard_normal(knots, dtype=np.float32)
        for axis in (2, 1, 0):
            field = apply_along(linear_operator(self.grid.shape[axis], knots[axis]), field, axis)
        return field


@dataclass(frozen=True)
class _Shape:
    """A solid: an ellipsoid (`end` absent) or a tapered capsule, with coordinates stretched by `stretch`."""

    start: Point
    radius: Any
    end: Point | None = None
    end_radius: float = 0.0
    stretch: Point = (1.0, 1.0, 1.0)

    def bounds(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
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


def _occupancy(distance: Floats) -> Floats:
    """Share of a voxel inside a surface at signed distance `distance` (exact for a plane along the grid)."""
    return np.clip(np.float32(0.5) - distance / np.float32(FINE_MM), 0, 1)


def _paint(canvas: _Canvas, hu: Floats, shape: _Shape, value: float) -> None:
    box = canvas.box(*shape.bounds())
    view = hu[box]
    if view.size:
        view += _occupancy(shape.distance(canvas.at(box))) * (np.float32(value) - view)


def _union(canvas: _Canvas, field: Floats, shape: _Shape) -> None:
    box = canvas.box(*shape.bounds(), margin_mm=4.0)
    if field[box].size:
        np.minimum(field[box], shape.distance(canvas.at(box)), out=field[box])


def _jitter(rng: np.random.Generator, point: Point, amount: float) -> Point:
    x, y, z = (float(c + rng.uniform(-amount, amount)) for c in point)
    return x, y, z


def _mirrored(side: int, point: Point) -> Point:
    return side * point[0], point[1], point[2]


def _paint_soft_tissue(canvas: _Canvas, hu: Floats, rng: np.random.Generator) -> None:
    """Cisterns, brain stem, pituitary, orbits and the tissues below the skull base."""
    atrophy = float(rng.uniform(0.8, 1.3))
    cisterns = [
        _Shape((0, -1, 9), (12 * atrophy, 11, 6)),
        _Shape((0, -14, -10), (15, 6.5, 20)),
        _Shape((0, -14, 6), (10 * atrophy, 6, 7)),
        _Shape((0, -12, 19), (1.2 * atrophy, 9, 8)),
        _Shape((0, 30, 26), 0.7 * atrophy, (0, 14, 14), 0.7 * atrophy, (1, 1, 9)),
    ]
    for side in (-1, 1):
        cisterns += [
            _Shape((side * 11.0, 0, 13), 1.6 * atrophy, (side * 44.0, 8, 13), 2.2 * atrophy, (1, 1, 2.2)),
            _Shape((side * 13.0, -16, 4), 1.8 * atrophy, (side * 17.0, -36, 10), 2.2 * atrophy, (1, 1, 2)),
            _Shape((side * 28.0, -12, -3), 1.2 * atrophy, (side * 31.0, -26, 0), 1.6 * atrophy, (1, 1, 1.8)),
        ]
    for shape in cisterns:
        _paint(canvas, hu, shape, _CSF_HU)
    _paint(canvas, hu, _Shape((0, -28, -11), (14.5, 11.5, 13.5)), 31)
    _paint(canvas, hu, _Shape((0, -29, 9), (12, 10, 11)), 32)
    _paint(canvas, hu, _Shape((0, -1, 7.5), (5.5, 2.5, 1.6)), 36)
    _paint(canvas, hu, _Shape((0, 0, -1), (6.5, 5.5, 5)), 48)

    # Below this height tissue is extracranial: orbits in front of the sphenoid wings, muscle under the middle fossa.
    low = canvas.box((-60, -60, -60), (60, 60, 10), margin_mm=0)
    qx, qy, qz = canvas.at(low)
    width = np.abs(qx)
    wings = 14.0 + 0.5 * np.maximum(width - 13, 0)
    roof = 7 + 0.10 * np.maximum(qy - 14, 0)
    floor = -17.5 + 0.006 * (width - 22) ** 2
    petrous = -13 - 0.55 * np.maximum(width - 10, 0)
    limit = np.where(qy > wings, roof, np.where(qy > petrous, floor, np.float32(-200)))
    outside = limit > qz
    x, y, z = width[outside], qy[outside], qz[outside]
    planes = np.sin(0.16 * x + 0.22 * y + 0.8 * np.sin(0.15 * z)) * np.sin(0.25 * x - 0.13 * y + 0.1 * z + 1)
    fat = (np.abs(planes) < 0.12) | ((y > wings[outside]) & (x > 13))
    hu[low][outside] = np.where(fat, np.float32(_FAT_HU), np.float32(_MUSCLE_HU))
    for side in (-1, 1):
        for start, end in (
            ((12, 15, 1), (27, 44, 1)),
            ((17, 18, -1), (38, 40, -1)),
            ((14, 17, -7), (26, 44, -11)),
            ((14, 18, 5.5), (27, 44, 8)),
        ):
            _paint(canvas, hu, _Shape(_mirrored(side, start), 1.8, _mirrored(side, end), 2.2), 40)


def _bone_shapes(rng: np.random.Generator) -> list[_Shape]:
    """Body of the sphenoid, clivus, dorsum, clinoids, wings, petrous ridges and the floor of the middle fossa."""
    dorsum = float(rng.uniform(3.5, 6.5))
    shapes = [
        _Shape((0, 8, -13), 7.5, (0, 18, -11), 8.5, (1.25, 1, 1.2)),
        _Shape((0, 22, -5), 8.0, (0, 44, -5), 8.0, (1.4, 1, 1.1)),
        _Shape((0, -1.5, -12.5), 5.5, (0, -8, -34), 4.5, (1.7, 1, 1)),
        _Shape((0, -5, -8), 3.0, (0, -13, -44), 3.6, (2.8, 1, 1)),
        _Shape((0, -6.5, -6), 1.6, (0, -6.0, dorsum), 1.2, (6.0, 1, 1)),
        _Shape((0, 8, 1.5), 1.5, (0, 14, 3.5), 1.2, (6, 1, 1)),
        _Shape((0, 14, 3.5), 1.2, (0, 44, 6.5), 1.2, (10, 1, 1)),
    ]
    for side in (-1, 1):
        clinoid = float(rng.uniform(0.8, 1.25))
        tip = _jitter(rng, (13.6, 3.5, 7.0), 0.8)
        base = _jitter(rng, (15.5, 13.0, 7.0), 0.6)
        wing = _jitter(rng, (44.0, 28.0, 10.0), 1.5)
        apex = _jitter(rng, (13.5, -10.0, -11.5), 1.0)
        parts = [
            (tip, 1.5 * clinoid, base, 2.6 * clinoid, (1, 1, 1)),
            (base, 2.2, wing, 1.7, (1, 1, 1.3)),
            (base, 1.2, (12.0, 12.5, -2.0), 1.4, (1, 1, 1)),
            ((16.0, 18.0, 8.0), 1.0, (44.0, 36.0, 13.0), 1.1, (1, 10, 1)),
            ((7.0, -5.2, dorsum), 1.7, (8.6, -3.6, dorsum + 0.5), 1.2, (1, 1, 1)),
            ((17.0, 13.0, -11.0), 1.4, (44.0, 27.0, -4.0), 1.9, (1, 1, 6.0)),
            ((32.0, 23.0, -5.0), 3.0, (44.0, 29.0, -3.0), 4.5, (1, 1, 2.6)),
            ((14.0, 3.0, -18.5), 1.5, (45.0, 5.0, -15.0), 1.9, (1, 7.0, 1)),
            ((9.6, -6.0, -5.5), 1.9, (9.8, 9.0, -2.8), 2.0, (1, 1, 1)),  # the groove that the carotid lies in
            ((8.2, 3.0, -3.0), 1.3, (8.4, 4.5, float(rng.uniform(-1.0, 2.5))), 0.9, (1, 1, 1)),  # middle clinoid
            ((9.0, 11.0, -14.0), 3.0, (19.0, 14.0, -13.0), 1.6, (1, 1, 1.6)),
            ((12.0, 14.0, -19.0), 2.2, (13.0, 17.0, -44.0), 1.3, (1, 1.8, 1)),
            (apex, 3.0, (46.0, -34.0, -13.0), 7.5, (1, 1, 0.95)),
            ((27.0, -14.0, -18.0), 3.5, (46.0, -14.0, -18.0), 4.5, (1, 1.6, 0.8)),
        ]
        shapes += [_Shape(_mirrored(side, a), ra, _mirrored(side, b), rb, s) for a, ra, b, rb, s in parts]
    return shapes


def _air_shapes(rng: np.random.Generator) -> list[_Shape]:
    """Sphenoid sinus (from hardly to widely pneumatised), ethmoid cells and nasal cavity."""
    pneumatisation = float(rng.choice((0.4, 0.75, 1.0, 1.15), p=(0.1, 0.25, 0.45, 0.2)))
    septum = float(rng.uniform(-2.5, 2.5))
    shapes = []
    for side in (-1, 1):
        half = 5.6 - side * septum * 0.5
        depth = 10.5 * pneumatisation * float(rng.uniform(0.85, 1.1))
        middle = septum + side * (1.15 * half + 0.35)
        shapes.append(_Shape((middle, 22.0 - depth, -9.5), (1.15 * half, depth, 7.5 * pneumatisation**0.5)))
        for k in range(8):  # ethmoid cells, in two storeys
            place = _jitter(rng, (side * 5.2, 26.5 + 5.0 * (k // 2), -1.0 if k % 2 else -8.0), 0.9)
            shapes.append(_Shape(place, tuple(rng.uniform(2.2, 3.2, 3) * (1.9, 1.0, 1.6))))
        shapes.append(_Shape((side * 5.0, 24.0, -28.0), 3.4, (side * 5.0, 46.0, -26.0), 3.8, (1, 1, 3.0)))
        for _ in range(int(rng.integers(2, 7))):
            place = _jitter(rng, (side * 39.0, -29.0, -13.0), 5.0)
            shapes.append(_Shape(place, tuple(rng.uniform(1.0, 2.2, 3))))
    return shapes


def _paint_bone_and_air(canvas: _Canvas, hu: Floats, rng: np.random.Generator, texture: Floats) -> None:
    far = np.float32(50)
    bone, air = np.full(canvas.grid.shape, far), np.full(canvas.grid.shape, far)
    for shape in _bone_shapes(rng):
        _union(canvas, bone, shape)
    for shape in _air_shapes(rng):
        _union(canvas, air, shape)
    bone += np.float32(0.18) * texture
    np.minimum(bone, air - np.float32(rng.uniform(0.6, 1.0)), out=bone)
    sella = _Shape((0, 0, -0.5), (7.0, 5.3, 5.5))
    box = canvas.box(*sella.bounds())
    np.maximum(bone[box], -sella.distance(canvas.at(box)), out=bone[box])

    cortical, cancellous = float(rng.uniform(850, 1200)), float(rng.uniform(280, 520))
    thickness = float(rng.uniform(0.9, 1.5))
    index = np.flatnonzero(np.minimum(bone, air).ravel() < FINE_MM)
    d, g, a = bone.ravel()[index], texture.ravel()[index], air.ravel()[index]
    core = np.clip((-d - np.float32(thickness)) / np.float32(0.6), 0, 1)
    shell_hu = np.clip(cortical * (1 + np.float32(0.14) * g), 600, 1500)
    core_hu = np.clip(cancellous * (1 + np.float32(0.30) * g), 200, 700)
    here = hu.ravel()[index]
    here += _occupancy(d) * (shell_hu + core * (core_hu - shell_hu) - here)
    here += _occupancy(a) * (np.float32(_AIR_HU) - here)
    hu.ravel()[index] = here


def _paint_look_alikes(canvas: _Canvas, hu: Floats, rng: np.random.Generator) -> None:
    """Calcium that is no plaque: clinoid spurs, flecks in the dura, pineal gland and choroid plexus."""
    for side in (-1, 1):
        if rng.random() < 0.5:
            start = _jitter(rng, (13.8, 5.0, 5.8), 1.0)
            end = (start[0] - rng.uniform(0.5, 2.0), start[1] - rng.uniform(1, 3), start[2] - rng.uniform(0.5, 2.5))
            shape = _Shape(_mirrored(side, start), 1.1, _mirrored(side, end), float(rng.uniform(0.4, 0.8)))
            _paint(canvas, hu, shape, float(rng.uniform(400, 1200)))
        for _ in range(int(rng.poisson(1.6))):  # petroclinoid and interclinoid dural folds
            along = float(rng.uniform(0.05, 1.0))
            a, b = np.array((8.5, -7.0, 4.5)), np.array((22.0, -19.0, -4.0))
            x, y, z = (float(c) for c in a + along * (b - a))
            radius = tuple(np.exp(rng.normal(np.log((0.9, 1.5, 0.9)), 0.3)))
            shape = _Shape(_mirrored(side, _jitter(rng, (x, y, z), 0.8)), radius)
            _paint(canvas, hu, shape, float(rng.uniform(200, 1100)))
        if rng.random() < 0.3:
            place = _mirrored(side, _jitter(rng, (31.0, -25.0, -0.5), 1.5))
            _paint(canvas, hu, _Shape(place, tuple(rng.uniform(0.8, 1.8, 3))), float(rng.uniform(150, 500)))
    if rng.random() < 0.35:
        _paint(canvas, hu, _Shape(_jitter(rng, (0, -31, 15), 1.5), tuple(rng.uniform(1.2, 2.6, 3))), 350.0)
    if rng.random() < 0.35:
        place = _jitter(rng, (0, 24, 19), 2.0)
        radius = (0.7, float(rng.uniform(1, 3)), float(rng.uniform(1, 2.5)))
        _paint(canvas, hu, _Shape(place, radius), float(rng.uniform(300, 1000)))


def _vessel(frame: _Frame, name: str, points: list[Point], radius: list[float], plaque: tuple[int, int]) -> Vessel:
    """A smooth tube through anatomical control points; `plaque` names the control points between which plaques lie."""
    world = frame.to_world(np.asarray(points, dtype=np.float64))
    knots = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(world, axis=0), axis=1) ** 0.5)])
    spline = CubicSpline(knots, world)
    dense = np.linspace(0, knots[-1], 40 * len(points))
    length = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(spline(dense), axis=0), axis=1))])
    even = np.interp(np.arange(0, length[-1], 0.25), length, dense)
    start, stop = np.searchsorted(even, (knots[plaque[0]], knots[plaque[1]]))
    return Vessel(
        name=name,
        center_mm=spline(even),
        radius_mm=np.interp(even, knots, radius),
        plaque_range=(int(start), int(max(stop, start + 1))),
    )


_SIPHON: tuple[Point, ...] = (
    (25.0, -13.0, -16.0),
    (16.0, -8.5, -14.5),
    (12.0, -6.5, -9.5),
    (11.3, -4.5, -3.0),
    (11.3, -0.5, -0.6),
    (11.6, 4.5, -0.8),
    (11.5, 9.3, 0.8),
    (11.2, 10.4, 4.4),
    (10.6, 6.6, 6.8),
    (10.3, 2.2, 8.6),
    (10.8, -0.8, 11.2),
    (11.6, -1.8, 14.6),
)


def _vessels(frame: _Frame, rng: np.random.Generator) -> tuple[Vessel, ...]:
    """Two carotid siphons, the middle and anterior cerebral stems, the basilar and the posterior cerebrals."""
    out = []
    tip = _jitter(rng, (0.0, -12.0, 5.0), 1.0)
    basilar = [(tip[0] * 0.5, -14.0, -26.0), _jitter(rng, (0.0, -13.0, -12.0), 1.5), (0.0, -12.0, -2.0), tip]
    out.append(_vessel(frame, "basilar", basilar, list(rng.uniform(1.5, 1.8) * np.ones(4)), (0, 3)))
    for side, name in ((-1, "left"), (1, "right")):
        radius = float(rng.uniform(2.05, 2.45))
        radii = np.clip(radius * rng.uniform(0.96, 1.04, len(_SIPHON)), 2.0, 2.5)
        depth = float(rng.uniform(-1.0, 1.0))  # of the anterior genu: open and closed siphons
        points = [_jitter(rng, p, 0.5) for p in _SIPHON]
        points[6:8] = [(x, y + depth, z) for x, y, z in points[6:8]]
        siphon = [_mirrored(side, p) for p in points]
        top = points[-1]
        out.append(_vessel(frame, f"siphon_{name}", siphon, list(radii), (1, len(siphon) - 1)))
        middle = [top, _jitter(rng, (19.0, 0.5, 15.5), 1.0), _jitter(rng, (28.0, 3.0, 14.5), 1.5), (40.0, 6.0, 13.5)]
        front = [top, _jitter(rng, (6.0, 5.0, 16.0), 0.8), _jitter(rng, (1.8, 10.0, 19.0), 0.5), (1.5, 14.0, 25.0)]
        back = [(side * tip[0], tip[1], tip[2]), (8.0, -15.0, 6.5), (15.0, -22.0, 7.0), (18.0, -30.0, 9.0)]
        thin = float(rng.uniform(1.3, 1.6))
        out.append(_vessel(frame, f"mca_{name}", [_mirrored(side, p) for p in middle], [thin] * 4, (0, 2)))
        out.append(_vessel(frame, f"aca_{name}", [_mirrored(side, p) for p in front], [0.75 * thin] * 4, (0, 1)))
        out.append(_vessel(frame, f"pca_{name}", [_mirrored(side, p) for p in back], [0.75 * thin] * 4, (0, 1)))
    return tuple(out)


@dataclass(frozen=True, eq=False)
class _Tube:
    """Voxels around a vessel in its own coordinates: flat index, place along it, radial distance and angle."""

    index: NDArray[np.int64]
    point: NDArray[np.int64]
    rho: NDArray[np.float64]
    theta: NDArray[np.float64]


def _tube(vessel: Vessel, grid: Grid, reach_mm: float) -> _Tube:
    """Voxels within `reach_mm` of the centreline; angles in a frame carried along without twist."""
    reach = int(np.ceil(reach_mm / FINE_MM))
    steps = np.arange(-reach, reach + 1)
    ball = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), axis=-1).reshape(-1, 3)
    ball = ball[(ball**2).sum(1) <= (reach + 0.5) ** 2]
    stamps = np.rint(grid.to_index(vessel.center_mm[::4])).astype(np.int64)
    voxels = (stamps[:, None] + ball[None]).reshape(-1, 3)
    voxels = voxels[((voxels >= 0) & (voxels < grid.shape)).all(1)]
    index = np.unique(np.ravel_multi_index(tuple(voxels.T), grid.shape))
    places = grid.to_ras_mm(np.stack(np.unravel_index(index, grid.shape), axis=1))
    rho, point = (np.asarray(found) for found in cKDTree(vessel.center_mm).query(places))
    near = rho <= reach_mm
    index, places, rho, point = index[near], places[near], rho[near], point[near]

    tangent = np.gradient(vessel.center_mm, axis=0)
    tangent /= np.linalg.norm(tangent, axis=1, keepdims=True)
    normal = np.empty_like(tangent)
    normal[0] = np.cross(tangent[0], np.eye(3)[np.argmin(np.abs(tangent[0]))])
    for k in range(1, len(normal)):
        normal[k] = normal[k - 1] - (normal[k - 1] @ tangent[k]) * tangent[k]
        normal[k] /= np.linalg.norm(normal[k])
    normal[0] /= np.linalg.norm(normal[0])
    offset = places - vessel.center_mm[point]
    binormal = np.cross(tangent, normal)
    theta = np.arctan2((offset * binormal[point]).sum(1), (offset * normal[point]).sum(1))
    return _Tube(index, point, rho, theta)


def _plaque_coverage(kind: str, volume_mm3: float, vessel: Vessel, tube: _Tube, rng: np.random.Generator) -> Floats:
    """Share of each voxel of a tube that a plaque of about `volume_mm3` fills.

    Intimal plaques are short domes that reach into the lumen; medial ones are long thin sheets in the wall with a
    ragged outline.
    """
    start, stop = vessel.plaque_range
    center = int(rng.integers(start, stop))
    radius = float(vessel.radius_mm[center])
    turn = (tube.theta - rng.uniform(-np.pi, np.pi) + np.pi) % (2 * np.pi) - np.pi
    along, around = (tube.point - center) * 0.25, turn * radius
    outer = vessel.radius_mm[tube.point] + 0.25
    if kind == "intimal":  # volume of the dome: 2/3 π · thickness · half length · half width
        thick, length, width = rng.uniform(0.9, 1.5), rng.uniform(1.2, 2.4), rng.uniform(1.0, 2.0)
        grow = (volume_mm3 / (2 / 3 * np.pi * thick * length * width)) ** (1 / 3)
        thick, width = min(thick * grow, 0.85 * radius), min(width * grow, 0.75 * np.pi * radius)
        length = volume_mm3 / (2 / 3 * np.pi * thick * width)
        shape = np.sqrt(np.clip(1 - (along / length) ** 2 - (around / width) ** 2, 0, None))
    else:
        thick, width = rng.uniform(0.6, 1.0), rng.uniform(1.5, 0.9 * np.pi * radius)
        length = np.clip(volume_mm3 / (0.85 * np.pi * thick * width), 3.0, 16.0)
        width = min(volume_mm3 / (0.85 * np.pi * thick * length), np.pi * radius)
        ragged = np.zeros_like(along)
        for _ in range(3):
            phase = rng.uniform(0, 2 * np.pi)
            ragged += np.sin(along * rng.uniform(0.5, 1.6) + around * rng.uniform(-1.6, 1.6) + phase)
        shape = np.clip(3 * (1 - (along / length) ** 2 - (around / width) ** 2 + 0.2 * ragged), 0, 1)
        shape[np.abs(along) > 1.3 * length] = 0
    half = thick * shape / 2
    depth = tube.rho - (outer - half)
    overlap = np.minimum(half, depth + FINE_MM / 2) - np.maximum(-half, depth - FINE_MM / 2)
    return np.clip(overlap / FINE_MM, 0, 1).astype(np.float32)


def _add_plaque(
    grid: Grid,
    vessels: tuple[Vessel, ...],
    tubes: dict[str, _Tube],
    volume_mm3: float,
    blood_hu: float,
    texture: Floats,
    plaque: Floats,
    signal: Floats,
    rng: np.random.Generator,
) -> Plaque:
    """Add one plaque to the fields `plaque` and `signal`, where no other plaque lies yet."""
    places = ("siphon_left", "siphon_right", "basilar", "mca_left", "mca_right")
    name = str(rng.choice(places, p=(0.44, 0.44, 0.06, 0.03, 0.03)))
    vessel, tube = next(v for v in vessels if v.name == name), tubes[name]
    kind = "intimal" if rng.random() < 0.55 else "medial"
    covered = _plaque_coverage(kind, volume_mm3, vessel, tube, rng)
    median, low = (650, 250) if kind == "intimal" else (450, 200)
    hu = float(np.clip(np.exp(rng.normal(np.log(median), 0.4)), low, 1300))
    grain = np.clip(1 + 0.15 * texture.reshape(-1)[tube.index], 0.6, 1.4)
    bright = np.clip(hu * grain, 130, 1300).astype(np.float32)
    added = np.maximum(covered - plaque.reshape(-1)[tube.index], 0)
    plaque.reshape(-1)[tube.index] += added
    signal.reshape(-1)[tube.index] += added * (bright - np.float32(blood_hu))
    volume = float(added.sum(dtype=np.float64)) * grid.voxel_volume_mm3
    return Plaque(kind=kind, vessel=name, hu=hu, volume_mm3=volume)


def build_anatomy(rng: np.random.Generator, plaque_volume_mm3: float, half_size_mm: Point) -> Anatomy:
    """Paint one patient.

    Args:
        rng: decides everything but the plaque volume.
        plaque_volume_mm3: intended plaque volume; the painted one differs a little (plaques overlap) and is
            counted in `Anatomy.true_volume_mm3`. 0: no plaque.
        half_size_mm: half the extent of the field along x, y, z, around the world's origin.
    """
    frame = _random_frame(rng)
    canvas = _Canvas(frame, half_size_mm)
    texture = canvas.texture(rng, 1.5)
    hu = np.float32(34) + np.float32(1.5) * texture
    _paint_soft_tissue(canvas, hu, rng)
    _paint_bone_and_air(canvas, hu, rng, texture)
    _paint_look_alikes(canvas, hu, rng)

    blood = float(rng.uniform(40, 50))
    vessels = _vessels(frame, rng)
    tubes = {v.name: _tube(v, canvas.grid, float(v.radius_mm.max()) + 1.0) for v in vessels}
    flat = hu.reshape(-1)
    for vessel in vessels:
        tube = tubes[vessel.name]
        inside = _occupancy((tube.rho - vessel.radius_mm[tube.point]).astype(np.float32))
        flat[tube.index] += inside * (np.float32(blood) - flat[tube.index])

    plaque, signal = np.zeros_like(hu), np.zeros_like(hu)
    other = np.maximum(hu - np.float32(80), 0)
    plaques: list[Plaque] = []
    if plaque_volume_mm3 > 0:
        number = int(min(1 + rng.poisson(plaque_volume_mm3 / 25), 10))
        shares = list(plaque_volume_mm3 * rng.dirichlet(np.full(number, 2.5)))
        missing = plaque_volume_mm3
        while shares:
            plaques.append(_add_plaque(canvas.grid, vessels, tubes, shares.pop(), blood, texture, plaque, signal, rng))
            missing -= plaques[-1].volume_mm3
            if not shares and missing > 0.15 * plaque_volume_mm3 and len(plaques) < 20:
                shares.append(missing)  # plaques overlap, or fill less than they should where the wall bends
        where = np.flatnonzero(plaque)
        share_of = plaque.reshape(-1)[where]
        flat[where] = flat[where] * (1 - share_of) + signal.reshape(-1)[where] + share_of * np.float32(blood)
        other.reshape(-1)[where] *= 1 - share_of
    return Anatomy(
        grid=canvas.grid,
        hu=hu,
        plaque=plaque,
        plaque_signal=signal,
        other_signal=other,
        vessels=vessels,
        plaques=tuple(plaques),
        true_volume_mm3=float(plaque.sum(dtype=np.float64)) * canvas.grid.voxel_volume_mm3,
    )
