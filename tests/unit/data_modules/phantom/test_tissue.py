"""What stands where in anatomical coordinates, on a patient whose coordinates are the world's."""

from __future__ import annotations

import numpy as np
import pytest

from data_modules.phantom.canvas import Canvas, Floats, Frame, Point
from data_modules.phantom.tissue import paint_bone_and_air, paint_look_alikes, paint_soft_tissue

BRAIN_HU = 34.0


@pytest.fixture
def canvas() -> Canvas:
    frame = Frame(np.eye(3), np.zeros(3), np.zeros((3, 3)), np.ones((3, 3)), np.zeros((3, 3)))
    return Canvas(frame, (45.0, 45.0, 30.0))


@pytest.fixture
def hu(canvas: Canvas) -> Floats:
    return np.full(canvas.grid.shape, BRAIN_HU, np.float32)


def at(canvas: Canvas, field: Floats, point: Point) -> float:
    return float(field[tuple(canvas.grid.to_index(point).round().astype(int))])


def test_soft_tissue(canvas: Canvas, hu: Floats) -> None:
    paint_soft_tissue(canvas, hu, np.random.default_rng([0]))
    assert at(canvas, hu, (0, -6, 12)) == 5  # suprasellar cistern: CSF
    assert at(canvas, hu, (0, -30, -11)) == 31  # pons
    assert at(canvas, hu, (0, 0, -1)) == 48  # pituitary
    assert at(canvas, hu, (40, 0, 25)) == BRAIN_HU  # temporal lobe
    orbit = [at(canvas, hu, (side * x, 36, z)) for side in (-1, 1) for x in (16, 32) for z in (-8, 5)]
    assert orbit.count(-95) >= 6  # fat, with muscles in it
    assert set(np.unique(hu[hu < 0]).round(3)) >= {-95.0}
    assert hu.min() == -95


def test_bone_and_air(canvas: Canvas, hu: Floats) -> None:
    paint_bone_and_air(canvas, hu, np.random.default_rng([0]), np.zeros_like(hu))
    x, y, z = canvas.q
    fossa = (x / 7.0) ** 2 + (y / 5.3) ** 2 + ((z + 0.5) / 5.5) ** 2 < 0.9**2
    np.testing.assert_array_equal(hu[fossa], BRAIN_HU)  # the dorsum reaches into it, and is carved out
    assert at(canvas, hu, (0, -4, -20)) > 200  # clivus
    for side in (-1, 1):
        assert at(canvas, hu, (side * 30, -22, -12)) > 200  # petrous bone
        assert at(canvas, hu, (side * 5, 16, -10)) == pytest.approx(-1000, abs=1)  # sphenoid sinus
    assert at(canvas, hu, (0, -30, 20)) == BRAIN_HU
    assert hu.min() >= -1000.1
    assert hu.max() <= 1500
    bone, air = hu > 200, hu < -500
    assert 0.05 < bone.mean() < 0.35
    assert 0.005 < air.mean() < 0.15


def test_calcium_that_is_no_plaque(canvas: Canvas) -> None:
    pineal, volumes = 0, []
    for seed in range(30):
        hu = np.full(canvas.grid.shape, BRAIN_HU, np.float32)
        paint_look_alikes(canvas, hu, np.random.default_rng([seed]))
        assert hu.min() >= BRAIN_HU
        assert hu.max() < 1200
        volumes.append((hu >= 130).sum() * canvas.grid.voxel_volume_mm3)
        pineal += at(canvas, hu, (0, -31, 15)) > 130
    assert 4 <= pineal <= 20  # in about a third
    assert np.mean(np.array(volumes) > 0) > 0.8
    assert 3 < np.median(volumes) < 150
