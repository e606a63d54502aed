"""Arteries at the skull base as tubes: their course, and the voxels around them in coordinates of their own."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline
from scipy.spatial import cKDTree

from data_modules.phantom.canvas import FINE_MM, Frame, Point, jittered, mirrored
from data_modules.scan.geometry import Grid

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


def _vessel(frame: Frame, name: str, points: list[Point], radius: list[float], plaque: tuple[int, int]) -> Vessel:
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


def draw_vessels(frame: Frame, rng: np.random.Generator) -> tuple[Vessel, ...]:
    """Two carotid siphons, the middle and anterior cerebral stems, the basilar and the posterior cerebrals."""
    out = []
    tip = jittered(rng, (0.0, -12.0, 5.0), 1.0)
    basilar = [(tip[0] * 0.5, -14.0, -26.0), jittered(rng, (0.0, -13.0, -12.0), 1.5), (0.0, -12.0, -2.0), tip]
    out.append(_vessel(frame, "basilar", basilar, list(rng.uniform(1.5, 1.8) * np.ones(4)), (0, 3)))
    for side, name in ((-1, "left"), (1, "right")):
        radius = float(rng.uniform(2.05, 2.45))
        radii = np.clip(radius * rng.uniform(0.96, 1.04, len(_SIPHON)), 2.0, 2.5)
        depth = float(rng.uniform(-1.0, 1.0))  # of the anterior genu: open and closed siphons
        points = [jittered(rng, p, 0.5) for p in _SIPHON]
        points[6:8] = [(x, y + depth, z) for x, y, z in points[6:8]]
        siphon = [mirrored(side, p) for p in points]
        top = points[-1]
        out.append(_vessel(frame, f"siphon_{name}", siphon, list(radii), (1, len(siphon) - 1)))
        middle = [top, jittered(rng, (19.0, 0.5, 15.5), 1.0), jittered(rng, (28.0, 3.0, 14.5), 1.5), (40.0, 6.0, 13.5)]
        front = [top, jittered(rng, (6.0, 5.0, 16.0), 0.8), jittered(rng, (1.8, 10.0, 19.0), 0.5), (1.5, 14.0, 25.0)]
        back = [(side * tip[0], tip[1], tip[2]), (8.0, -15.0, 6.5), (15.0, -22.0, 7.0), (18.0, -30.0, 9.0)]
        thin = float(rng.uniform(1.3, 1.6))
        out.append(_vessel(frame, f"mca_{name}", [mirrored(side, p) for p in middle], [thin] * 4, (0, 2)))
        out.append(_vessel(frame, f"aca_{name}", [mirrored(side, p) for p in front], [0.75 * thin] * 4, (0, 1)))
        out.append(_vessel(frame, f"pca_{name}", [mirrored(side, p) for p in back], [0.75 * thin] * 4, (0, 1)))
    return tuple(out)


@dataclass(frozen=True, eq=False)
class Tube:
    """Voxels around a vessel in its own coordinates: flat index, place along it, radial distance and angle."""

    index: NDArray[np.int64]
    point: NDArray[np.int64]
    rho: NDArray[np.float64]
    theta: NDArray[np.float64]


def tube_around(vessel: Vessel, grid: Grid, reach_mm: float) -> Tube:
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
    rho, point = (np.asarray(nearest) for nearest in cKDTree(vessel.center_mm).query(places))
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
    return Tube(index, point, rho, theta)
