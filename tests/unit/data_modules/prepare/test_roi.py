"""Regions of interest: the scan's own voxels, in canonical order, around the right point."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_modules.config import GridConfig
from data_modules.errors import UserError
from data_modules.prepare import roi
from data_modules.prepare.registration import REGISTRATION_VERSION, Registration, RegistrationFailed
from data_modules.prepare.roi import MODEL_USED, locate, region_facts, region_of_interest
from data_modules.prepare.templates import BUILT_IN
from data_modules.scan.geometry import Grid, place
from data_modules.scan.nifti import write_nifti
from data_modules.scan.reading import read_scan
from data_modules.scan.resampling import resample_image
from data_modules.scan.scan import Scan

DATA = Path(__file__).parents[5] / "shared" / "data"


@pytest.fixture
def scan() -> Scan:
    """Axes L-A-S, 4 mm slices of unequal thickness."""
    affine = np.diag([-1.0, 1.0, 4.0, 1.0])
    affine[:3, 3] = 60, -50, -100
    hu = np.random.default_rng(0).integers(-1000, 1000, (121, 101, 40)).astype(np.int16)
    return Scan(
        hu=hu,
        grid=Grid(hu.shape, affine),
        slice_thickness_mm=4.0,
        slice_thicknesses_mm=tuple(np.linspace(4, 8, 40).tolist()),
    )


def whole(scan: Scan) -> Scan:
    """The scan in a field of view that holds a whole head."""
    hu = np.pad(scan.hu, ((40, 40), (30, 30), (0, 0)), constant_values=-1000)
    return replace(scan, hu=hu, grid=scan.grid.crop((-40, -30, 0), hu.shape))


def test_without_template_the_region_stands_around_the_centre(scan: Scan) -> None:
    region = region_of_interest(scan, GridConfig())
    assert region.grid.axis_codes == "RAS"
    assert region.hu.shape == (80, 64, 12)
    np.testing.assert_allclose(region.grid.center_ras_mm, scan.grid.center_ras_mm, atol=2)
    center, registration = locate(scan, GridConfig())
    np.testing.assert_allclose(center, scan.grid.center_ras_mm)
    assert registration is None


def test_what_was_cut_around_the_region_is_not_registered(scan: Scan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roi, "find_roi_center", lambda *_: pytest.fail("registered"))
    center, registration = locate(scan, GridConfig(template="head.nii.gz"))
    np.testing.assert_allclose(center, scan.grid.center_ras_mm)
    assert registration is None


def test_a_given_centre_goes_before_registration(scan: Scan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roi, "find_roi_center", lambda *_: pytest.fail("registered"))
    config = GridConfig(template="head.nii.gz")
    center, registration = locate(whole(scan), config, center_lps_mm=[-12.0, 8.0, -20.0])
    np.testing.assert_allclose(center, (12, -8, -20))
    assert registration is None
    with pytest.raises(UserError, match=r"roi_center_lps_mm -12 8 900: lies outside the scan, .* -10\d to 5\d mm"):
        locate(whole(scan), config, center_lps_mm=[-12.0, 8.0, 900.0])


def test_a_region_found_with_the_built_in_model_says_so(scan: Scan, monkeypatch: pytest.MonkeyPatch) -> None:
    found = Registration(np.eye(4), 0.6, True, "", BUILT_IN)
    monkeypatch.setattr(roi, "find_roi_center", lambda *_: (np.zeros(3), found))
    assert MODEL_USED in region_of_interest(whole(scan), GridConfig()).warnings
    other = replace(found, template="t.nii.gz")
    monkeypatch.setattr(roi, "find_roi_center", lambda *_: (np.zeros(3), other))
    assert MODEL_USED not in region_of_interest(whole(scan), GridConfig(template="t.nii.gz")).warnings
    assert region_facts(other) == {
        "template": "t.nii.gz",
        "template_to_scan_ras": np.eye(4).tolist(),
        "version": REGISTRATION_VERSION,
    }
    assert region_facts(None) == {}


def test_voxels_and_slice_thicknesses_are_the_scans_own(scan: Scan) -> None:
    region = region_of_interest(scan, GridConfig())
    back = place(region.volume, scan.grid, -2000).data
    inside = back != -2000
    assert inside.sum() == region.hu.size
    assert np.array_equal(back[inside], scan.hu[inside])
    assert region.slice_thicknesses_mm is not None
    assert scan.slice_thicknesses_mm is not None
    first = int(np.flatnonzero(inside.any(axis=(0, 1)))[0])
    np.testing.assert_allclose(region.slice_thicknesses_mm, scan.slice_thicknesses_mm[first : first + 12])


def test_the_region_stands_where_the_template_puts_it(scan: Scan, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def found(seen: Scan, *given: Any) -> tuple[np.ndarray, Registration]:
        asked.append(given)
        return np.array([10.0, 5.0, -20.0]), Registration(np.eye(4), 0.9, True, "")

    monkeypatch.setattr(roi, "find_roi_center", found)
    region = region_of_interest(whole(scan), GridConfig(template="templates/head.nii.gz"), age_years=70.0)
    assert asked == [("templates/head.nii.gz", 70.0)]
    assert (np.abs(region.grid.center_ras_mm - (10, 5, -20)) <= np.array([0.5, 0.5, 2]) + 1e-6).all()
    assert not region.warnings


def test_a_region_that_leaves_the_scan_is_air_there_and_says_so(scan: Scan, monkeypatch: pytest.MonkeyPatch) -> None:
    registration = Registration(np.eye(4), 0.9, True, "")
    monkeypatch.setattr(roi, "find_roi_center", lambda *_: (np.array([0.0, 0.0, -98.0]), registration))
    region = region_of_interest(whole(scan), GridConfig(template="head.nii.gz"))
    # Twelve slices around the one at −98 mm (index 0.5): six of them (−5 … −1 and one half) lie below the scan.
    below = region.grid.to_ras_mm(np.stack([[0, 0, k] for k in range(12)]))[:, 2] < -101
    assert (region.hu[:, :, below] == -1024).all()
    assert not (region.hu[:, :, ~below] == -1024).any()
    assert f"{1 - below.mean():.0%} of the region" in region.warnings[-1]


def test_a_failed_registration_is_passed_on(scan: Scan, tmp_path: Path) -> None:
    write_nifti(scan.volume, tmp_path / "head.nii.gz")
    scan = whole(scan)
    air = Scan(hu=np.full_like(scan.hu, -1000), grid=scan.grid, slice_thickness_mm=4.0)
    with pytest.raises(RegistrationFailed, match="connected tissue"):
        region_of_interest(air, GridConfig(template=str(tmp_path / "head.nii.gz")))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "landmarks"),
    [
        ("cranium_ct.nii.gz", [(15, 15, -22), (-13, 15, -22), (8, 2, -33)]),
        ("ge_head_dicom", [(-5.4, 14.9, 7.5), (-7.8, 22.6, 5.8)]),
    ],
)
def test_real_heads_show_both_sides_of_the_sella(name: str, landmarks: list[tuple[float, ...]]) -> None:
    """Anterior clinoids and dorsum sellae, beside which the siphons run; calcified walls in the second scan."""
    template = DATA / "scct_template_hu.nii.gz"
    if not (template.exists() and (DATA / name).exists()):
        pytest.skip(f"needs {name} and the template in the shared data folder")
    config = GridConfig(template=str(template))
    region = region_of_interest(read_scan(DATA / name), config)
    assert all(abs(size - wanted) < 5 for size, wanted in zip(region.grid.size_mm, config.roi_mm, strict=True))
    index = region.grid.to_index(landmarks)
    margin = 8 / np.asarray(region.grid.spacing_mm)
    assert (index > margin).all()
    assert (index < np.asarray(region.grid.shape) - margin).all()
    assert not any("region of interest" in warning for warning in region.warnings)
    assert (region.hu[tuple(np.rint(index).astype(int).T)] >= 130).all()
    common = resample_image(region.volume, region.grid.with_spacing(config.spacing_mm, config.roi_mm))
    assert common.data.shape == (100, 80, 30)
    assert common.data.max() > 500
