from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from data_modules.cohort.table import check_leakage, read_cohort
from data_modules.errors import UserError
from data_modules.phantom import cohort as phantom_cohort
from data_modules.phantom import make_phantom_cohort
from data_modules.phantom.anatomy import FINE_MM, Anatomy, build_anatomy
from data_modules.phantom.cohort import PatientPlan, plan_patient
from data_modules.phantom.imaging import (
    Acquisition,
    Kernel,
    half_extent_mm,
    image_field,
    image_noise,
    read_label,
    tilt_deg,
)
from data_modules.scan.geometry import Grid

SOFT = Kernel(name="soft", kind="soft", fwhm_mm=1.2)
SETTINGS = {"patients": 5, "seed": 3, "max_series": 1}


def fine_grid(shape: tuple[int, int, int]) -> Grid:
    """Cells of FINE_MM whose edges meet in the world's origin."""
    affine = np.diag([FINE_MM, FINE_MM, FINE_MM, 1.0])
    affine[:3, 3] = [-(n - 1) / 2 * FINE_MM for n in shape]
    return Grid(shape, affine)


def acquire(
    shape: tuple[int, int, int] = (41, 41, 9),
    pixel: float = 0.5,
    step: float = 1.0,
    thickness: float | None = None,
    tilt: float = 0.0,
    flip: bool = False,
    kernel: Kernel = SOFT,
    center: tuple[float, float, float] = (0, 0, 0),
) -> Acquisition:
    angle = np.deg2rad(tilt)
    affine = np.eye(4)
    affine[1:3, 1:3] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    affine[0, 0] = -1 if flip else 1
    affine[:3, :3] *= [pixel, pixel, step]
    affine[:3, 3] = np.asarray(center) - affine[:3, :3] @ ((np.asarray(shape) - 1) / 2)
    return Acquisition(grid=Grid(shape, affine), slice_thickness_mm=thickness or step, kernel=kernel)


def hashes(folder: Path) -> dict[str, str]:
    files = [f for f in sorted(folder.rglob("*")) if f.is_file()]
    return {str(f.relative_to(folder)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("phantom") / "cohort"
    assert make_phantom_cohort(out, **SETTINGS, workers=1) == out / "cohort.csv"
    return out


@pytest.fixture(scope="module")
def painted() -> Anatomy:
    return build_anatomy(np.random.default_rng([5]), 80.0, (34.0, 34.0, 26.0))


# Imaging


@pytest.mark.parametrize(
    ("step", "thickness", "expected"),
    [
        (3.0, 4.0, [0, 0, 25, 0, 0]),  # overlap: [−2, 2] holds all of [0, 1]; [1, 5] nothing
        (3.0, 2.0, [0, 0, 50, 0, 0]),  # gap
        (0.8, 1.5, [0, 0, 50, 95 / 1.5, 10]),  # [−0.75, 0.75], [0.05, 1.55], [0.85, 2.35]
    ],
)
def test_slice_averages_its_slab(step: float, thickness: float, expected: list[float]) -> None:
    grid = fine_grid((80, 80, 40))
    field = np.zeros(grid.shape, np.float32)
    field[:, :, 20:22] = 100  # 0 mm < z < 1 mm
    image = image_field(field, grid, acquire((5, 5, 5), step=step, thickness=thickness))
    np.testing.assert_allclose(image[2, 2], expected, atol=0.01)


@pytest.mark.parametrize("edge", [0.0, 0.3])
def test_point_spread_has_the_kernels_width(edge: float) -> None:
    grid = fine_grid((80, 80, 8))
    field = np.zeros(grid.shape, np.float32)
    field[40] = 100  # a plate, centre at x = 0.25 mm
    acquisition = acquire((101, 3, 1), pixel=0.2, kernel=Kernel(name="k", kind="sharp", fwhm_mm=1.0, edge=edge))
    line = image_field(field, grid, acquisition)[:, 1, 0].astype(float)
    x = acquisition.grid.to_ras_mm(np.stack([np.arange(101), 0 * np.arange(101), 0 * np.arange(101)], axis=1))[:, 0]
    assert line.sum() * 0.2 == pytest.approx(100 * FINE_MM, rel=1e-3)  # the mean of an image is kept
    center = (line * x).sum() / line.sum()
    variance = (line * (x - center) ** 2).sum() / line.sum()
    gaussian = (1.0 / 2.3548) ** 2
    # Variances add: (1 + e) · σ² − e · (2 σ)², and the plate's own width.
    assert center == pytest.approx(0.25, abs=1e-3)
    assert variance == pytest.approx((1 + edge) * gaussian - edge * 4 * gaussian + FINE_MM**2 / 12, abs=2e-3)
    assert (line.min() < -0.5) == (edge > 0)


@pytest.mark.parametrize(("tilt", "flip"), [(0.0, False), (18.5, False), (-20.0, True)])
def test_affine_says_where_things_are(tilt: float, flip: bool) -> None:
    grid = fine_grid((80, 80, 80))
    place = np.array([6.0, -5.0, 7.5])
    world = grid.to_ras_mm(np.stack(np.meshgrid(*[np.arange(80)] * 3, indexing="ij"), axis=-1))
    ball = (np.linalg.norm(world - place, axis=-1) < 2).astype(np.float32)
    acquisition = acquire((70, 60, 25), step=1.5, tilt=tilt, flip=flip, center=(0.5, -1.0, 0.7))
    image = image_field(ball, grid, acquisition)
    assert image.sum() * acquisition.grid.voxel_volume_mm3 == pytest.approx(ball.sum() * FINE_MM**3, rel=0.02)
    np.testing.assert_allclose(acquisition.grid.to_ras_mm(ndimage.center_of_mass(image)), place, atol=0.06)
    assert tilt_deg(acquisition.grid) == pytest.approx(tilt)
    assert acquisition.grid.is_orthogonal


def test_noise_falls_with_thickness_and_smoothing() -> None:
    def deviation(thickness: float, kernel: Kernel = SOFT) -> float:
        return float(image_noise(acquire((90, 90, 30), step=thickness, kernel=kernel), np.random.default_rng(0)).std())

    assert deviation(1.25) / deviation(5.0) == pytest.approx(2.0, rel=0.04)
    assert deviation(0.6) / deviation(2.4) == pytest.approx(2.0, rel=0.04)
    assert 3 < deviation(5.0) < 5  # an everyday head scan
    assert deviation(1.25, Kernel(name="sharp", kind="sharp", fwhm_mm=0.7)) > 1.4 * deviation(1.25)


def test_overlapping_slices_share_noise() -> None:
    def correlation(step: float) -> float:
        noise = image_noise(acquire((60, 60, 30), step=step, thickness=4.0), np.random.default_rng(1))
        return float(np.corrcoef(noise[:, :, :-1].ravel(), noise[:, :, 1:].ravel())[0, 1])

    assert correlation(2.0) == pytest.approx(0.5, abs=0.04)  # half of each slab is the neighbour's too
    assert correlation(4.0) == pytest.approx(0.0, abs=0.04)


# Labels


def by_hand(plaque: NDArray[np.float32], bone: NDArray[np.float32]) -> Anatomy:
    """Plaque of 840 HU and bone of 1,040 HU in blood of 40 HU."""
    return Anatomy(
        grid=fine_grid((64, 64, 24)),
        hu=40 + 800 * plaque + 1000 * bone,
        plaque=plaque,
        plaque_signal=800 * plaque,
        other_signal=1000 * bone,
        vessels=(),
        plaques=(),
        true_volume_mm3=float(plaque.sum()) * FINE_MM**3,
    )


def test_reader_leaves_bone_and_blur() -> None:
    plaque, bone = np.zeros((2, 64, 64, 24), np.float32)
    plaque[28:34, 28:34, 8:16] = 1  # −2 … 1 mm in x and y, −2 … 2 mm in z
    bone[34:50, 10:54] = 1  # touches it on the right
    anatomy = by_hand(plaque, bone)
    acquisition = acquire((63, 63, 9), kernel=Kernel(name="sharp", kind="sharp", fwhm_mm=0.6))
    hu = np.rint(image_field(anatomy.hu, anatomy.grid, acquisition)).astype(np.int16)
    label = read_label(anatomy, acquisition, hu)
    where = acquisition.grid.to_ras_mm(np.argwhere(label))
    # Voxels lie every 0.5 mm. Edge voxels are half plaque and ≥ 130 HU even in the corners (1/8 · 800 + 40), save
    # at x = 1 mm, where the other half is the brighter bone; half a millimetre outside blur adds 2.5 %, 20 HU.
    np.testing.assert_array_equal(where.min(0), [-2, -2, -2])
    np.testing.assert_array_equal(where.max(0), [0.5, 1, 2])
    assert label.sum() == 6 * 7 * 5


def test_reader_circles_one_millimetre_around() -> None:
    plaque = np.zeros((64, 64, 24), np.float32)
    plaque[28:34, 28:34, 8:16] = 1
    anatomy = by_hand(plaque, np.zeros_like(plaque))
    acquisition = acquire((63, 63, 9))
    label = read_label(anatomy, acquisition, np.full((63, 63, 9), 200, np.int16))
    # The footprint is −2 … 1 mm in plane (7 x 7 voxels) on five slices; the circle adds a disc of radius 1 mm.
    expected = np.zeros((63, 63), bool)
    expected[27:34, 27:34] = True
    x, y = np.mgrid[-2:3, -2:3]
    expected = ndimage.binary_dilation(expected, x**2 + y**2 <= 4)
    np.testing.assert_array_equal(label[:, :, 2:7], np.repeat(expected[:, :, None], 5, axis=2))
    assert label.sum() == 5 * expected.sum()


def test_no_plaque_no_label() -> None:
    empty = np.zeros((64, 64, 24), np.float32)
    assert not read_label(by_hand(empty, empty), acquire(), np.full((41, 41, 9), 500, np.int16)).any()
    outside = empty.copy()
    outside[:2, :2, :2] = 1
    assert not read_label(by_hand(outside, empty), acquire(), np.full((41, 41, 9), 500, np.int16)).any()


def test_single_voxels_are_discarded() -> None:
    plaque = np.zeros((64, 64, 24), np.float32)
    plaque[32, 32, 12] = 1
    anatomy = by_hand(plaque, np.zeros_like(plaque))
    acquisition = acquire((31, 31, 9), pixel=1.0, center=(0.25, 0.25, 0.25))
    hu = np.full((31, 31, 9), 40, np.int16)
    hu[15, 15, 4] = 300
    assert read_label(anatomy, acquisition, hu).sum() == 0
    hu[16, 15, 4] = 300
    assert read_label(anatomy, acquisition, hu).sum() == 2


def test_labels_of_a_patient_follow_the_protocol(painted: Anatomy) -> None:
    acquisition = acquire((110, 100, 18), step=2.0, thickness=2.0, tilt=10.0)
    image = image_field(painted.hu, painted.grid, acquisition) + image_noise(acquisition, np.random.default_rng(2))
    hu = np.rint(image).astype(np.int16)
    label = read_label(painted, acquisition, hu)
    assert label.sum() > 20
    assert hu[label].min() >= 130
    neighbours = ndimage.convolve(label.astype(int), np.ones((3, 3, 3), int), mode="constant") - 1
    assert neighbours[label].min() >= 1
    away = ndimage.distance_transform_edt(painted.plaque == 0) * FINE_MM
    index = painted.grid.to_index(acquisition.grid.to_ras_mm(np.argwhere(label))).round().astype(int)
    # Circle, half a slice and the corner of a voxel.
    assert away[tuple(index.T)].max() <= np.hypot(1.0 + 0.75, 1.0) + 0.5
    assert np.count_nonzero((hu >= 130) & ~label) > 50 * label.sum()  # bone is as bright, and much more


# Anatomy


def test_true_volume_is_what_was_painted(painted: Anatomy) -> None:
    assert painted.true_volume_mm3 == pytest.approx(painted.plaque.sum() * FINE_MM**3, rel=1e-5)
    assert painted.true_volume_mm3 == pytest.approx(sum(p.volume_mm3 for p in painted.plaques), rel=1e-4)
    assert painted.true_volume_mm3 == pytest.approx(80.0, rel=0.25)
    assert painted.plaque.max() <= 1 + 1e-6
    whole = painted.plaque > 0.99
    assert painted.hu[whole].min() >= 129.9
    assert painted.hu[whole].max() <= 1300.1
    assert -1000.1 <= painted.hu.min() < -900
    assert 1000 < painted.hu.max() <= 1500.1


def test_plaque_lies_in_an_arterial_wall(painted: Anatomy) -> None:
    places = painted.grid.to_ras_mm(np.argwhere(painted.plaque > 0.5))
    names = {p.vessel for p in painted.plaques}
    nearest = np.full(len(places), np.inf)
    for vessel in (v for v in painted.vessels if v.name in names):
        distance = np.linalg.norm(places[:, None] - vessel.center_mm[None], axis=-1)
        beyond = distance.min(1) - vessel.radius_mm[distance.argmin(1)]
        nearest = np.minimum(nearest, beyond)
    assert nearest.max() <= 0.25 + FINE_MM  # the wall is a quarter of a millimetre beyond the lumen
    assert nearest.min() >= -2.2


def test_siphons_hold_blood_to_their_radius_and_touch_bone() -> None:
    anatomy = build_anatomy(np.random.default_rng([6]), 0.0, (40.0, 34.0, 26.0))
    assert anatomy.true_volume_mm3 == 0
    assert anatomy.plaques == ()
    bone = ndimage.distance_transform_edt(anatomy.other_signal < 150) * FINE_MM
    for vessel in (v for v in anatomy.vessels if v.name.startswith("siphon")):
        part = slice(*vessel.plaque_range)
        assert 2.0 <= vessel.radius_mm.min() <= vessel.radius_mm.max() <= 2.5
        tangent = np.gradient(vessel.center_mm, axis=0)[part]
        across = np.cross(tangent, [0.3, 1.0, 0.2])
        across /= np.linalg.norm(across, axis=1, keepdims=True)
        center, radius = vessel.center_mm[part], vessel.radius_mm[part, None]
        inner, outer = (
            ndimage.map_coordinates(
                anatomy.hu, anatomy.grid.to_index(center + side * (radius + d) * across).T, order=0, mode="nearest"
            )
            for side, d in ((1, -0.75), (1, 0.75))
        )
        blood = np.median(inner)
        assert 40 <= blood <= 50
        assert np.mean(np.abs(inner - blood) < 0.5) > 0.97
        assert np.mean(np.abs(outer - blood) < 0.5) < 0.3
        index = anatomy.grid.to_index(center).round().astype(int)
        assert np.mean(bone[tuple(index.T)] - radius[:, 0] < 1.0) > 0.6


def test_field_holds_all_that_is_imaged() -> None:
    acquisition = acquire((180, 140, 10), step=6.0, thickness=8.0, tilt=20.0, center=(1.0, -3.0, 1.0))
    half = half_extent_mm(acquisition)
    shape = tuple(int(np.ceil(2 * h / FINE_MM)) for h in half)
    grid = fine_grid((shape[0], shape[1], shape[2]))
    image = image_field(np.full(shape, 100, np.float32), grid, acquisition)
    np.testing.assert_allclose(image, 100, atol=0.01)


# Plans


@pytest.fixture(scope="module")
def plans() -> list[PatientPlan]:
    return [plan_patient(0, number, 3) for number in range(600)]


def test_burden_of_the_trial(plans: list[PatientPlan]) -> None:
    volumes = np.array([plan.plaque_volume_mm3 for plan in plans])
    assert np.mean(volumes == 0) == pytest.approx(0.2, abs=0.05)
    logs = np.log(volumes[volumes > 0])
    assert np.exp(np.median(logs)) == pytest.approx(100, rel=0.15)
    assert logs.std() == pytest.approx(0.88, abs=0.08)


def test_series_of_the_trial(plans: list[PatientPlan]) -> None:
    series = [a for plan in plans for a in plan.acquisitions]
    assert {len(plan.acquisitions) for plan in plans} == {1, 2, 3}
    thickness = np.array([a.slice_thickness_mm for a in series])
    assert (thickness.min(), thickness.max()) == (0.6, 8.0)
    step = np.array([a.grid.spacing_mm[2] for a in series])
    assert np.mean(step < 0.95 * thickness) > 0.1  # overlaps
    assert np.mean(step > 1.05 * thickness) > 0.1  # gaps
    assert np.mean(np.abs([tilt_deg(a.grid) for a in series]) > 1) > 0.1
    assert {plan.manufacturer for plan in plans} == {f"Vendor {letter}" for letter in "ABCDE"}
    assert {a.kernel.kind for a in series} == {"soft", "medium", "sharp"}
    for acquisition in series:
        assert np.all(np.array(acquisition.grid.size_mm) >= [80, 64, 48])
        assert 0.399 <= acquisition.grid.spacing_mm[0] <= 0.601
        assert np.abs(acquisition.grid.center_ras_mm - [0, -2, 0]).max() <= 1.51
    assert {np.sign(a.grid.affine[0, 0]) for a in series} == {-1, 1}


# Files


@pytest.mark.slow
def test_workers_do_not_change_a_byte(made: Path, tmp_path: Path) -> None:
    make_phantom_cohort(tmp_path / "again", **SETTINGS, workers=2)
    assert hashes(tmp_path / "again") == hashes(made)


def test_cohort_reads_back(made: Path) -> None:
    cohort = read_cohort(made / "cohort.csv")
    check_leakage(cohort)
    table = pd.read_csv(made / "cohort.csv", index_col="series_id")
    assert len(cohort.series) == 5
    assert {s.split for s in cohort.series} == {"pretrain", "finetune", "dev", "test"}
    for series in cohort.series:
        image = nib.load(series.image)
        assert image.get_data_dtype() == np.int16
        plan = plan_patient(3, int(series.patient_id[1:]) - 1, 1)
        np.testing.assert_array_equal(image.affine, plan.acquisitions[0].grid.affine)
        np.testing.assert_allclose(image.header.get_zooms(), series.spacing_mm, atol=1e-4)
        assert image.header["slice_duration"] == 0
        assert image.header.get_dim_info()[2] == 2
        sidecar = json.loads(series.image.with_name(f"{series.series_id}.json").read_text())
        assert sidecar["SliceThickness"] == series.slice_thickness_mm
        assert sidecar["ConvolutionKernel"] == series.kernel
        assert series.true_volume_mm3 is not None
        if series.label is not None:
            label = nib.load(series.label)
            hu, mask = np.asarray(image.dataobj), np.asarray(label.dataobj) > 0
            np.testing.assert_array_equal(label.affine, image.affine)
            assert hu[mask].min(initial=3071) >= 130
            volume = float(table.loc[series.series_id, "label_volume_mm3"])
            assert volume == pytest.approx(mask.sum() * np.prod(series.spacing_mm), rel=1e-3)


def test_pretraining_series_have_no_label(made: Path) -> None:
    cohort = read_cohort(made / "cohort.csv")
    pretrain = {s.series_id for s in cohort.split("pretrain")}
    assert len(pretrain) == 2
    assert all((s.label is None) == (s.series_id in pretrain) for s in cohort.series)
    files = {f.name.removesuffix(".nii.gz") for f in (made / "labels").iterdir()}
    assert files == {s.series_id for s in cohort.series} - pretrain


def test_finished_cohort_is_returned_at_once(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(phantom_cohort, "_make_patient", None)
    monkeypatch.setattr(phantom_cohort, "draw_contact_sheet", None)
    assert make_phantom_cohort(made, **SETTINGS, workers=1).is_file()


def test_interrupted_cohort_is_finished(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "cohort"
    shutil.copytree(made, out)
    for name in ("cohort.csv", "contact_sheet.png", "patients/P0002.json", "images/P0004_S1.nii.gz"):
        (out / name).unlink()
    shutil.rmtree(out / "labels")
    again = []
    paint = phantom_cohort._make_patient
    monkeypatch.setattr(
        phantom_cohort, "_make_patient", lambda plan, *a: (again.append(plan.patient_id), paint(plan, *a))
    )
    make_phantom_cohort(out, **SETTINGS, workers=1)
    pretrain = {s.patient_id for s in read_cohort(made / "cohort.csv").split("pretrain")}
    assert set(again) == {"P0002", "P0004"} | ({f"P000{k}" for k in range(1, 6)} - pretrain)
    assert hashes(out) == hashes(made)


def test_interruption_leaves_no_cohort(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(phantom_cohort, "_make_patient", interrupt)
    with pytest.raises(KeyboardInterrupt):
        make_phantom_cohort(tmp_path, 2, 0, workers=1)
    assert not (tmp_path / "cohort.csv").exists()


def test_other_settings_are_refused(made: Path) -> None:
    before = hashes(made)
    with pytest.raises(UserError, match=r"seed is 3 there and 4 here.*name another folder"):
        make_phantom_cohort(made, 5, 4, max_series=1)
    assert hashes(made) == before


def test_foreign_cohort_is_refused(tmp_path: Path) -> None:
    (tmp_path / "cohort.csv").write_text("patient_id\n1\n")
    with pytest.raises(UserError, match="not a phantom"):
        make_phantom_cohort(tmp_path, 2, 0)
    (tmp_path / "phantom.json").write_text("{")
    with pytest.raises(UserError, match="not readable JSON"):
        make_phantom_cohort(tmp_path, 2, 0)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"patients": 0}, "patients is 0; expected at least 1"),
        ({"max_series": 4}, "max_series is 4; expected from 1 to 3"),
        ({"workers": 0}, "workers is 0"),
        ({"fractions": {"train": 1.0}}, "train"),
    ],
)
def test_impossible_settings_are_refused(tmp_path: Path, wrong: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make_phantom_cohort(**{"out": tmp_path / "new", "patients": 3, "seed": 0, **wrong})  # type: ignore[arg-type]
    assert not (tmp_path / "new").exists()


def test_contact_sheet_shows_labelled_series_from_thin_to_thick(made: Path, tmp_path: Path) -> None:
    from data_modules.phantom.contact_sheet import _choose, draw_contact_sheet

    table = pd.DataFrame(
        {
            "patient_id": [f"P{k}" for k in range(20)],
            "series_id": [f"P{k}_S1" for k in range(20)],
            "label": ["" if k % 4 == 0 else "x" for k in range(20)],
            "slice_thickness_mm": np.arange(20, 0, -1.0),
            "true_volume_mm3": [0.0 if k in (5, 6) else 10.0 for k in range(20)],
        }
    )
    chosen = _choose(table)
    assert len(chosen) == 8
    assert chosen["slice_thickness_mm"].iloc[:7].is_monotonic_increasing
    assert chosen["slice_thickness_mm"].iloc[[0, 6]].tolist() == [1.0, 19.0]
    assert chosen["true_volume_mm3"].iloc[7] == 0
    assert (chosen["label"] == "x").all()
    unlabelled = pd.read_csv(made / "cohort.csv").fillna({"label": ""}).query("label == ''")
    draw_contact_sheet(unlabelled, made, tmp_path / "sheet.png")
    assert (tmp_path / "sheet.png").stat().st_size > 20_000
