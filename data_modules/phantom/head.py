"""A whole head around the simulated skull base: brain, vault, face, neck and head holder, in cells of 1 to 2.5 mm.

In anatomical coordinates (`canvas`: the sella is the origin, RAS mm), sized as an adult's: the cavity of the skull is
164 mm long and 124 mm wide, the vertex lies 112 mm above the sella. What lies within the field of `anatomy` is
painted there finely and replaces this.
"""

from __future__ import annotations

import numpy as np

from data_modules.phantom.canvas import Canvas, Floats, Frame, Point, Shape, mirrored, occupancy, paint, unite
from data_modules.phantom.tissue import paint_bone_and_air, paint_soft_tissue

AIR_HU = -1000.0
CENTER_MM: Point = (0.0, -18.0, -6.0)
"""Middle of the box that holds a head, relative to the sella."""
HALF_MM: Point = (94.0, 126.0, 134.0)
"""Half the size of that box."""

_MUSCLE_HU, _FAT_HU, _SKIN_HU, _CSF_HU, _BONE_HU, _TOOTH_HU = 52.0, -95.0, 45.0, 6.0, 950.0, 1900.0
_SKIN_MM = 2.5
_FAT_MM = 7.0
_SCALP_MM = 9.0


def build_head(frame: Frame, rng: np.random.Generator, cell_mm: float) -> tuple[Canvas, Floats]:
    """Paint one patient's head.

    Args:
        frame: the patient's, of the skull base that belongs into this head.
        rng: decides the thickness of bone, the width of the ventricles, teeth.
        cell_mm: voxel size.

    Returns:
        The canvas, and HU `[X, Y, Z]` float32.
    """
    canvas = Canvas(frame, HALF_MM, cell_mm, CENTER_MM)
    vault_mm = float(rng.uniform(4.0, 6.5))
    texture = canvas.texture(rng, 6.0)
    # The forehead is wider than an ellipsoid's, and slopes back.
    x, y, z = canvas.q
    forehead = np.maximum(y + np.float32(21), 0)
    vault = _ball(
        [x / (1 + forehead / 800), y, z + forehead * np.float32(0.15)], (0.0, -21.0, 27.0), (62.0, 82.0, 75.0)
    )
    skin = _skin(canvas, vault - np.float32(vault_mm + _SCALP_MM))
    hu = np.full(canvas.grid.shape, _MUSCLE_HU, dtype=np.float32)
    hu[np.abs(texture) < 0.25] = _FAT_HU
    hu[skin > -_FAT_MM] = _FAT_HU
    cavity = np.maximum(vault, _floor(canvas.q) - canvas.q[2])
    _paint_brain(canvas, hu, cavity, texture, rng)
    paint_soft_tissue(canvas, hu, rng)
    _mix(hu, occupancy(vault, cell_mm) * occupancy(cavity - np.float32(3.0), cell_mm), cavity > 0, _BONE_HU * 0.8)
    lowest = np.where(canvas.q[1] < -20, np.float32(-44), np.float32(-24))  # there is no vault before the neck
    shell = (vault > 0) & (canvas.q[2] > lowest)
    diploe = np.abs(vault - np.float32(vault_mm / 2)) < vault_mm / 2 - 2.0
    _mix(hu, occupancy(vault - np.float32(vault_mm), cell_mm), shell, np.where(diploe, 0.55, 1.0) * _BONE_HU)
    paint_bone_and_air(canvas, hu, rng, texture)
    _paint_face(canvas, hu, rng)
    _paint_neck(canvas, hu)
    _mix(hu, occupancy(-skin - np.float32(_SKIN_MM), cell_mm), skin > -_SCALP_MM, _SKIN_HU)
    _mix(hu, occupancy(-skin, cell_mm), skin > -2 * cell_mm, AIR_HU)
    _paint_holder(canvas, hu)
    return canvas, hu


def _mix(hu: Floats, share: Floats, where: np.ndarray, value: float | np.ndarray) -> None:
    """Blend `value` into `hu` by `share`, in the voxels `where`."""
    hu += np.where(where, share, np.float32(0)) * (np.asarray(value, dtype=np.float32) - hu)


def _ball(q: list[Floats], center: Point, radii: Point) -> Floats:
    """Signed distance, negative inside, close near the surface, of an ellipsoid that is fuller to the sides.

    Its surface is |x/a|^2.5 + ((y/b)² + (z/c)²)^1.25 = 1: seen from the side an ellipse.
    """
    x, y, z = (np.abs((axis - np.float32(c)) / np.float32(r)) for axis, c, r in zip(q, center, radii, strict=True))
    profile2 = y * y + z * z
    root = np.sqrt(np.sqrt(profile2))
    raised = np.maximum(x * x * np.sqrt(x) + profile2 * root, np.float32(1e-6))
    level = raised ** np.float32(0.4)
    a, b, c = (np.float32(r) for r in radii)
    slope2 = (x * np.sqrt(x) / a) ** 2 + (y * root / b) ** 2 + (z * root / c) ** 2
    return (level - 1) * (raised / level) / np.sqrt(np.maximum(slope2, np.float32(1e-12)))


def _skin(canvas: Canvas, scalp: Floats) -> Floats:
    """Signed distance of the skin: scalp, face, jaw, neck, nose and ears as one."""
    skin = scalp.copy()
    for center, radii in (
        ((0.0, -25.0, -10.0), (76.0, 88.0, 62.0)),
        ((0.0, 20.0, -34.0), (70.0, 59.0, 66.0)),
        ((0.0, 30.0, -82.0), (52.0, 47.0, 36.0)),
    ):
        low, high = np.subtract(center, radii), np.add(center, radii)
        box = canvas.box(low, high, margin_mm=4.0)
        np.minimum(skin[box], _ball(canvas.at(box), center, radii), out=skin[box])
    unite(canvas, skin, Shape((0, -34, -40), 58.0, (0, -46, -170), 56.0))
    unite(canvas, skin, Shape((0, 74, -8), 9.0, (0, 86, -36), 13.0))
    for side in (-1, 1):
        unite(canvas, skin, Shape(mirrored(side, (77.0, -26.0, -12.0)), (8.0, 15.0, 27.0)))
    return skin


def _floor(q: list[Floats]) -> Floats:
    """Height of the floor of the skull: the anterior, middle and posterior fossa, as `paint_soft_tissue` has them."""
    width = np.abs(q[0])
    wings = 14.0 + 0.5 * np.maximum(width - 13, 0)
    petrous = -13 - 0.55 * np.maximum(width - 10, 0)
    anterior = 7 + 0.10 * np.maximum(q[1] - 14, 0)
    middle = -17.5 + 0.006 * (width - 22) ** 2
    posterior = -40 + 0.004 * width**2
    floor = np.where(q[1] > wings, anterior, np.where(q[1] > petrous, middle, posterior))
    return floor.astype(np.float32)


def _paint_brain(canvas: Canvas, hu: Floats, cavity: Floats, texture: Floats, rng: np.random.Generator) -> None:
    """Cortex, white matter, falx, tentorium, ventricles and the fluid around the brain."""
    cell, q = canvas.cell_mm, canvas.q
    atrophy = float(rng.uniform(0.7, 1.4))
    _mix(hu, occupancy(cavity, cell), cavity < cell, _CSF_HU)
    brain = cavity + np.float32(1.5 * atrophy) + np.float32(0.8 * atrophy) * texture
    _mix(hu, occupancy(brain, cell), brain < cell, 37.0 + texture)
    white = cavity + np.float32(11) + np.float32(3) * texture
    _mix(hu, occupancy(white, cell), white < cell, 29.0)
    supra = q[2] > 4 - 0.35 * (q[1] + 30)
    falx = np.abs(q[0]) - np.float32(0.9)
    _mix(hu, occupancy(falx, cell), (cavity < 0) & supra & (cavity > -28) & (q[2] > 25), 52.0)
    for side in (-1, 1):
        wide = 1.0 + 0.35 * (atrophy - 1)
        for start, r0, end, r1, stretch in (
            ((4.0, 30.0, 28.0), 5.0, (10.0, -10.0, 36.0), 6.0, (0.8, 1, 1)),
            ((10.0, -10.0, 36.0), 6.0, (22.0, -42.0, 26.0), 7.0, (0.9, 1, 1)),
            ((22.0, -42.0, 26.0), 6.0, (24.0, -66.0, 24.0), 3.0, (1, 1, 1)),
            ((22.0, -42.0, 22.0), 5.0, (30.0, -14.0, 0.0), 2.5, (1, 1, 1)),
        ):
            shape = Shape(mirrored(side, start), r0 * wide, mirrored(side, end), r1 * wide, stretch)
            paint(canvas, hu, shape, _CSF_HU)
        paint(canvas, hu, Shape(mirrored(side, (13.0, -12.0, 18.0)), (8.0, 14.0, 9.0)), 36.0)  # thalamus
        if rng.random() < 0.6:  # choroid plexus
            paint(canvas, hu, Shape(mirrored(side, (22.0, -46.0, 24.0)), (1.5, 3.0, 2.0)), 300.0)
    paint(canvas, hu, Shape((0, 2, 14), 2.0 * atrophy, (0, -22, 18), 2.2 * atrophy, (1, 1, 3.5)), _CSF_HU)
    paint(canvas, hu, Shape((0, -48, -12), (6.0, 6.0, 9.0)), _CSF_HU)  # fourth ventricle
    paint(canvas, hu, Shape((0, -94, -4), (5.0, 6.0, 6.0)), 55.0)  # where the sinuses of the dura meet


def _paint_face(canvas: Canvas, hu: Floats, rng: np.random.Generator) -> None:
    """Orbits, sinuses, cheekbones, jaws and the airway."""
    paint(canvas, hu, Shape((0, 54, -32), (8.0, 20.0, 14.0)), AIR_HU)  # nasal cavity
    paint(canvas, hu, Shape((0, 44, -32), (1.2, 26.0, 16.0)), 300.0)
    for side in (-1, 1):
        for start, r0, end, r1, stretch in (
            ((62.0, 40.0, 4.0), 3.5, (40.0, 72.0, -18.0), 5.0, (1, 1, 1)),  # edge of the orbit
            ((40.0, 72.0, -18.0), 5.0, (68.0, 20.0, -24.0), 3.5, (1, 1, 1)),
            ((62.0, 40.0, 4.0), 3.0, (58.0, 52.0, 14.0), 3.5, (1, 1, 1)),
            ((58.0, 8.0, -22.0), 4.5, (46.0, -2.0, -76.0), 4.5, (1, 1.8, 1)),  # ramus
            ((46.0, -2.0, -76.0), 5.0, (10.0, 66.0, -92.0), 6.0, (1, 1, 1.6)),  # mandible
            ((10.0, 66.0, -92.0), 6.0, (0.0, 70.0, -92.0), 6.0, (1, 1, 1.6)),
            ((30.0, 40.0, -58.0), 4.0, (8.0, 68.0, -58.0), 5.0, (1, 1, 1.3)),  # upper jaw
            ((52.0, -34.0, -14.0), 9.0, (52.0, -32.0, -36.0), 6.0, (1, 1, 1)),  # mastoid
        ):
            paint(canvas, hu, Shape(mirrored(side, start), 0.7 * r0, mirrored(side, end), 0.7 * r1, stretch), _BONE_HU)
        paint(canvas, hu, Shape(mirrored(side, (25.0, 48.0, -27.0)), (12.5, 15.5, 15.0)), 700.0)
        paint(canvas, hu, Shape(mirrored(side, (25.0, 48.0, -27.0)), (11.0, 14.0, 13.5)), AIR_HU)  # maxillary sinus
        paint(canvas, hu, Shape(mirrored(side, (30.0, 56.0, 0.0)), (17.0, 20.0, 14.0)), _FAT_HU)
        paint(canvas, hu, Shape(mirrored(side, (31.0, 62.0, 0.0)), (12.0, 12.0, 12.0)), 12.0)  # globe
        paint(canvas, hu, Shape(mirrored(side, (31.0, 71.5, 0.0)), (4.5, 2.2, 4.5)), 85.0)  # lens
        paint(canvas, hu, Shape(mirrored(side, (52.0, -33.0, -20.0)), (5.0, 5.0, 8.0)), -600.0)  # mastoid cells
        for k in range(7):
            if rng.random() < 0.8:
                place = (6.0 + 4.2 * k, 70.0 - 0.8 * k * k, -70.0)
                paint(canvas, hu, Shape(mirrored(side, place), (2.2, 3.0, 8.0)), _TOOTH_HU)
    paint(canvas, hu, Shape((0, 70, 12), (10.0, 3.5, 9.0)), AIR_HU)  # frontal sinus
    paint(canvas, hu, Shape((0, 10, -30), 5.5, (0, -2, -140), 7.0, (1.3, 1, 1)), AIR_HU)  # pharynx


def _paint_neck(canvas: Canvas, hu: Floats) -> None:
    """The upper vertebrae with their canal, cord and discs."""
    paint(canvas, hu, Shape((0, -44, -36), (17.0, 18.0, 10.0)), _CSF_HU)  # foramen magnum
    for k, z in enumerate((-52.0, -68.0, -86.0, -104.0, -122.0, -140.0)):
        body = Shape((0, -20.0 - 1.5 * k, z), (13.0, 9.0, 8.0))
        paint(canvas, hu, Shape((0, -42.0 - 1.5 * k, z), (20.0, 17.0, 7.0)), _BONE_HU * 0.8)
        paint(canvas, hu, body, 450.0)
    paint(canvas, hu, Shape((0, -42, -30), 9.5, (0, -50, -150), 8.5, (1.2, 1, 1)), _CSF_HU)
    paint(canvas, hu, Shape((0, -41, -24), 6.0, (0, -50, -150), 4.5, (1.2, 1, 1)), 38.0)


def _paint_holder(canvas: Canvas, hu: Floats) -> None:
    """A head rest behind the head, which does not turn with it: foam in a thin shell, open to the front."""
    x, y, _ = (
        canvas.grid.affine[k, 3] + canvas.cell_mm * np.arange(n, dtype=np.float32)
        for k, n in enumerate(canvas.grid.shape)
    )
    out = np.hypot(x[:, None] / 92, (y[None] + 20) / 118)
    behind = (y[None] < -45) & (out > 1)
    for rim, value in (((1.0, 1.045), -880.0), ((1.045, 1.075), -150.0)):
        where = behind & (out >= rim[0]) & (out < rim[1])
        hu[where] = np.maximum(hu[where], np.float32(value))
