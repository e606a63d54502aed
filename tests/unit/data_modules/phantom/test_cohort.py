from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from data_modules.cohort.leakage import check_leakage
from data_modules.cohort.table import read_cohort
from data_modules.errors import UserError
from data_modules.phantom import cohort as phantom_cohort
from data_modules.phantom.cohort import PatientPlan, make_phantom_cohort, plan_patient
from data_modules.phantom.imaging import (
    tilt_deg,
)
from tests.unit.data_modules.phantom.conftest import SETTINGS


def hashes(folder: Path) -> dict[str, str]:
    files = [f for f in sorted(folder.rglob("*")) if f.is_file()]
    return {str(f.relative_to(folder)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


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
        phantom_cohort, "_make_patient", lambda plan, **k: (again.append(plan.patient_id), paint(plan, **k))
    )
    make_phantom_cohort(out, **SETTINGS, workers=1)
    pretrain = {s.patient_id for s in read_cohort(made / "cohort.csv").split("pretrain")}
    assert set(again) == {"P0002", "P0004"} | ({f"P000{k}" for k in range(1, 6)} - pretrain)
    assert hashes(out) == hashes(made)


def test_interruption_leaves_no_cohort(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> None:
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
