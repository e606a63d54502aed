"""One simulated patient as fields to be imaged: a whole head with the fine skull base in its place, and bodies."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from data_modules.phantom.anatomy import Anatomy, build_anatomy
from data_modules.phantom.canvas import (
    Canvas,
    Floats,
    Frame,
    Point,
    Shape,
    apply_along,
    linear_operator_at,
    occupancy,
    paint,
)
from data_modules.phantom.head import AIR_HU, build_head
from data_modules.phantom.stacks import Field
from data_modules.phantom.vessels import tube_around
from data_modules.scan.geometry import Grid

FINE_HALF_MM: Point = (40.0, 32.0, 24.0)
"""Half the size of the box around the sella that is painted in cells of 0.5 mm."""

CONTRAST_HU = 330.0
"""Of blood after contrast."""

_BLEND_MM = 5.0


@dataclass(frozen=True, eq=False)
class Patient:
    """What of a patient can be imaged; each part is a sum of fields, HU above air.

    Attributes:
        anatomy: the fine skull base with its arteries and plaques.
        plain: head without contrast.
        contrast: what contrast adds to it.
    """

    anatomy: Anatomy
    plain: tuple[Field, ...]
    contrast: Field | None

    @property
    def plaque_ras_mm(self) -> list[tuple[float, float, float]]:
        """Middle of all plaque, weighted by what it adds to blood; empty without plaque."""
        signal = self.anatomy.plaque_signal
        total = float(signal.sum(dtype=np.float64))
        if total <= 0:
            return []
        places = self.anatomy.grid.to_ras_mm(np.argwhere(signal > 0))
        x, y, z = (places * signal[signal > 0][:, None].astype(np.float64)).sum(0) / total
        return [(float(x), float(y), float(z))]


def build_patient(key: tuple[int, ...], plaque_volume_mm3: float, cell_mm: float, with_contrast: bool) -> Patient:
    """A patient whose skull base, plaque apart, depends on `key` alone.

    Args:
        key: seed of its random numbers.
        plaque_volume_mm3: intended volume of all plaque.
        cell_mm: voxel size of the head outside the skull base.
        with_contrast: whether it is imaged with contrast as well.
    """
    anatomy = build_anatomy(np.random.default_rng([*key, 1]), plaque_volume_mm3, FINE_HALF_MM)
    canvas, head = build_head(anatomy.frame, np.random.default_rng([*key, 2]), cell_mm)
    fine = anatomy.grid
    ramps = []
    for n in fine.shape:
        edge = (np.minimum(np.arange(n), n - 1 - np.arange(n)) + 0.5) * fine.spacing_mm[0]
        ramps.append(np.clip(edge / _BLEND_MM, 0, 1).astype(np.float32))
    window = ramps[0][:, None, None] * ramps[1][None, :, None] * ramps[2][None, None, :]
    detail = (anatomy.hu - _on_grid(head, canvas.grid, fine)) * window
    contrast = Field.of(_blood(anatomy) * window, fine) if with_contrast else None
    return Patient(anatomy, (Field.of(head - np.float32(AIR_HU), canvas.grid), Field.of(detail, fine)), contrast)


def build_body(part: str, rng: np.random.Generator, cell_mm: float) -> tuple[Field, ...]:
    """Something that is no head: ``"chest"`` or ``"neck"``.

    Args:
        part: which.
        rng: decides its size.
        cell_mm: voxel size.
    """
    size = float(rng.uniform(0.92, 1.08))
    frame = Frame(np.eye(3) / size, np.zeros(3), np.zeros((3, 3)), np.ones((3, 3)), np.zeros((3, 3)))
    half = (190.0, 130.0, 130.0) if part == "chest" else (90.0, 90.0, 80.0)
    canvas = Canvas(frame, half, cell_mm)
    x, y, z = canvas.q
    hu = np.full(canvas.grid.shape, AIR_HU, dtype=np.float32)
    width, depth = (165.0, 105.0) if part == "chest" else (62.0, 62.0)
    outside = (np.hypot(x / width, y / depth) - 1) * np.float32(depth)
    for inset, value in ((0.0, 40.0), (3.0, -100.0), (8.0, 55.0)):
        hu += occupancy(outside + np.float32(inset), cell_mm) * (np.float32(value) - hu)
    if part == "chest":
        for side in (-1, 1):
            paint(canvas, hu, Shape((side * 78.0, 5.0, 0.0), (50.0, 68.0, 150.0)), -850.0)
        paint(canvas, hu, Shape((-20.0, 20.0, -40.0), (52.0, 42.0, 60.0)), 45.0)
        ribs = (np.abs(outside + np.float32(22)) < 4) & (np.sin(z / np.float32(4.5) + y / np.float32(25)) > 0.3)
        hu[ribs] = 600.0
        paint(canvas, hu, Shape((0, 92, -120), 7.0, (0, 92, 120), 7.0, (3, 1, 1)), 350.0)
    else:
        paint(canvas, hu, Shape((0, 24, -120), 8.0, (0, 24, 120), 8.0, (1.2, 1, 1)), AIR_HU)
    back = -70.0 if part == "chest" else -16.0
    paint(canvas, hu, Shape((0, back, -160), 15.0, (0, back, 160), 15.0, (1.2, 1, 1)), 420.0)
    paint(canvas, hu, Shape((0, back - 20, -160), 9.0, (0, back - 20, 160), 9.0, (1.2, 1, 1)), 20.0)
    return (Field.of(hu - np.float32(AIR_HU), canvas.grid),)


def _on_grid(hu: Floats, coarse: Grid, fine: Grid) -> Floats:
    """A coarse field linearly between its cells, `[X, Y, Z]` of the fine grid."""
    start = coarse.to_index(fine.affine[:3, 3])
    stop = coarse.to_index(fine.to_ras_mm(np.asarray(fine.shape) - 1))
    for axis in (2, 1, 0):
        places = np.linspace(start[axis], stop[axis], fine.shape[axis])
        hu = apply_along(linear_operator_at(places, coarse.shape[axis]), hu, axis)
    return hu


def _blood(anatomy: Anatomy) -> Floats:
    """What contrast adds to the lumen of the arteries, plaque left as it is."""
    added = np.zeros_like(anatomy.hu)
    for vessel in anatomy.vessels:
        tube = tube_around(vessel, anatomy.grid, float(vessel.radius_mm.max()) + 1.0)
        inside = occupancy((tube.rho - vessel.radius_mm[tube.point]).astype(np.float32))
        np.maximum.at(added.reshape(-1), tube.index, inside * np.float32(CONTRAST_HU - 45))
    return added * (1 - anatomy.plaque)
