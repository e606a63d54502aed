"""Measures of a mask, where the region is looked for, and what a failed scan leaves behind."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib.image
import nibabel as nib
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from benchmarks.bench import throwaway_run
from data_modules.errors import UserError
from data_modules.prepare.registration import Registration, RegistrationFailed
from data_modules.prepare.roi import find_region_of_interest
from data_modules.scan.geometry import Grid, Volume
from data_modules.scan.nifti import read_mask, read_probability, write_nifti
from data_modules.scan.reading import read_scan
from data_modules.scan.scan import Scan
from iac_lightning.config.schema import ExperimentConfig
from iac_lightning.evaluation.calibration.record import Calibration
from iac_lightning.evaluation.calibration.scaling import Scaling
from iac_lightning.evaluation.clinical.reference import NOT_KNOWN
from iac_lightning.runs.directory import Run, load_run
from iac_lightning.workflows import predict as workflow
from iac_lightning.workflows.calibrate import load_calibrated
from iac_lightning.workflows.output_folder import output_folder, publish
from iac_lightning.workflows.predict import OUTPUTS, find_region, measure_lesions, predict, registration_facts, segment
from iac_lightning.workflows.trained import CalibratedModel
from tests.dicom_series import START, stepping, tilted, write_series
from tests.nifti_files import save


def scan_of(shape: tuple[int, int, int], spacing: tuple[float, float, float]) -> Scan:
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = -10, 20, 30
    hu = np.full(shape, 40, dtype=np.int16)
    hu[0] = -1000
    return Scan(hu=hu, grid=Grid(shape, affine), slice_thickness_mm=spacing[2])


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path / "run", ExperimentConfig(name="a"))


def wrote_earlier(out: Path) -> None:
    """Outputs as an earlier call leaves them."""
    with output_folder(out, OUTPUTS, (), out) as staging:
        for name in OUTPUTS[:-1]:
            (staging / name).write_text("earlier")
        publish(staging, {"volume_mm3": 1.0})


def test_volume_centre_and_peak_of_each_lesion() -> None:
    region = scan_of((10, 10, 6), (0.5, 0.5, 6.0))  # 1.5 mm³ a voxel
    hu = region.hu.copy()
    mask = np.zeros(hu.shape, dtype=bool)
    mask[1, 1, 1] = mask[2, 2, 2] = True  # joined over a corner: one lesion in 26-connectivity
    mask[6:9, 5, 4] = True
    hu[2, 2, 2], hu[7, 5, 4], hu[9, 9, 5] = 300, 900, 1200
    region = Scan(hu=hu, grid=region.grid, slice_thickness_mm=6.0)
    found = measure_lesions(Volume(mask, region.grid), region)
    assert found["n_lesions"] == 2
    assert found["volume_mm3"] == pytest.approx(7.5)
    large, small = found["lesions"]
    assert (large["volume_mm3"], small["volume_mm3"]) == (pytest.approx(4.5), pytest.approx(3.0))
    assert (large["max_hu"], small["max_hu"]) == (900, 300)
    # voxel (7, 5, 4): RAS = (−10 + 3.5, 20 + 2.5, 30 + 24); LPS turns x and y
    assert large["center_lps_mm"] == pytest.approx([6.5, -22.5, 54.0])
    assert small["center_lps_mm"] == pytest.approx([10 - 0.75, -20.75, 39.0])


def test_an_empty_mask_has_no_lesions() -> None:
    region = scan_of((4, 4, 4), (1.0, 1.0, 1.0))
    found = measure_lesions(Volume(np.zeros((4, 4, 4), dtype=bool), region.grid), region)
    assert found == {"volume_mm3": 0.0, "n_lesions": 0, "lesions": []}


def test_a_scan_of_about_the_regions_size_is_taken_around_its_centre(run: Run) -> None:
    scan = scan_of((100, 90, 30), (1.0, 1.0, 2.0))
    region, registration = find_region(scan, run.config, None)
    assert registration is None
    assert region.grid.size_mm == pytest.approx((80, 64, 48))
    np.testing.assert_allclose(region.grid.center_ras_mm, scan.grid.center_ras_mm, atol=1.0)


def test_what_the_built_in_head_model_does_not_fit_needs_a_template(run: Run) -> None:
    find_region(scan_of((200, 149, 20), (1.0, 1.0, 1.0)), run.config, None)
    find_region(scan_of((149, 200, 20), (1.0, 1.0, 1.0)), run.config, None)
    with pytest.raises(UserError, match=r"could not be registered to built-in head model: .*--template"):
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
    facts = registration_facts(Registration(np.eye(4), 0.9, True, "", "t.nii.gz"))
    assert facts == {"template": "t.nii.gz", "similarity": 0.9, "template_to_scan_ras": np.eye(4).tolist()}


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
    wrote_earlier(out)
    (out / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=complaint):
        predict(tmp_path / name, out, load_calibrated(load_run(throwaway_run(tmp_path))), template)
    assert [p.name for p in out.iterdir()] == ["notes.txt"]


def test_a_run_that_cannot_predict_is_known_before_the_scan_is_read(run: Run) -> None:
    with pytest.raises(UserError, match="no checkpoint yet"):
        load_calibrated(run)


SHAPE = (20, 16, 12)
NEAR, FAR = (slice(4, 6), 4, 4), (slice(4, 6), 10, 8)
"""Two pairs of neighbours that the network is unsure of: raw 0.6, calibrated sigmoid(0.405 / 2 − 1) = 0.31."""
SURE, DARK, ALONE = (slice(12, 14), 4, 4), (slice(12, 14), 10, 8), (17, 4, 9)
"""Raw 0.9, calibrated sigmoid(2.197 / 2 − 1) = 0.525: two bright neighbours, two dark ones, and a bright single."""
HALF = (slice(8, 10), 13, 2)
"""Raw 0.5, calibrated sigmoid(−1) = 0.269."""


def masks_of(*places: tuple[Any, ...]) -> np.ndarray:
    mask = np.zeros(SHAPE, dtype=bool)
    for place in places:
        mask[place] = True
    return mask


@pytest.fixture
def calibrated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CalibratedModel:
    """A model of temperature 2 and bias −1 that cuts at 0.5 (under the protocol at 0.3), and a scan for it."""
    hu = np.full(SHAPE, 40, dtype=np.int16)
    for at in (NEAR, FAR, SURE, ALONE, HALF):
        hu[at] = 300
    hu[DARK], hu[0] = 129, -1000
    affine = np.diag([1.0, 1.0, 3.0, 1.0])
    write_nifti(Volume(hu, Grid(SHAPE, affine)), tmp_path / "scan.nii.gz")
    raw = np.zeros(SHAPE, dtype=np.float32)
    for value, places in ((0.6, (NEAR, FAR)), (0.9, (SURE, DARK, ALONE)), (0.5, (HALF,))):
        for at in places:
            raw[at] = value

    def raw_probability(network: Any, scan: Scan, region: Scan, config: Any, device: Any) -> Volume:
        return workflow.place(Volume(raw, scan.grid), region.grid, 0.0)

    monkeypatch.setattr(workflow, "predict_scan", raw_probability)
    config = ExperimentConfig(name="a")
    config.data.grid.roi_mm = (20.0, 16.0, 36.0)
    point = {"aim": "balanced", "rule": "protocol", "least_lesion_mm3": 0.0, "threshold": 0.3}
    calibration = {"temperature": 2.0, "bias": -1.0, "operating_point": {**point, "thickness": {"used": False}}}
    calibration |= {"plain_threshold": 0.5, "plain_thickness": {"used": False}, "n_series": 9, "n_patients": 7}
    return CalibratedModel(
        config, torch.nn.Identity(), torch.device("cpu"), "0123", [], Calibration.from_dict(calibration)
    )


def test_the_probability_is_calibrated_before_it_is_cut(calibrated: CalibratedModel, tmp_path: Path) -> None:
    result = predict(tmp_path / "scan.nii.gz", tmp_path / "out", calibrated, slice_thickness_mm=3.0)
    found = read_probability(tmp_path / "out/probability.nii.gz").data
    for place, logit in ((NEAR, np.log(0.6 / 0.4)), (SURE, np.log(9)), (HALF, 0.0)):
        np.testing.assert_allclose(found[place], 1 / (1 + np.exp(1 - logit / 2)), rtol=1e-4)
    assert (found > 0).sum() == 11  # nothing where the network says nothing
    plain = read_mask(tmp_path / "out/mask_plain.nii.gz").data  # raw 0.6 lies above 0.5, calibrated 0.31 does not
    np.testing.assert_array_equal(plain, masks_of(SURE, DARK, ALONE))
    assert result["volume_plain_mm3"] == pytest.approx(5 * 3)
    assert result["plain_threshold"] == 0.5
    assert result["calibration"] == {"temperature": 2.0, "bias": -1.0, "n_series": 9, "n_patients": 7}


def test_the_mask_is_cut_at_the_operating_point(calibrated: CalibratedModel, tmp_path: Path) -> None:
    result = predict(tmp_path / "scan.nii.gz", tmp_path / "out", calibrated, slice_thickness_mm=3.0)
    mask = read_mask(tmp_path / "out/mask.nii.gz").data  # 0.31 is enough; darker or alone is not
    np.testing.assert_array_equal(mask, masks_of(NEAR, FAR, SURE))
    assert result["volume_mm3"] == pytest.approx(6 * 3)
    assert (result["n_lesions"], result["threshold"], result["rule"]) == (3, 0.3, "protocol")
    point = replace(calibrated.calibration.point, least_lesion_mm3=7.0)  # each of the three has 6 mm³
    stricter = replace(calibrated, calibration=replace(calibrated.calibration, point=point))
    result = predict(tmp_path / "scan.nii.gz", tmp_path / "out", stricter, slice_thickness_mm=3.0)
    assert (result["volume_mm3"], result["least_lesion_mm3"]) == (0, 7.0)
    assert not read_mask(tmp_path / "out/mask.nii.gz").data.any()


@pytest.mark.parametrize(
    ("thickness_mm", "plain_cut", "cut", "n_plain", "n_voxels"), [(3.0, 0.2, 0.6, 11, 0), (5.0, 0.5, 0.2, 5, 8)]
)
def test_both_masks_follow_the_thresholds_of_the_scans_slice_thickness(
    calibrated: CalibratedModel, tmp_path: Path, thickness_mm: float, plain_cut: float, cut: float, n_plain: int,
    n_voxels: int,
) -> None:  # fmt: skip
    def strata(thin: float | None, thick: float | None) -> dict[str, Any]:
        limits = ((0.0, 4.0, thin), (4.0, None, thick))
        return {"used": True, "strata": [{"above_mm": a, "up_to_mm": b, "threshold": t} for a, b, t in limits]}

    record = {**calibrated.calibration.record, "plain_thickness": strata(0.2, None)}
    record["operating_point"] = {**record["operating_point"], "thickness": strata(0.6, 0.2)}
    model = replace(calibrated, calibration=Calibration.from_dict(record))
    result = predict(tmp_path / "scan.nii.gz", tmp_path / "out", model, slice_thickness_mm=thickness_mm)
    assert (result["threshold"], result["plain_threshold"]) == (cut, plain_cut)
    assert read_mask(tmp_path / "out/mask.nii.gz").data.sum() == n_voxels
    assert read_mask(tmp_path / "out/mask_plain.nii.gz").data.sum() == n_plain


def test_the_result_says_where_what_and_by_whom(calibrated: CalibratedModel, tmp_path: Path) -> None:
    source, out = tmp_path / "scan.nii.gz", tmp_path / "deep" / "out"
    result = predict(source, out, calibrated, slice_thickness_mm=2.5)
    assert json.loads((out / "result.json").read_text()) == result
    assert sorted(p.name for p in out.iterdir()) == sorted(OUTPUTS)
    lesions = result.pop("lesions")
    assert sorted(result.pop("files")) == sorted(OUTPUTS)
    assert [lesion["max_hu"] for lesion in lesions] == [300, 300, 300]
    assert result == {
        "volume_mm3": pytest.approx(18),
        "n_lesions": 3,
        "volume_interval": {"low_mm3": None, "high_mm3": None, "unknown": NOT_KNOWN},
        "risk": {"group": None, "set": None, "unknown": NOT_KNOWN},
        "interval_holds": False,
        "volume_plain_mm3": pytest.approx(15),
        "slice_thickness_mm": 2.5,
        "slice_thickness_range_mm": [2.5, 2.5],
        "spacing_mm": [1.0, 1.0, 3.0],
        "roi_center_lps_mm": pytest.approx([-9.5, -7.5, 16.5]),
        "roi_size_mm": [20.0, 16.0, 36.0],
        "threshold": 0.3,
        "rule": "protocol",
        "least_lesion_mm3": 0.0,
        "operating_point": calibrated.calibration.point.to_dict(),
        "plain_threshold": 0.5,
        "calibration": {"temperature": 2.0, "bias": -1.0, "n_series": 9, "n_patients": 7},
        "registration": None,
        "training_domain": None,
        "is_phantom": False,
        "compared": None,
        "run": "a",
        "checkpoint_sha256": "0123",
        "warnings": ["what this model has learnt from is not known: whether this scan is like that cannot be told"],
        "note": "Research software: not a medical device.",
    }


def test_a_scan_may_be_segmented_again_into_the_same_folder(calibrated: CalibratedModel, tmp_path: Path) -> None:
    source, out = tmp_path / "scan.nii.gz", tmp_path / "out"
    first = predict(source, out, calibrated, slice_thickness_mm=3.0)
    other = replace(
        calibrated, calibration=replace(calibrated.calibration, scaling=Scaling(temperature=2.0, bias=-9.0))
    )
    assert predict(source, out, other, slice_thickness_mm=3.0)["volume_mm3"] == 0
    assert not read_mask(out / "mask.nii.gz").data.any()
    assert predict(source, out, calibrated, slice_thickness_mm=3.0) == first


def test_a_thickness_that_is_not_the_files_is_a_warning(calibrated: CalibratedModel, tmp_path: Path) -> None:
    (tmp_path / "scan.json").write_text(json.dumps({"SliceThickness": 3.0}))
    found = segment(tmp_path / "scan.nii.gz", calibrated, slice_thickness_mm=5.0).result
    assert found["slice_thickness_mm"] == 3.0
    warning = found["warnings"][0]
    assert warning.startswith("slice thickness by the option slice_thickness_mm is not that of the file: 5 mm")


def test_maps_cover_the_whole_scan_and_hold_nothing_outside_the_region(
    calibrated: CalibratedModel, tmp_path: Path
) -> None:
    calibrated.config.data.grid.roi_mm = (10.0, 10.0, 18.0)
    predict(tmp_path / "scan.nii.gz", tmp_path / "out", calibrated, slice_thickness_mm=3.0)
    scan = read_scan(tmp_path / "scan.nii.gz", slice_thickness_mm=3.0)
    inside = np.zeros(SHAPE, dtype=bool)
    inside[5:15, 3:13, 3:9] = True
    plain = read_mask(tmp_path / "out/mask_plain.nii.gz", like=scan.grid).data
    np.testing.assert_array_equal(plain, masks_of(SURE, DARK))  # the single voxel lies outside
    mask = read_mask(tmp_path / "out/mask.nii.gz", like=scan.grid).data
    np.testing.assert_array_equal(mask, masks_of(SURE))  # the others lost their neighbour at the region's edge
    probability = read_probability(tmp_path / "out/probability.nii.gz", like=scan.grid).data
    assert (probability[~inside] == 0).all()
    assert (probability[inside] > 0).sum() == 6


def test_the_picture_shows_the_mask_on_the_region(
    calibrated: CalibratedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[Any] = []

    def draw(*what: Any) -> Figure:
        shown.extend(what)
        return Figure()

    monkeypatch.setattr(workflow, "montage_figure", draw)
    predict(tmp_path / "scan.nii.gz", tmp_path / "out", calibrated, slice_thickness_mm=3.0)
    volume, mask, probability, (first, second, third), alarm, axis = shown
    assert (first, second) == ("18 mm³ in 3 lesions", NOT_KNOWN)
    assert third == "slices of 3 mm; model a, learnt from scans that are not known"
    assert (len(alarm), axis) == (1, 2)
    assert mask.data.sum() == 6
    assert probability.data.max() == pytest.approx(0.525, abs=0.001)
    assert volume.data.max() == 300
    width, height = matplotlib.image.imread(tmp_path / "out/overlay.png").shape[1::-1]
    assert (width, height) == (704, 528)  # 6.4 × 4.8 inches at 110 dots


def test_series_thickness_and_template_reach_the_reader(
    calibrated: CalibratedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []

    def read(source: Path, series: str | None, slice_thickness_mm: float | None) -> Scan:
        seen.append((source, series, slice_thickness_mm))
        return read_scan(source, slice_thickness_mm=slice_thickness_mm)

    def locate(scan: Scan, grid: Any) -> Any:
        seen.append(grid.template)
        return find_region_of_interest(scan, replace(grid, template=None))[0], Registration(
            np.eye(4), 0.9, True, "", "template.nii.gz"
        )

    monkeypatch.setattr(workflow, "read_scan", read)
    monkeypatch.setattr(workflow, "find_region_of_interest", locate)
    template = tmp_path / "template.nii.gz"
    found = segment(tmp_path / "scan.nii.gz", calibrated, template, "1.2.3", 2.0)
    assert seen == [(tmp_path / "scan.nii.gz", "1.2.3", 2.0), str(template)]
    assert found.result["registration"] == {
        "template": "template.nii.gz",
        "similarity": 0.9,
        "template_to_scan_ras": np.eye(4).tolist(),
    }
    result = predict(tmp_path / "scan.nii.gz", tmp_path / "out", calibrated, template, "1.2.3", 2.0)
    assert seen[2:] == seen[:2]
    result.pop("files")
    assert result == found.result


def test_maps_of_a_sheared_file_lie_on_its_own_voxels(
    calibrated: CalibratedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    affine = np.diag([1.0, 1.0, 3.0, 1.0])
    affine[:3, 2] = (0.4, 1.3, 2.8)  # slices slide against each other
    hu = np.full(SHAPE, 40, dtype=np.int16)
    hu[0] = -1000
    hu[4:8, 4:8, 3:7] = 900
    image = nib.load(save(tmp_path / "plain.nii.gz", hu, affine))
    image.set_qform(affine, code=2)
    nib.save(image, tmp_path / "sheared.nii.gz")
    (tmp_path / "sheared.json").write_text('{"SliceThickness": 3.0}')

    def bright(network: Any, scan: Scan, region: Scan, config: Any, device: Any) -> Volume:
        return Volume(np.where(region.hu > 470, np.float32(0.9), np.float32(0)), region.grid)

    monkeypatch.setattr(workflow, "predict_scan", bright)
    calibrated.config.data.grid.roi_mm = (40.0, 40.0, 60.0)
    result = predict(tmp_path / "sheared.nii.gz", tmp_path / "out", calibrated)
    scan_image = nib.load(tmp_path / "sheared.nii.gz")
    for name in ("mask", "mask_plain", "probability"):
        image = nib.load(tmp_path / f"out/{name}.nii.gz")
        assert image.shape == SHAPE
        np.testing.assert_allclose(image.affine, affine, atol=1e-6)
        assert image.header["qform_code"] == 2  # as in the scan: programs that go by it see both at one place
        np.testing.assert_array_equal(image.get_qform(), scan_image.get_qform())
    mask = np.asanyarray(nib.load(tmp_path / "out/mask.nii.gz").dataobj) > 0
    probability = np.asanyarray(nib.load(tmp_path / "out/probability.nii.gz").dataobj)
    plain = np.asanyarray(nib.load(tmp_path / "out/mask_plain.nii.gz").dataobj) > 0
    np.testing.assert_array_equal(plain, probability >= result["plain_threshold"])
    voxel_mm3 = abs(np.linalg.det(affine[:3, :3]))
    assert result["volume_mm3"] == pytest.approx(mask.sum() * voxel_mm3)  # the volume of the mask that is written
    assert 2 * (mask & (hu > 470)).sum() > 0.85 * (mask.sum() + (hu > 470).sum())
    scan = read_scan(tmp_path / "sheared.nii.gz")
    assert read_mask(tmp_path / "out/mask.nii.gz", like=scan).data.sum() == mask.sum()


def test_a_folder_of_dicom_gets_a_scan_to_lay_the_mask_on(
    calibrated: CalibratedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_series(tmp_path / "dicom", stepping(START, np.arange(6) * 3.0), tilted(10))
    calibrated.config.data.grid.roi_mm = (20.0, 16.0, 10.0)
    monkeypatch.setattr(
        workflow,
        "predict_scan",
        lambda network, scan, region, config, device: Volume(np.zeros(region.hu.shape, np.float32), region.grid),
    )
    result = predict(tmp_path / "dicom", tmp_path / "out", calibrated)
    scan = read_scan(tmp_path / "dicom")
    written = read_scan(tmp_path / "out/scan.nii.gz", slice_thickness_mm=3.0)
    np.testing.assert_array_equal(written.hu, scan.hu)
    assert written.grid.same_as(scan.grid)
    assert read_mask(tmp_path / "out/mask.nii.gz", like=written.grid).data.shape == scan.hu.shape
    assert sorted(result["files"]) == sorted((*OUTPUTS, "scan.nii.gz"))


def test_a_folder_with_a_mask_of_somebodys_own_is_refused_before_anything_is_read(
    calibrated: CalibratedModel, tmp_path: Path
) -> None:
    (tmp_path / "mask.nii.gz").write_text("mine")
    (tmp_path / "scan.nii.gz").write_text("damaged")
    with pytest.raises(UserError, match=r"holds mask\.nii\.gz, which `iac predict` did not write"):
        predict(tmp_path / "scan.nii.gz", tmp_path, calibrated)
    assert (tmp_path / "mask.nii.gz").read_text() == "mine"
    assert (tmp_path / "scan.nii.gz").read_text() == "damaged"
