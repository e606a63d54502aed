"""What lies around the arteries: soft tissue and cisterns, bone and air, and calcium that is no plaque.

The measures follow textbook anatomy of the parasellar region coarsely: enough for the task (calcium in the wall of
a carotid siphon that touches bone of the same brightness), not enough for surgery.
"""

from __future__ import annotations

import numpy as np

from data_modules.phantom.canvas import Canvas, Floats, Shape, jittered, mirrored, occupancy, paint, unite

_FAT_HU, _MUSCLE_HU, _CSF_HU, _AIR_HU = -95.0, 52.0, 5.0, -1000.0


def paint_soft_tissue(canvas: Canvas, hu: Floats, rng: np.random.Generator) -> None:
    """Cisterns, brain stem, pituitary, orbits and the tissues below the skull base."""
    atrophy = float(rng.uniform(0.8, 1.3))
    cisterns = [
        Shape((0, -1, 9), (12 * atrophy, 11, 6)),
        Shape((0, -14, -10), (15, 6.5, 20)),
        Shape((0, -14, 6), (10 * atrophy, 6, 7)),
        Shape((0, -12, 19), (1.2 * atrophy, 9, 8)),
        Shape((0, 30, 26), 0.7 * atrophy, (0, 14, 14), 0.7 * atrophy, (1, 1, 9)),
    ]
    for side in (-1, 1):
        cisterns += [
            Shape((side * 11.0, 0, 13), 1.6 * atrophy, (side * 44.0, 8, 13), 2.2 * atrophy, (1, 1, 2.2)),
            Shape((side * 13.0, -16, 4), 1.8 * atrophy, (side * 17.0, -36, 10), 2.2 * atrophy, (1, 1, 2)),
            Shape((side * 28.0, -12, -3), 1.2 * atrophy, (side * 31.0, -26, 0), 1.6 * atrophy, (1, 1, 1.8)),
        ]
    for shape in cisterns:
        paint(canvas, hu, shape, _CSF_HU)
    paint(canvas, hu, Shape((0, -28, -11), (14.5, 11.5, 13.5)), 31)
    paint(canvas, hu, Shape((0, -29, 9), (12, 10, 11)), 32)
    paint(canvas, hu, Shape((0, -1, 7.5), (5.5, 2.5, 1.6)), 36)
    paint(canvas, hu, Shape((0, 0, -1), (6.5, 5.5, 5)), 48)

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
            paint(canvas, hu, Shape(mirrored(side, start), 1.8, mirrored(side, end), 2.2), 40)


def _bone_shapes(rng: np.random.Generator) -> list[Shape]:
    """Body of the sphenoid, clivus, dorsum, clinoids, wings, petrous ridges and the floor of the middle fossa."""
    dorsum = float(rng.uniform(3.5, 6.5))
    shapes = [
        Shape((0, 8, -13), 7.5, (0, 18, -11), 8.5, (1.25, 1, 1.2)),
        Shape((0, 22, -5), 8.0, (0, 44, -5), 8.0, (1.4, 1, 1.1)),
        Shape((0, -1.5, -12.5), 5.5, (0, -8, -34), 4.5, (1.7, 1, 1)),
        Shape((0, -5, -8), 3.0, (0, -13, -44), 3.6, (2.8, 1, 1)),
        Shape((0, -6.5, -6), 1.6, (0, -6.0, dorsum), 1.2, (6.0, 1, 1)),
        Shape((0, 8, 1.5), 1.5, (0, 14, 3.5), 1.2, (6, 1, 1)),
        Shape((0, 14, 3.5), 1.2, (0, 44, 6.5), 1.2, (10, 1, 1)),
    ]
    for side in (-1, 1):
        clinoid = float(rng.uniform(0.8, 1.25))
        tip = jittered(rng, (13.6, 3.5, 7.0), 0.8)
        base = jittered(rng, (15.5, 13.0, 7.0), 0.6)
        wing = jittered(rng, (44.0, 28.0, 10.0), 1.5)
        apex = jittered(rng, (13.5, -10.0, -11.5), 1.0)
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
        shapes += [Shape(mirrored(side, a), ra, mirrored(side, b), rb, s) for a, ra, b, rb, s in parts]
    return shapes


def _air_shapes(rng: np.random.Generator) -> list[Shape]:
    """Sphenoid sinus (from hardly to widely pneumatised), ethmoid cells and nasal cavity."""
    pneumatisation = float(rng.choice((0.4, 0.75, 1.0, 1.15), p=(0.1, 0.25, 0.45, 0.2)))
    septum = float(rng.uniform(-2.5, 2.5))
    shapes = []
    for side in (-1, 1):
        half = 5.6 - side * septum * 0.5
        depth = 10.5 * pneumatisation * float(rng.uniform(0.85, 1.1))
        middle = septum + side * (1.15 * half + 0.35)
        shapes.append(Shape((middle, 22.0 - depth, -9.5), (1.15 * half, depth, 7.5 * pneumatisation**0.5)))
        for k in range(8):  # ethmoid cells, in two storeys
            place = jittered(rng, (side * 5.2, 26.5 + 5.0 * (k // 2), -1.0 if k % 2 else -8.0), 0.9)
            shapes.append(Shape(place, tuple(rng.uniform(2.2, 3.2, 3) * (1.9, 1.0, 1.6))))
        shapes.append(Shape((side * 5.0, 24.0, -28.0), 3.4, (side * 5.0, 46.0, -26.0), 3.8, (1, 1, 3.0)))
        for _ in range(int(rng.integers(2, 7))):
            place = jittered(rng, (side * 39.0, -29.0, -13.0), 5.0)
            shapes.append(Shape(place, tuple(rng.uniform(1.0, 2.2, 3))))
    return shapes


def paint_bone_and_air(canvas: Canvas, hu: Floats, rng: np.random.Generator, texture: Floats) -> None:
    """Cortical shells around cancellous bone, hollowed by sinuses and by the pituitary fossa."""
    far = np.float32(50)
    bone, air = np.full(canvas.grid.shape, far), np.full(canvas.grid.shape, far)
    for shape in _bone_shapes(rng):
        unite(canvas, bone, shape)
    for shape in _air_shapes(rng):
        unite(canvas, air, shape)
    bone += np.float32(0.18) * texture
    np.minimum(bone, air - np.float32(rng.uniform(0.6, 1.0)), out=bone)
    sella = Shape((0, 0, -0.5), (7.0, 5.3, 5.5))
    box = canvas.box(*sella.bounds())
    np.maximum(bone[box], -sella.distance(canvas.at(box)), out=bone[box])

    cortical, cancellous = float(rng.uniform(850, 1200)), float(rng.uniform(280, 520))
    thickness = float(rng.uniform(0.9, 1.5))
    index = np.flatnonzero(np.minimum(bone, air).ravel() < canvas.cell_mm)
    d, g, a = bone.ravel()[index], texture.ravel()[index], air.ravel()[index]
    core = np.clip((-d - np.float32(thickness)) / np.float32(0.6), 0, 1)
    shell_hu = np.clip(cortical * (1 + np.float32(0.14) * g), 600, 1500)
    core_hu = np.clip(cancellous * (1 + np.float32(0.30) * g), 200, 700)
    here = hu.ravel()[index]
    here += occupancy(d, canvas.cell_mm) * (shell_hu + core * (core_hu - shell_hu) - here)
    here += occupancy(a, canvas.cell_mm) * (np.float32(_AIR_HU) - here)
    hu.ravel()[index] = here


def paint_look_alikes(canvas: Canvas, hu: Floats, rng: np.random.Generator) -> None:
    """Calcium that is no plaque: clinoid spurs, flecks in the dura, pineal gland and choroid plexus."""
    for side in (-1, 1):
        if rng.random() < 0.5:
            start = jittered(rng, (13.8, 5.0, 5.8), 1.0)
            end = (start[0] - rng.uniform(0.5, 2.0), start[1] - rng.uniform(1, 3), start[2] - rng.uniform(0.5, 2.5))
            shape = Shape(mirrored(side, start), 1.1, mirrored(side, end), float(rng.uniform(0.4, 0.8)))
            paint(canvas, hu, shape, float(rng.uniform(400, 1200)))
        for _ in range(int(rng.poisson(1.6))):  # petroclinoid and interclinoid dural folds
            along = float(rng.uniform(0.05, 1.0))
            a, b = np.array((8.5, -7.0, 4.5)), np.array((22.0, -19.0, -4.0))
            x, y, z = (float(c) for c in a + along * (b - a))
            radius = tuple(np.exp(rng.normal(np.log((0.9, 1.5, 0.9)), 0.3)))
            shape = Shape(mirrored(side, jittered(rng, (x, y, z), 0.8)), radius)
            paint(canvas, hu, shape, float(rng.uniform(200, 1100)))
        if rng.random() < 0.3:
            place = mirrored(side, jittered(rng, (31.0, -25.0, -0.5), 1.5))
            paint(canvas, hu, Shape(place, tuple(rng.uniform(0.8, 1.8, 3))), float(rng.uniform(150, 500)))
    if rng.random() < 0.35:
        paint(canvas, hu, Shape(jittered(rng, (0, -31, 15), 1.5), tuple(rng.uniform(1.2, 2.6, 3))), 350.0)
    if rng.random() < 0.35:
        place = jittered(rng, (0, 24, 19), 2.0)
        radius = (0.7, float(rng.uniform(1, 3)), float(rng.uniform(1, 2.5)))
        paint(canvas, hu, Shape(place, radius), float(rng.uniform(300, 1000)))
