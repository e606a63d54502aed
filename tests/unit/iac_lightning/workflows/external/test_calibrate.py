"""Temperature, bias and thresholds of predictions that came from elsewhere."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import special

from data_modules.cohort.table import read_cohort, write_cohort
from data_modules.errors import UserError
from data_modules.scan.geometry import Grid, Volume
from data_modules.scan.nifti import write_nifti
from iac_lightning.cli import main
from iac_lightning.config.schema import EvaluationConfig
from iac_lightning.evaluation.calibration.record import Calibration, describe_calibration
from iac_lightning.evaluation.calibration.threshold import CALIBRATED_GRID
from iac_lightning.evaluation.metrics.lesions import protocol_prior
from iac_lightning.report.models.calibration import calibration_section
from iac_lightning.report.models.operating_point import operating_point_section
from iac_lightning.report.page import ReportContext
from iac_lightning.runs.looks import record_look
from iac_lightning.workflows.external.calibrate import DOMAIN_HU
from iac_lightning.workflows.external.evaluate import evaluate_predictions, load_external
from iac_lightning.workflows.reports.development import has_development
from iac_lightning.workflows.reports.gallery import gallery_section
from iac_lightning.workflows.reports.model_results import external_result, overlays

SHAPE = (24, 20, 8)
GRID = Grid(SHAPE, np.diag([0.5, 0.5, 2.0, 1.0]))
DEV, TEST = ("d1", "d2", "e1", "f1"), ("t1", "t2", "u1")
SHARPER = 3.0
"""Every logit of these predictions is this many times too large."""


def scan(name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """HU, label and probability: in bright voxels labels are drawn with a probability that the model exaggerates."""
    rng = np.random.default_rng([ord(c) for c in name])
    logit = rng.normal(-2.5, 2.5, SHAPE)
    bright = rng.random(SHAPE) < 0.5
    label = bright & (rng.random(SHAPE) < special.expit(logit))
    hu = np.where(bright, rng.integers(130, 700, SHAPE), rng.integers(-900, 99, SHAPE)).astype(np.int16)
    # what is said of dark voxels must change nothing but the plain mask
    probability = np.where(bright, special.expit(SHARPER * logit), 0.001).astype(np.float32)
    return hu, label, probability


@pytest.fixture
def cohort(tmp_path: Path) -> Path:
    rows = []
    for name in (*DEV, *TEST):
        hu, label, probability = scan(name)
        split = "dev" if name in DEV else "test"
        write_nifti(Volume(hu, GRID), tmp_path / f"images/{name}.nii.gz")
        write_nifti(Volume(label, GRID), tmp_path / f"labels/{name}.nii.gz")
        write_nifti(Volume(probability, GRID), tmp_path / split / f"{name}_probability.nii.gz")
        paths = (f"images/{name}.nii.gz", f"labels/{name}.nii.gz")
        rows.append((name[0], name, *paths, split, 2.0, 0.5, 0.5, 2.0, "", ""))
    columns = ["patient_id", "series_id", "image", "label", "split", "slice_thickness_mm"]
    columns += ["spacing_x_mm", "spacing_y_mm", "spacing_z_mm", "kernel", "manufacturer"]
    write_cohort(tmp_path / "cohort.csv", pd.DataFrame(rows, columns=columns))
    return tmp_path / "cohort.csv"


def dice(mask: np.ndarray, label: np.ndarray) -> float:
    return 2 * (mask & label).sum() / (mask.sum() + label.sum())


def test_by_the_rule_of_the_projects_own_models(
    cohort: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    command = ["evaluate", "--predictions", str(tmp_path / "test"), "--dev-predictions", str(tmp_path / "dev")]
    command += ["--cohort", str(cohort), "--out", str(out), "--label", "other", "--workers", "1"]
    assert main([*command, "evaluation.operating_point=dice"]) == 0
    found = json.loads((out / "calibration.json").read_text())
    assert found["temperature"] == pytest.approx(SHARPER, rel=0.1)
    assert found["bias"] == pytest.approx(0, abs=0.15)

    scans = {name: scan(name) for name in (*DEV, *TEST)}
    domain = [(p[hu >= DOMAIN_HU].astype(float), y[hu >= DOMAIN_HU]) for hu, y, p in (scans[name] for name in DEV)]
    p, y = (np.concatenate(column) for column in zip(*domain, strict=True))
    after = special.expit(special.logit(np.clip(p, 1e-20, 1 - 1e-7)) / found["temperature"] + found["bias"])
    for when, q, rel in (("before", np.clip(p, 1e-20, 1 - 1e-7), 1e-4), ("after", after, 0.02)):  # by others' fits
        assert found[f"brier_{when}"] == pytest.approx(((q - y) ** 2).mean(), rel=rel)
        assert found[f"nll_{when}"] == pytest.approx(-np.where(y, np.log(q), np.log1p(-q)).mean(), rel=rel)
    assert found["after"] == "cross-validated by patient in 3 folds"
    assert found["ece_after"] < 0.3 * found["ece_before"]
    assert (found["n_voxels"], found["n_lesion_voxels"]) == (len(p), y.sum())
    assert (found["n_series"], found["n_patients"], found["n_lesion_voxels_unseen"]) == (4, 3, 0)
    assert "100 HU" in found["domain"]
    assert f"threshold alone: {found['plain_threshold']:g}" in describe_calibration(Calibration.from_dict(found))
    assert (out / "figures/reliability.png").stat().st_size > 10_000
    written = {path.name for path in out.iterdir() if not path.name.endswith(".lock")}
    assert written == {"calibration.json", "evaluation", "figures", "model.json", "signatures.json", "test_looks.jsonl"}

    def masks(name: str, threshold: float) -> tuple[np.ndarray, np.ndarray]:
        hu, _, probability = scans[name]
        logit = special.logit(np.clip(probability, 1e-20, np.float32(1 - 1e-7)).astype(float))
        mask = special.expit(logit / found["temperature"] + found["bias"]).astype(np.float32) >= np.float32(threshold)
        return protocol_prior(Volume(mask, GRID), Volume(hu, GRID)).data, mask

    thresholds = found["operating_point"]["threshold"], found["plain_threshold"]
    for k, prefix in enumerate(("", "plain_")):
        means = [np.mean([dice(masks(name, t)[k], scans[name][1]) for name in DEV]) for t in CALIBRATED_GRID]
        assert means[list(CALIBRATED_GRID).index(thresholds[k])] == pytest.approx(max(means))
        table = pd.read_csv(out / "evaluation/test.csv").set_index("series_id")
        for name in TEST:
            expected = dice(masks(name, thresholds[k])[k], scans[name][1])
            assert table.loc[name, f"{prefix}dice"] == pytest.approx(expected)
    for name in TEST:
        assert table.loc[name, "uncalibrated_dice"] == pytest.approx(dice(scans[name][2] >= 0.5, scans[name][1]))
    assert thresholds[0] != thresholds[1]  # so that the two were told apart
    summary = json.loads((out / "evaluation/test.json").read_text())
    applied = summary["calibration"]
    assert {key: applied[key] for key in ("temperature", "bias")} == {k: found[k] for k in ("temperature", "bias")}
    assert (summary["threshold"], summary["plain_threshold"]) == thresholds
    assert applied["file"] == "calibration.json"
    p, y = (
        np.concatenate([part[scans[name][0] >= DOMAIN_HU].astype(float) for name in TEST for part in [scans[name][k]]])
        for k in (2, 1)
    )
    after = special.expit(special.logit(np.clip(p, 1e-20, 1 - 1e-7)) / found["temperature"] + found["bias"])
    reliability = summary["reliability"]["voxels"]
    for when, q in (("before", p), ("after", after)):
        assert reliability[when]["brier"] == pytest.approx(((q - y) ** 2).mean(), rel=1e-4)
        assert reliability[when]["n_voxels"] == len(p)
    assert summary["reliability"]["lesions"]["after"]["n_candidates"] > 0
    assert "calibrated on 4 development scans" in capsys.readouterr().out


def test_neither_workers_nor_the_form_of_the_files_matter(cohort: Path, tmp_path: Path) -> None:
    for split, names in (("dev", DEV), ("test", TEST)):
        for name in names:
            p = scan(name)[2]
            write_nifti(Volume(p > 0.5, GRID), tmp_path / f"nnunet_{split}/{name}.nii.gz")
            np.savez(tmp_path / f"nnunet_{split}/{name}.npz", probabilities=np.stack([1 - p.T, p.T]))
    for folder, workers in (("", 1), ("nnunet_", 2)):
        evaluate_predictions(
            tmp_path / f"{folder}test",
            cohort,
            "test",
            tmp_path / f"out{workers}",
            dev_predictions=tmp_path / f"{folder}dev",
            workers=workers,
        )
    files = ("calibration.json", "evaluation/test.csv")
    one, two = ([(tmp_path / f"out{workers}" / file).read_text() for file in files] for workers in (1, 2))
    assert one[1] == two[1]
    known, other = json.loads(one[0]), json.loads(two[0])
    assert known.pop("depends_on") != other.pop("depends_on")  # of the form of the files
    assert known == other


def test_a_map_of_zeros_among_four_patients_is_no_crash(cohort: Path, tmp_path: Path) -> None:
    """One patient of whom nothing is said."""
    table = pd.read_csv(cohort, keep_default_na=False)
    write_cohort(cohort, table.assign(patient_id=table["series_id"]))
    write_nifti(Volume(np.zeros(SHAPE, np.float32), GRID), tmp_path / "dev/d2_probability.nii.gz")
    out = tmp_path / "out"
    evaluate_predictions(tmp_path / "test", cohort, "test", out, dev_predictions=tmp_path / "dev", workers=1)
    found = json.loads((out / "calibration.json").read_text())
    assert (found["n_series"], found["n_patients"]) == (4, 4)
    assert found["ece_before"] > 0
    assert found["ece_before_ci95"] is None  # of three patients with voxels


def test_thresholds_go_by_the_strata_of_the_settings(cohort: Path, tmp_path: Path) -> None:
    evaluate_predictions(
        tmp_path / "test",
        cohort,
        "test",
        tmp_path / "out",
        dev_predictions=tmp_path / "dev",
        workers=1,
        evaluation=EvaluationConfig(thickness_edges_mm=(1.5, 3.0)),
    )
    found = json.loads((tmp_path / "out/calibration.json").read_text())
    for by_thickness in (found["plain_thickness"], found["operating_point"]["thickness"]):
        assert [(s["above_mm"], s["up_to_mm"]) for s in by_thickness["strata"]] == [(0, 1.5), (1.5, 3), (3, None)]
    assert found["thickness_edges_mm"] == [1.5, 3.0]


def test_the_report_takes_the_calibrated_masks(cohort: Path, tmp_path: Path) -> None:
    write_cohort(cohort, pd.read_csv(cohort, keep_default_na=False).assign(spacing_z_mm=2.5))
    out = tmp_path / "out"
    for split in ("test", "dev"):
        evaluate_predictions(
            tmp_path / split, cohort, split, out, dev_predictions=tmp_path / "dev", label="other", workers=1
        )
    assert has_development(out / "evaluation", "test")
    remarks = json.loads((out / "evaluation/test_warnings.json").read_text())
    assert remarks["n_with_warnings"] == remarks["n_series"] == len(TEST)  # the table says 2.5 mm instead of 2
    assert remarks["kinds"] == [["voxel size by the cohort table is not that of the file", len(TEST)]]
    model, look = load_external(out), record_look(out, "report", "test", "", None)
    result = external_result(model, "test", look)
    written = json.loads((out / "calibration.json").read_text())
    assert result.threshold == written["operating_point"]["threshold"]
    assert result.calibration == written
    series = {item.series_id: item for item in read_cohort(cohort).series}
    names = {name: f"scan of {name}" for name in series}
    examples = overlays(model, result, series, names, "test", look)
    assert [o.kind for o in examples] == ["best", "median", "worst"]
    context = ReportContext(title="T", question="Q", split="test", seed=0)
    sections = {"other": result}, context
    point, quality = operating_point_section(*sections), calibration_section(sections[0])
    assert point is not None
    assert quality is not None
    assert point.tables[0].rows[0][0] == "other: chosen, for balanced"
    assert len(point.tables[0].rows) == 1 + len(written["operating_point"]["alternatives"])
    assert [figure.name for figure in point.figures] == ["froc"]
    assert "voxels of the whole scan" in quality.tables[0].legend
    gallery = gallery_section({"other": model}, {"other": result}, series, names, context, {"other": look})
    found = {figure.name: figure for figure in gallery.figures}
    assert list(found) == ["failure_1_missed", "failure_1_false", "failure_1_worst"]
    assert examples[-1].scan in found["failure_1_worst"].alt
    assert all("scan of " in figure.caption and "missed" in figure.alt for figure in found.values())
    (out / "calibration.json").write_text(json.dumps(written | {"bias": written["bias"] + 1}))
    assert external_result(model, "test", look).calibration is None  # made anew since
    evaluate_predictions(tmp_path / "dev", cohort, "dev", out, threshold=0.5, label="other", workers=1)
    assert external_result(model, "dev", look).calibration is None
    assert not has_development(out / "evaluation", "test")  # another threshold is another model


def test_misuse(cohort: Path, tmp_path: Path) -> None:
    test, dev = tmp_path / "test", tmp_path / "dev"
    with pytest.raises(UserError, match="one of the two"):
        evaluate_predictions(test, cohort, "test", threshold=0.4, dev_predictions=dev)
    with pytest.raises(UserError, match="nowhere: no such folder"):
        evaluate_predictions(test, cohort, "test", dev_predictions=tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"4 series of split 'dev'(?s:.*)d1: no prediction(?s:.*)t1_probability"):
        evaluate_predictions(test, cohort, "test", dev_predictions=test)
    for name in DEV:
        write_nifti(Volume(scan(name)[2] > 0.5, GRID), tmp_path / f"masks/{name}.nii.gz")
        write_nifti(Volume(np.zeros(SHAPE, np.float32), GRID), tmp_path / f"zeros/{name}.nii.gz")
    with pytest.raises(UserError, match=r"d1\.nii\.gz: a mask; a threshold needs probabilities"):
        evaluate_predictions(test, cohort, "test", dev_predictions=tmp_path / "masks")
    with pytest.raises(UserError, match="no probability above 0"):
        evaluate_predictions(test, cohort, "test", dev_predictions=tmp_path / "zeros", workers=1)
    for name in DEV:
        write_nifti(Volume(np.zeros(SHAPE, bool), GRID), tmp_path / f"labels/{name}.nii.gz")
    with pytest.raises(UserError, match="with and without lesion"):
        evaluate_predictions(test, cohort, "test", dev_predictions=dev, workers=1)
    assert not (test / "evaluation").exists()
    assert not list(test.glob(".voxels_*"))
