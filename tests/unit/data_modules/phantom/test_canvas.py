from __future__ import annotations

import numpy as np
import pytest

from data_modules.phantom.canvas import (
    FINE_MM,
    Canvas,
    Frame,
    Shape,
    apply_along,
    jittered,
    linear_operator,
    mirrored,
    paint,
    random_frame,
    unite,
)

STRAIGHT = Frame(np.eye(3), np.zeros(3), np.zeros((3, 3)), np.ones((3, 3)), np.zeros((3, 3)))
"""World and anatomical coordinates are the same."""


@pytest.mark.parametrize("seed", range(4))
def test_a_frame_leads_there_and_back(seed: int) -> None:
    rng = np.random.default_rng([seed])
    frame = random_frame(rng)
    points = rng.uniform(-30, 30, (20, 3))
    world = frame.to_world(points)
    assert np.abs(world - points).max() > 0.5
    for anatomical, position in zip(points, world, strict=True):
        back = [float(q[0, 0, 0]) for q in frame.on_axes([np.array([c]) for c in position])]
        np.testing.assert_allclose(back, anatomical, atol=1e-3)


def test_a_box_holds_what_it_is_asked_for() -> None:
    canvas = Canvas(random_frame(np.random.default_rng([3])), (20.0, 20.0, 20.0))
    low, high = (-6.0, 2.0, -3.0), (4.0, 9.0, 5.0)
    inside = np.all([(q >= a) & (q <= b) for q, a, b in zip(canvas.q, low, high, strict=True)], axis=0)
    box = canvas.box(low, high)
    assert inside.sum() > 1000
    assert inside[box].sum() == inside.sum()
    assert inside[box].size < 8 * inside.sum()  # 2.5 mm more on each side, and a turned box
    np.testing.assert_array_equal(canvas.at(box)[1], canvas.q[1][box])


def test_distances_by_hand() -> None:
    q = [np.array([v], np.float32) for v in (3.0, 4.0, 0.0)]
    assert Shape((0, 0, 0), 2.0).distance(q) == pytest.approx(3.0)  # a ball: 5 mm from its centre
    assert Shape((3, 4, 0.5), (1, 1, 2)).distance(q)[0] < 0  # inside an ellipsoid
    # A cone from radius 1 at x = 0 to radius 3 at x = 6: 2 mm halfway, 4 mm from the axis.
    assert Shape((0, 0, 0), 1.0, (6, 0, 0), 3.0).distance(q) == pytest.approx(2.0)
    # Stretched by 2 along y, the point lies 2 mm away.
    assert Shape((0, 0, 0), 1.0, (6, 0, 0), 1.0, (1, 2, 1)).distance(q) == pytest.approx(1.0)
    low, high = Shape((0, 0, 0), 1.0, (6, 0, 0), 3.0, (1, 2, 1)).bounds()
    np.testing.assert_array_equal([low, high], [[-3, -6, -3], [9, 6, 3]])


def test_a_painted_ball_has_its_volume() -> None:
    canvas = Canvas(STRAIGHT, (10.0, 10.0, 10.0))
    hu = np.full(canvas.grid.shape, 30, np.float32)
    paint(canvas, hu, Shape((1.0, -2.0, 0.3), 4.0), 130)
    share = (hu - 30) / 100
    assert share.sum() * FINE_MM**3 == pytest.approx(4 / 3 * np.pi * 4**3, rel=0.01)
    assert (share.min(), share.max()) == (0, 1)
    middle = canvas.grid.to_ras_mm(np.argwhere(share > 0.5)).mean(0)
    np.testing.assert_allclose(middle, [1.0, -2.0, 0.3], atol=0.05)
    before = hu.copy()
    paint(canvas, hu, Shape((50.0, 0, 0), 2.0), 500)  # beyond the field
    np.testing.assert_array_equal(hu, before)


def test_a_union_is_the_nearer_of_two() -> None:
    canvas = Canvas(STRAIGHT, (8.0, 8.0, 8.0))
    first, second = Shape((-3, 0, 0), 2.0), Shape((3, 0, 0), 2.5)
    field = np.full(canvas.grid.shape, 50, np.float32)
    for shape in (first, second):
        unite(canvas, field, shape)
    expected = np.minimum(first.distance(canvas.q), second.distance(canvas.q))
    near = expected < 3  # the box that is looked at reaches 4 mm beyond a solid
    np.testing.assert_array_equal(field[near], expected[near])


def test_linear_operator_by_hand() -> None:
    operator = linear_operator(5, 3)
    np.testing.assert_allclose(operator @ np.array([0, 10, 30], np.float32), [0, 5, 10, 20, 30])
    array = np.random.default_rng([1]).random((2, 3, 4), np.float32)
    np.testing.assert_allclose(
        apply_along(operator, array, 1), np.einsum("oi,xiz->xoz", operator.toarray(), array), rtol=1e-6
    )


def test_texture_is_smooth_and_of_unit_variance() -> None:
    canvas = Canvas(STRAIGHT, (20.0, 20.0, 20.0))
    field = canvas.texture(np.random.default_rng([2]), 1.5)
    assert field.shape == canvas.grid.shape
    assert field.std() == pytest.approx(1.0, abs=0.15)
    assert np.corrcoef(field[:-1].ravel(), field[1:].ravel())[0, 1] > 0.8  # 0.5 mm apart
    assert abs(np.corrcoef(field[:-8].ravel(), field[8:].ravel())[0, 1]) < 0.05  # 4 mm apart


def test_jitter_and_mirror() -> None:
    rng = np.random.default_rng([0])
    moved = np.array([jittered(rng, (1.0, 2.0, 3.0), 0.5) for _ in range(400)]) - (1, 2, 3)
    assert np.abs(moved).max() <= 0.5
    np.testing.assert_allclose([moved.min(0), moved.max(0)], [[-0.5] * 3, [0.5] * 3], atol=0.02)
    assert mirrored(-1, (3.0, 4.0, 5.0)) == (-3.0, 4.0, 5.0)
    assert mirrored(1, (3.0, 4.0, 5.0)) == (3.0, 4.0, 5.0)
