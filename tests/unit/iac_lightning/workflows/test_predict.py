"""Measures of a mask, where the region is looked for, and what a failed scan leaves behind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.bench import throwaway_run
from data_modules.errors import UserError
from data_modules.prepare.registration import Registration, RegistrationFailed
from data_modules.scan.geometry import Grid, Volume
from data_modules.scan.scan import Scan, write_nifti
from iac_lightning.config.schema import ExperimentConfig
from iac_lightning.runs.directory import Run, load_run
from iac_lightning.workflows import predict as workflow
from iac_lightning.workflows.calibrate import load_calibrated
from iac_lightning.workflows.predict import OUTPUTS, find_region, measure, predict, registration_facts


def scan_of(shape: tuple[int, int, int], spacing: tuple[float, float, float]) -> Scan:
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = -10, 20, 30
    hu = np.full(shape, 40, dtype=np.int16)
    hu[0] = -1000
    return Scan(hu=hu, grid=Grid(shape, affine), slice_thickness_mm=spacing[2])


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path / "run", ExperimentConfig(name="a"))


def test_volume_centre_and_peak_of_each_lesion() -> None:
    region = scan_of((10, 10, 6), (0.5, 0.5, 4.0))  # 1 mm³ a voxel
    hu = region.hu.copy()
    mask = np.zeros(hu.shape, dtype=bool)
    mask[1, 1, 1] = mask[2, 2, 2] = True  # joined over a corner: one lesion in 26-connectivity
    mask[6:9, 5, 4] = True
    hu[2, 2, 2], hu[7, 5, 4], hu[9, 9, 5] = 300, 900, 1200
    region = Scan(hu=hu, grid=region.grid, slice_thickness_mm=4.0)
    found = measure(Volume(mask, region.grid), region)
    assert found["n_lesions"] == 2
    assert found["volume_mm3"] == pytest.approx(5.0)
    large, small = found["lesions"]
    assert (large["volume_mm3"], small["volume_mm3"]) == (pytest.approx(3.0), pytest.approx(2.0))
    assert (large["max_hu"], small["max_hu"]) == (900, 300)
    # voxel (7, 5, 4): RAS = (−10 + 3.5, 20 + 2.5, 30 + 16); LPS turns x and y
    assert large["center_lps_mm"] == pytest.approx([6.5, -22.5, 46.0])
    assert small["center_lps_mm"] == pytest.approx([10 - 0.75, -20.75, 36.0])


def test_an_empty_mask_has_no_lesions() -> None:
    region = scan_of((4, 4, 4), (1.0, 1.0, 1.0))
    found = measure(Volume(np.zeros((4, 4, 4), dtype=bool), region.grid), region)
    assert found == {"volume_mm3": 0.0, "n_lesions": 0, "lesions": []}


def test_a_scan_of_about_the_regions_size_is_taken_around_its_centre(run: Run) -> None:
    scan = scan_of((100, 90, 30), (1.0, 1.0, 2.0))
    region, registration = find_region(scan, run.config, None)
    assert registration is None
    assert region.grid.size_mm == pytest.approx((80, 64, 48))
    np.testing.assert_allclose(region.grid.center_ras_mm, scan.grid.center_ras_mm, atol=1.0)


def test_a_whole_head_needs_a_template(run: Run) -> None:
    find_region(scan_of((200, 149, 20), (1.0, 1.0, 1.0)), run.config, None)
    find_region(scan_of((149, 200, 20), (1.0, 1.0, 1.0)), run.config, None)
    with pytest.raises(UserError, match=r"covers 150 × 150 × 20 mm, a whole head.*--template"):
        find_region(scan_of((150, 150, 20), (1.0, 1.0, 1.0)), run.config, None)


def test_the_size_is_that_along_the_patients_axes(run: Run) -> None:
    affine = np.array([[0, 0, 1.0, 0], [1.0, 0, 0, 0], [0, 1.0, 0, 0], [0, 0, 0, 1]])  # array axes are y, z, x
    hu = np.full((60, 40, 120), 40, dtype=np.int16)
    region, _ = find_region(Scan(hu=hu, grid=Grid(hu.shape, affine), slice_thickness_mm=1.0), run.config, None)
    assert region.grid.size_mm == pytest.approx((80, 64, 48))


def test_the_template_of_the_command_goes_before_that_of_the_run(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(workflow, "find_region_of_interest", lambda scan, grid: seen.append(grid.template))
    scan = scan_of((200, 20, 20), (1.0, 1.0, 1.0))
    run.config.data.grid.template = "own.nii.gz"
    find_region(scan, run.config, None)
    find_region(scan, run.config, Path("other.nii.gz"))
    assert seen == ["own.nii.gz", "other.nii.gz"]
    assert run.config.data.grid.template == "own.nii.gz"


def test_registration_facts() -> None:
    assert registration_facts(None) is None
    facts = registration_facts(Registration(np.eye(4), 0.9, True, ""))
    assert facts == {"similarity": 0.9, "template_to_scan_ras": np.eye(4).tolist()}


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("absent.nii.gz", "no such file"),
        ("whole_head.nii.gz", "--template"),
        ("unregistrable.nii.gz", "does not fit"),
    ],
)
def test_a_failed_scan_leaves_no_mask_not_even_an_earlier_one(
    name: str, complaint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise RegistrationFailed("does not fit")

    template = None
    if name == "whole_head.nii.gz":
        write_nifti(scan_of((100, 100, 40), (2.0, 2.0, 4.0)).volume, tmp_path / name)
    if name == "unregistrable.nii.gz":
        write_nifti(scan_of((20, 20, 10), (2.0, 2.0, 4.0)).volume, tmp_path / name)
        template = tmp_path / "template.nii.gz"
        monkeypatch.setattr(workflow, "find_region_of_interest", fail)
    out = tmp_path / "out"
    out.mkdir()
    for kept in (*OUTPUTS, "notes.txt"):
        (out / kept).write_text("earlier")
    with pytest.raises(UserError, match=complaint):
        predict(tmp_path / name, out, load_calibrated(load_run(throwaway_run(tmp_path))), template)
    assert [p.name for p in out.iterdir()] == ["notes.txt"]


def test_a_run_that_cannot_predict_is_known_before_the_scan_is_read(run: Run) -> None:
    with pytest.raises(UserError, match="no checkpoint yet"):
        load_calibrated(run)
