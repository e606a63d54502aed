"""Registration to a CT template: a phantom moved by a known transform, what is no head, and real heads."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks.region import lower_part, scaled, thinned, turned
from data_modules.errors import UserError
from data_modules.prepare import registration as registration_module
from data_modules.prepare.registration import (
    SELLA_MNI_MM,
    Registration,
    RegistrationFailed,
    find_roi_center,
    judge,
    register_to_template,
)
from data_modules.prepare.templates import BUILT_IN
from data_modules.scan.geometry import Grid, Volume
from data_modules.scan.nifti import write_nifti
from data_modules.scan.reading import read_scan
from data_modules.scan.scan import Scan, canonical_scan

DATA = Path(__file__).parents[5] / "shared" / "data"

# What a template-sized head is made of: centre and half axes (mm, RAS), HU; later ones lie over earlier ones.
HEAD_PARTS = [
    ((0, -18, 4), (78, 98, 82), 40),  # scalp
    ((0, 40, -65), (55, 50, 50), 40),  # face
    ((0, -18, 4), (74, 94, 78), 800),  # skull
    ((0, -18, 4), (67, 87, 71), 35),  # brain
    ((0, -20, 12), (14, 35, 10), 5),  # ventricles
    ((0, 0, -58), (28, 50, 22), 500),  # skull base
    ((30, -22, -45), (25, 10, 10), 800),  # petrous bones
    ((-30, -22, -45), (25, 10, 10), 800),
    ((0, 12, -42), (15, 18, 12), -900),  # sphenoid sinus
    ((0, 68, -30), (20, 12, 18), -900),  # nasal cavity
    ((30, 58, -32), (16, 18, 16), 0),  # orbits
    ((-30, 58, -32), (16, 18, 16), 0),
    ((0, -30, -100), (50, 50, 50), 40),  # neck
]


def head_hu(points_mm: NDArray[np.float64]) -> NDArray[np.float32]:
    """HU of a schematic head at template positions `[..., 3]`."""
    hu = np.full(points_mm.shape[:-1], -1000, dtype=np.float32)
    for center, half, value in HEAD_PARTS:
        hu[(((points_mm - center) / half) ** 2).sum(axis=-1) < 1] = value
    return hu


def positions(grid: Grid) -> NDArray[np.float64]:
    return grid.to_ras_mm(np.moveaxis(np.indices(grid.shape), 0, -1))


def grid_of(shape: tuple[int, int, int], spacing: tuple[float, float, float], center: Any) -> Grid:
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = np.asarray(center) - affine[:3, :3] @ ((np.asarray(shape) - 1) / 2)
    return Grid(shape, affine)


def rotation(degrees: tuple[float, float, float]) -> NDArray[np.float64]:
    matrix = np.eye(3)
    for axis, angle in enumerate(np.deg2rad(degrees)):
        i, j = (k for k in range(3) if k != axis)
        step = np.eye(3)
        step[i, i] = step[j, j] = np.cos(angle)
        step[i, j], step[j, i] = -np.sin(angle), np.sin(angle)
        matrix = step @ matrix
    return matrix


@pytest.fixture(scope="module")
def template() -> Volume:
    grid = grid_of((72, 88, 72), (2.5, 2.5, 2.5), (0, -18, 0))
    return Volume(head_hu(positions(grid)).astype(np.int16), grid)


TRUTH = np.eye(4)
TRUTH[:3, :3] = 0.92 * rotation((14, -6, 9))
TRUTH[:3, 3] = 12, -25, 40


@pytest.fixture(scope="module")
def scan() -> Scan:
    """The phantom, smaller, turned and moved, in 5 mm slices that end above the neck; a headrest lies below it."""
    center = TRUTH[:3, :3] @ (0, -18, 0) + TRUTH[:3, 3]
    grid = grid_of((100, 110, 32), (2.2, 2.2, 5.0), center)
    points = positions(grid)
    hu = head_hu((points - TRUTH[:3, 3]) @ np.linalg.inv(TRUTH[:3, :3]).T)
    hu[(np.abs(points[..., 1] - center[1] + 112) < 3) & (np.abs(points[..., 0]) < 80)] = 300
    hu += np.random.default_rng(0).normal(0, 10, hu.shape).astype(np.float32)
    return Scan(hu=np.rint(hu).astype(np.int16), grid=grid, slice_thickness_mm=5.0)


@pytest.fixture(scope="module")
def registration(scan: Scan, template: Volume) -> Registration:
    return register_to_template(scan, template)


def test_a_known_transform_is_recovered(registration: Registration) -> None:
    assert registration.ok, registration.reason
    assert registration.similarity > 0.8
    truth = Registration(TRUTH, 1.0, True, "")
    corners = np.array([SELLA_MNI_MM, (15, 4, -31), (-15, 4, -31), (0, 4, -10), (0, -20, -31)])
    errors = np.linalg.norm(registration.to_scan(corners) - truth.to_scan(corners), axis=1)
    assert errors.max() < 3, errors


@pytest.mark.slow
def test_the_same_scan_gives_the_same_numbers(scan: Scan, template: Volume, registration: Registration) -> None:
    again = register_to_template(scan, template)
    assert np.array_equal(again.affine, registration.affine)
    assert again.similarity == registration.similarity


@pytest.mark.slow
def test_a_small_head_that_leans_to_the_side_is_found(template: Volume) -> None:
    truth = np.eye(4)
    truth[:3, :3] = 0.65 * rotation((5, 12, 20))
    truth[:3, 3] = -8, 15, 5
    grid = grid_of((90, 100, 30), (1.6, 1.6, 4.0), truth[:3, :3] @ (0, -18, 0) + truth[:3, 3])
    hu = head_hu((positions(grid) - truth[:3, 3]) @ np.linalg.inv(truth[:3, :3]).T)
    found = register_to_template(Scan(hu=hu.astype(np.int16), grid=grid, slice_thickness_mm=4.0), template)
    assert found.ok, found.reason
    where = Registration(truth, 1.0, True, "").to_scan(SELLA_MNI_MM)
    assert np.linalg.norm(found.to_scan(SELLA_MNI_MM) - where) < 3


def test_the_most_similar_of_several_templates_is_taken_and_named(
    scan: Scan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unless its registration is not believed; where none is, every reason is told."""
    rng = np.random.default_rng(0)
    for name in ("a", "b", "c"):
        hu = rng.integers(-1000, 1500, (9, 9, 9)).astype(np.int16)
        hu[0, 0, 0] = "abc".index(name)
        write_nifti(Volume(hu, grid_of((9, 9, 9), (20, 20, 20), (0, 0, 0))), tmp_path / f"{name}.nii.gz")
    believed = [True, True, False]

    def register(_: Scan, volume: Volume, least: float) -> Registration:
        k = int(volume.data[0, 0, 0])
        return Registration(np.eye(4), (0.7, 0.8, 0.9)[k], believed[k], "" if believed[k] else f"astray, {least}")

    monkeypatch.setattr(registration_module, "register_to_template", register)
    files = [str(tmp_path / f"{name}.nii.gz") for name in "abc"]
    center, found = find_roi_center(scan, files)
    assert (found.template, found.similarity) == ("b.nii.gz", 0.8)
    np.testing.assert_allclose(center, SELLA_MNI_MM)
    believed[:] = [False, False, False]
    with pytest.raises(
        RegistrationFailed, match=r"to c\.nii\.gz: astray, 0\.6; b\.nii\.gz: astray, 0\.6; a\.nii\.gz: "
    ):
        find_roi_center(scan, files[::-1])


def no_head(kind: str, grid: Grid) -> NDArray[Any]:
    rng = np.random.default_rng(1)
    x, y, z = np.moveaxis(positions(grid) - grid.center_ras_mm, -1, 0)
    if kind == "noise":
        return rng.integers(-1000, 1500, grid.shape)
    if kind == "soft noise":
        return rng.normal(40, 100, grid.shape)
    if kind == "ball":
        return np.where(x**2 + y**2 + z**2 < 75**2, 40, -1000)
    return np.where((np.abs(x) < 60) & (np.abs(y) < 60) & (np.abs(z) < 60), 40, -1000)


@pytest.mark.parametrize(
    "kind", ["noise", "soft noise", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("ball", "box"))]
)
def test_what_is_no_head_fails(kind: str, scan: Scan, template: Volume) -> None:
    registration = register_to_template(replace(scan, hu=no_head(kind, scan.grid).astype(np.int16)), template)
    assert not registration.ok
    assert "similarity" in registration.reason


def test_air_fails_with_the_volume_found(scan: Scan, template: Volume) -> None:
    registration = register_to_template(replace(scan, hu=np.full(scan.grid.shape, -1000, np.int16)), template)
    assert (registration.ok, registration.similarity) == (False, 0.0)
    assert registration.reason.startswith("0 ml of connected tissue")


def test_a_scan_of_the_vault_alone_fails_by_its_own_error(scan: Scan, template: Volume, tmp_path: Path) -> None:
    write_nifti(template, tmp_path / "template.nii.gz")
    vault = replace(scan, hu=scan.hu[:, :, 18:], grid=scan.grid.crop((0, 0, 18), (*scan.grid.shape[:2], 14)))
    with pytest.raises(RegistrationFailed, match=r"template\.nii\.gz: .*outside the scan") as caught:
        find_roi_center(vault, tmp_path / "template.nii.gz")
    assert isinstance(caught.value, UserError)
    assert "roi_center_lps_mm" in str(caught.value)


def moved(matrix: Any = 1.0, shift: tuple[float, ...] = (0, 0, 0)) -> NDArray[np.float64]:
    affine = np.eye(4)
    affine[:3, :3] = affine[:3, :3] @ (np.eye(3) * matrix if np.ndim(matrix) < 2 else matrix)
    affine[:3, 3] = shift
    return affine


@pytest.mark.parametrize(
    ("affine", "reason"),
    [
        (moved(), ""),
        (moved(rotation((0, 0, 50))), "rotated by 50°"),
        (moved(np.diag([-1.0, 1.0, 1.0])), "rotated by"),
        (moved(np.array([1.0, 1.0, 1.6])), r"scales \[1\.0, 1\.0, 1\.6\] outside 0\.5–1\.5"),
        (moved(np.array([1.0, 0.45, 1.0])), r"scales \[0\.45, 1\.0, 1\.0\]"),
        (moved(shift=(0, 0, 150)), "shows 1?[0-9]% of the template's head"),
        (moved(shift=(40, 0, 0)), r"similarity -?0\.\d+ is below 0\.6"),
        (moved(shift=(0, 0, -75)), "outside the scan"),
    ],
    ids=["fits", "rotated", "mirrored", "too large", "too small", "no overlap", "beside", "outside"],
)
def test_what_makes_a_registration_unbelievable(affine: NDArray[np.float64], reason: str, template: Volume) -> None:
    windowed = template.with_data(np.clip(template.data, -200, 400).astype(np.float32))
    verdict = judge(affine, windowed, windowed, template.grid)
    assert verdict.ok == (reason == "")
    assert re.search(reason, verdict.reason), verdict.reason
    assert verdict.similarity == pytest.approx(1) or not verdict.ok


class TestRealHeads:
    """Sella turcica and calcification as seen on the slices, RAS mm."""

    @pytest.fixture(scope="class")
    def real_template(self) -> Volume:
        return real_scan("scct_template_hu.nii.gz").volume

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("name", "sella"), [("cranium_ct.nii.gz", (1.0, 7.2, -27.0)), ("ge_head_dicom", (5.8, 17.0, 12.4))]
    )
    def test_the_sella_is_found(self, name: str, sella: tuple[float, ...], real_template: Volume) -> None:
        registration = register_to_template(real_scan(name), real_template)
        assert registration.ok, registration.reason
        assert np.linalg.norm(registration.to_scan(SELLA_MNI_MM) - sella) < 9

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("first", "last"), [(0, 50), (16, 65), (20, 108)], ids=["vault missing", "middle", "no neck"]
    )
    def test_part_of_a_head_is_enough_where_it_shows_the_sella(
        self, first: int, last: int, real_template: Volume
    ) -> None:
        registration = register_to_template(slices(real_scan("cranium_ct.nii.gz"), first, last), real_template)
        assert registration.ok, registration.reason
        assert np.linalg.norm(registration.to_scan(SELLA_MNI_MM) - (1.0, 7.2, -27.0)) < 9

    @pytest.mark.slow
    @pytest.mark.parametrize("name", ["cranium_ct.nii.gz", "ge_head_dicom"])
    def test_the_centre_stays_where_a_head_is_moved(self, name: str) -> None:
        """The worst of `python -m benchmarks.region`."""
        scan, template = real_scan(name), DATA / "scct_template_hu.nii.gz"
        center, _ = find_roi_center(scan, template)
        small, aside = scaled(scan, 0.85), turned(scan, (0, 0, 1), -20, "")
        for changed, matrix in ((lower_part(thinned(small.scan)), small.matrix), (aside.scan, aside.matrix)):
            found, _ = find_roi_center(changed, template)
            assert np.linalg.norm(found - matrix[:3, :3] @ center - matrix[:3, 3]) < 5

    @pytest.mark.slow
    @pytest.mark.parametrize("name", ["cranium_ct.nii.gz", "ge_head_dicom"])
    def test_the_built_in_model_finds_the_same_place(self, name: str) -> None:
        scan = real_scan(name)
        center, _ = find_roi_center(scan, DATA / "scct_template_hu.nii.gz")
        found, registration = find_roi_center(scan, None)
        assert np.linalg.norm(found - center) < 10
        assert registration.template == BUILT_IN

    @pytest.mark.slow
    @pytest.mark.parametrize("name", ["cranium_ct.nii.gz", "ge_head_dicom"])
    def test_a_head_that_looks_back_is_no_head_of_the_built_in_model(self, name: str) -> None:
        scan = real_scan(name)
        wrong = replace(scan, grid=Grid(scan.grid.shape, np.diag([-1.0, -1, 1, 1]) @ scan.grid.affine))
        with pytest.raises(RegistrationFailed, match=r"built-in head model: .*rotated by 1[67]\d°"):
            find_roi_center(wrong, None)

    @pytest.mark.slow
    def test_the_vault_of_a_head_fails(self, real_template: Volume) -> None:
        registration = register_to_template(slices(real_scan("cranium_ct.nii.gz"), 60, 108), real_template)
        assert not registration.ok
        assert "outside the scan" in registration.reason

    @pytest.mark.slow
    @pytest.mark.parametrize("flip", [(-1, -1, 1), (1, 1, -1)], ids=["turned", "upside down"])
    def test_a_wrong_header_fails(self, flip: tuple[int, ...], real_template: Volume) -> None:
        scan = real_scan("cranium_ct.nii.gz")
        wrong = replace(scan, grid=Grid(scan.grid.shape, np.diag([*flip, 1.0]) @ scan.grid.affine))
        registration = register_to_template(wrong, real_template)
        assert not registration.ok
        assert "similarity" in registration.reason or "rotated" in registration.reason


def real_scan(name: str) -> Scan:
    if not (DATA / name).exists():
        pytest.skip(f"needs {name} in the shared data folder")
    return canonical_scan(read_scan(DATA / name))


def slices(scan: Scan, first: int, last: int) -> Scan:
    x, y, _ = scan.grid.shape
    return replace(scan, hu=scan.hu[:, :, first:last], grid=scan.grid.crop((0, 0, first), (x, y, last - first)))
