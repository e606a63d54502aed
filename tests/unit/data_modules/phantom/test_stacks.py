"""A stack shows a thing where it lies and as bright as it is, whatever the tilt, the step and the thickness."""

from __future__ import annotations

import numpy as np
import pytest

from data_modules.phantom.imaging import Kernel
from data_modules.phantom.stacks import Field, Stack, image_stack, stack_noise
from data_modules.scan.geometry import Grid

SOFT = Kernel(name="soft", kind="soft", fwhm_mm=1.3)
SHARP = Kernel(name="sharp", kind="sharp", fwhm_mm=0.7, edge=0.3)
BALL_MM = np.array([6.0, -9.0, 4.0])


def field_of(hu_at: object, cell_mm: float = 1.0, half: int = 40) -> Field:
    n = 2 * half + 1
    grid = Grid((n, n, n), np.array([[cell_mm, 0, 0, -half * cell_mm]] + [[0] * 4] * 3) * 1.0)
    affine = np.diag([cell_mm, cell_mm, cell_mm, 1.0])
    affine[:3, 3] = -half * cell_mm
    grid = Grid((n, n, n), affine)
    axes = affine[0, 3] + cell_mm * np.arange(n)
    x, y, z = np.meshgrid(axes, axes, axes, indexing="ij")
    return Field.of(hu_at(x, y, z).astype(np.float32), grid)  # type: ignore[operator]


def a_stack(z_mm: np.ndarray, thickness: np.ndarray | float, turn: float = 0.0, **facts: object) -> Stack:
    values = {"matrix": 48, "pixel_mm": 1.5, "kernel": SOFT, **facts}
    return Stack(
        centers_mm=np.stack([0 * z_mm, 0 * z_mm, z_mm], axis=1)
        if turn != 90
        else np.stack([0 * z_mm, z_mm, 0 * z_mm], 1),
        thicknesses_mm=np.full(len(z_mm), 1.0) * thickness,
        turn_deg=turn,
        **values,  # type: ignore[arg-type]
    )


@pytest.fixture(scope="module")
def ball() -> Field:
    def hu(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        a, b, c = BALL_MM
        return 1000.0 * ((x - a) ** 2 + (y - b) ** 2 + (z - c) ** 2 < 25)

    return field_of(hu)


THIN = np.arange(-20.0, 20.0, 2.0)
TWO = np.concatenate([np.arange(-20.0, 4.5, 3.0), 4.0 + 1.14 + 6.0 * np.arange(3)])


@pytest.mark.parametrize(
    "stack",
    [
        a_stack(THIN, 2.0),
        a_stack(THIN, 2.0, 18.5),
        a_stack(THIN, 2.0, -12.0, kernel=SHARP),
        a_stack(THIN[::-1] - 5, 2.0, 90),
        a_stack(TWO, np.where(np.arange(len(TWO)) < len(TWO) - 3, 3.0, 6.0), 10.0),
    ],
    ids=["axial", "tilted", "sharp", "coronal", "two thicknesses"],
)
def test_a_ball_lies_where_it_is(stack: Stack, ball: Field) -> None:
    image = image_stack((ball,), stack)
    x, y, normal = stack.directions
    k, j, i = np.indices(image.shape)
    places = stack.corners_mm[k] + stack.pixel_mm * (i[..., None] * x + j[..., None] * y)
    heights = stack.centers_mm @ normal
    share = np.gradient(heights)[:, None, None] * image  # slices stand for what lies between them and the next
    found = (places * share[..., None]).sum((0, 1, 2)) / share.sum()
    assert found == pytest.approx(BALL_MM, abs=0.35)
    assert np.abs(share).sum() * stack.pixel_mm**2 == pytest.approx(1000 * 4 / 3 * np.pi * 125, rel=0.12)


def test_what_is_the_same_everywhere_stays_so() -> None:
    field = field_of(lambda x, y, z: np.full(x.shape, 500.0))
    for turn in (0.0, 20.0):
        image = image_stack((field,), a_stack(np.arange(-6.0, 7.0, 3.0), 3.0, turn, matrix=16, kernel=SHARP))
        assert image == pytest.approx(500.0, rel=0.01)


def test_a_thick_slice_averages_over_its_slab() -> None:
    field = field_of(lambda x, y, z: 1000.0 * (z > 0.5))  # full from 0.5 mm upwards
    levels = [image_stack((field,), a_stack(np.array([0.5]), t, matrix=9))[0, 4, 4] for t in (2.0, 8.0)]
    assert levels == pytest.approx([500, 500], abs=30)
    off = image_stack((field,), a_stack(np.array([2.5]), 8.0, matrix=9))[0, 4, 4]
    assert off == pytest.approx(750, abs=30)  # 6 of 8 mm


def test_fields_add_up(ball: Field) -> None:
    stack = a_stack(THIN, 2.0, 10.0)
    assert image_stack((ball, ball), stack) == pytest.approx(2 * image_stack((ball,), stack), abs=1e-2)


def test_noise_follows_thickness_within_a_series() -> None:
    stack = a_stack(TWO, np.where(np.arange(len(TWO)) < len(TWO) - 3, 3.0, 12.0), 0.0, matrix=96)
    noise = stack_noise(stack, np.random.default_rng(0))
    assert noise.shape == (len(TWO), 96, 96)
    assert noise[:5].std() / noise[-3:].std() == pytest.approx(2.0, rel=0.1)
