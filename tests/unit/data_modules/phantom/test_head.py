"""A simulated head has what a head has, where a head has it, and the registration finds its sella."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from data_modules.phantom.canvas import Canvas, Floats, Frame
from data_modules.phantom.head import build_head
from data_modules.phantom.imaging import Kernel
from data_modules.phantom.patient import build_body, build_patient
from data_modules.phantom.stacks import Stack, image_stack, stack_noise
from data_modules.prepare.registration import find_roi_center
from data_modules.scan.geometry import Grid
from data_modules.scan.hounsfield import check_hu
from data_modules.scan.scan import Scan

TEMPLATE = Path(__file__).parents[5] / "shared" / "data" / "scct_template_hu.nii.gz"
STRAIGHT = Frame(np.eye(3), np.zeros(3), np.zeros((3, 3)), np.ones((3, 3)), np.zeros((3, 3)))


@pytest.fixture(scope="module")
def head() -> tuple[Canvas, Floats]:
    return build_head(STRAIGHT, np.random.default_rng(0), 2.5)


def test_tissues_lie_where_they_belong(head: tuple[Canvas, Floats]) -> None:
    canvas, hu = head

    def around(*place: float) -> float:
        i, j, k = np.rint(canvas.grid.to_index(np.array(place))).astype(int)
        return float(np.median(hu[i - 1 : i + 2, j - 1 : j + 2, k - 1 : k + 2]))

    assert 25 < around(40, -20, 50) < 42  # brain
    assert around(10, -10, 36) < 20  # lateral ventricle
    assert around(0, -21, 104) > 300  # vertex
    assert around(0, -105, 27) > 300  # occiput
    assert around(31, 62, 0) < 30  # eye
    assert around(25, 48, -27) < -800  # maxillary sinus
    assert around(0, 0, -90) < -800  # airway
    assert around(0, -21, -68) > 300  # vertebra
    assert around(0, 110, 60) == -1000  # in front of the face


def test_it_is_of_a_heads_size_in_air_and_alike_on_both_sides(head: tuple[Canvas, Floats]) -> None:
    canvas, hu = head
    above = hu[:, :, canvas.grid.to_index(np.zeros(3))[2].astype(int) :] > -500
    litres = above.sum() * canvas.grid.voxel_volume_mm3 / 1e6
    assert 2.0 < litres < 3.5
    assert (hu[[0, -1]] <= -100).all()
    assert (hu[:, -1] == -1000).all()
    assert (hu[:, :, -1] <= -100).all()  # the head rest alone
    assert ((hu > 300) == (hu[::-1] > 300)).mean() > 0.97


def test_the_skull_base_joins_the_head_without_a_step() -> None:
    patient = build_patient((3, 0), 50.0, 2.5, with_contrast=False)
    n = 40
    z = np.linspace(-30, 30, n)
    stack = Stack(
        centers_mm=np.stack([0 * z, 0 * z, z], 1),
        thicknesses_mm=np.full(n, 1.5),
        turn_deg=0.0,
        matrix=96,
        pixel_mm=2.5,
        kernel=Kernel(name="s", kind="soft", fwhm_mm=1.3),
    )
    both, coarse = (image_stack(fields, stack) for fields in (patient.plain, patient.plain[:1]))
    change = np.abs(both - coarse)
    outside = np.abs(np.arange(96) - 47.5) * 2.5 > 45
    assert change[:, :, outside].max() == 0
    assert change[:, outside].max() == 0
    assert change.max() > 100  # the finer skull base


@pytest.mark.parametrize("part", ["chest", "neck"])
def test_bodies_hold_hounsfield_units_and_no_head(part: str) -> None:
    rng = np.random.default_rng(0)
    z = np.arange(-50.0, 51.0, 5.0)
    stack = Stack(
        centers_mm=np.stack([0 * z, 0 * z, z], 1),
        thicknesses_mm=np.full(len(z), 5.0),
        turn_deg=0.0,
        matrix=96,
        pixel_mm=4.0 if part == "chest" else 2.1,
        kernel=Kernel(name="s", kind="soft", fwhm_mm=1.3),
    )
    image = image_stack(build_body(part, rng, 2.5), stack) + stack_noise(stack, rng) - 1000
    check_hu(np.rint(image).astype(np.int16), Path("body"))


@pytest.mark.parametrize("number", [1, 3])
def test_the_registration_finds_the_sella(number: int) -> None:
    if not TEMPLATE.is_file():
        pytest.skip(f"no {TEMPLATE}")
    patient = build_patient((number, 0), 150.0, 2.5, with_contrast=False)
    z = np.arange(-48.0, 120.0, 2.5)
    stack = Stack(
        centers_mm=np.stack([0 * z, 0 * z - 20, z], 1),
        thicknesses_mm=np.full(len(z), 2.5),
        turn_deg=0.0,
        matrix=96,
        pixel_mm=2.5,
        kernel=Kernel(name="s", kind="soft", fwhm_mm=1.3),
    )
    image = image_stack(patient.plain, stack) + stack_noise(stack, np.random.default_rng(0)) - 1000
    affine = np.eye(4)
    affine[:3, :3] = (stack.directions * 2.5).T
    affine[:3, 3] = stack.corners_mm[0]
    hu = np.clip(np.rint(image), -1024, 3071).astype(np.int16).transpose(2, 1, 0)
    found, _ = find_roi_center(Scan(hu=hu, grid=Grid(hu.shape, affine), slice_thickness_mm=2.5), TEMPLATE)
    sella = patient.anatomy.frame.to_world(np.zeros((1, 3)))[0]
    assert np.linalg.norm(found - sella) < 6.0
