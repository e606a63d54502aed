"""A skull base in millimetres: tissue, arteries and plaques of one patient, assembled before imaging."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from data_modules.phantom.canvas import Canvas, Floats, Frame, Point, occupancy, random_frame
from data_modules.phantom.plaques import Plaque, add_plaque
from data_modules.phantom.tissue import paint_bone_and_air, paint_look_alikes, paint_soft_tissue
from data_modules.phantom.vessels import Vessel, draw_vessels, tube_around
from data_modules.scan.geometry import Grid


@dataclass(frozen=True, eq=False, kw_only=True)
class Anatomy:
    """One patient before imaging.

    Attributes:
        frame: from world to the patient's anatomical coordinates.
        grid: fine grid, `FINE_MM` isotropic.
        hu: `[X, Y, Z]` float32.
        plaque: `[X, Y, Z]` float32, share of each voxel that is arterial plaque.
        plaque_signal: `[X, Y, Z]` float32, HU that plaque adds to blood.
        other_signal: `[X, Y, Z]` float32, HU that bone and calcium outside arteries add to soft tissue.
        vessels: arteries.
        plaques: plaques.
        true_volume_mm3: volume of all plaque.
    """

    frame: Frame
    grid: Grid
    hu: Floats
    plaque: Floats
    plaque_signal: Floats
    other_signal: Floats
    vessels: tuple[Vessel, ...]
    plaques: tuple[Plaque, ...]
    true_volume_mm3: float


def build_anatomy(rng: np.random.Generator, plaque_volume_mm3: float, half_size_mm: Point) -> Anatomy:
    """Paint one patient.

    Args:
        rng: decides everything but the plaque volume.
        plaque_volume_mm3: intended plaque volume; the painted one differs a little (plaques overlap) and is
            counted in `Anatomy.true_volume_mm3`. 0: no plaque.
        half_size_mm: half the extent of the field along x, y, z, around the world's origin.
    """
    frame = random_frame(rng)
    canvas = Canvas(frame, half_size_mm)
    texture = canvas.texture(rng, 1.5)
    hu = np.float32(34) + np.float32(1.5) * texture
    paint_soft_tissue(canvas, hu, rng)
    paint_bone_and_air(canvas, hu, rng, texture)
    paint_look_alikes(canvas, hu, rng)

    blood = float(rng.uniform(40, 50))
    vessels = draw_vessels(frame, rng)
    tubes = {v.name: tube_around(v, canvas.grid, float(v.radius_mm.max()) + 1.0) for v in vessels}
    flat = hu.reshape(-1)
    for vessel in vessels:
        tube = tubes[vessel.name]
        inside = occupancy((tube.rho - vessel.radius_mm[tube.point]).astype(np.float32))
        flat[tube.index] += inside * (np.float32(blood) - flat[tube.index])

    plaque, signal = np.zeros_like(hu), np.zeros_like(hu)
    other = np.maximum(hu - np.float32(80), 0)
    plaques: list[Plaque] = []
    if plaque_volume_mm3 > 0:
        n_plaques = int(min(1 + rng.poisson(plaque_volume_mm3 / 25), 10))
        shares = list(plaque_volume_mm3 * rng.dirichlet(np.full(n_plaques, 2.5)))
        missing = plaque_volume_mm3
        while shares:
            plaques.append(add_plaque(canvas.grid, vessels, tubes, shares.pop(), blood, texture, plaque, signal, rng))
            missing -= plaques[-1].volume_mm3
            if not shares and missing > 0.15 * plaque_volume_mm3 and len(plaques) < 20:
                shares.append(missing)  # plaques overlap, or fill less than they should where the wall bends
        where = np.flatnonzero(plaque)
        share_of = plaque.reshape(-1)[where]
        flat[where] = flat[where] * (1 - share_of) + signal.reshape(-1)[where] + share_of * np.float32(blood)
        other.reshape(-1)[where] *= 1 - share_of
    return Anatomy(
        frame=frame,
        grid=canvas.grid,
        hu=hu,
        plaque=plaque,
        plaque_signal=signal,
        other_signal=other,
        vessels=vessels,
        plaques=tuple(plaques),
        true_volume_mm3=float(plaque.sum(dtype=np.float64)) * canvas.grid.voxel_volume_mm3,
    )
