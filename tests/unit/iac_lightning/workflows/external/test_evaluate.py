from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from data_modules.cohort.table import read_cohort, write_cohort
from data_modules.errors import UserError
from data_modules.scan.geometry import Grid, Volume
from data_modules.scan.nifti import write_nifti
from iac_lightning.cli import main
from iac_lightning.config.schema import EvaluationConfig
from iac_lightning.evaluation.clinical.readers import SECOND, readings
from iac_lightning.evaluation.tables.model_result import ModelResult
from iac_lightning.evaluation.tables.series_table import read_series_table
from iac_lightning.report.models.readers import readers_section
from iac_lightning.report.page import ReportContext
from iac_lightning.runs.looks import looks, record_look
from iac_lightning.workflows.external import evaluate as external
from iac_lightning.workflows.external.evaluate import evaluate_predictions, load_external
from iac_lightning.workflows.external.predictions import find_predictions, measure_prediction

SHAPE = (12, 10, 6)
SERIES = ("a1", "a2", "b1", "c1", "d1")
GRID = Grid(SHAPE, np.array([[-0.5, 0, 0, 3], [0, 0.5, 0, -4], [0, 0, 2, 5], [0, 0, 0, 1.0]]))


def box(n: int) -> np.ndarray:
    """A lesion of 4·n voxels; none for 0."""
    mask = np.zeros(SHAPE, bool)
    mask[2 : 2 + n, 3:5, 1:3] = True
    return mask


LABELS = {"a1": box(4), "a2": box(2), "b1": box(0), "c1": box(0), "d1": box(3)}
PREDICTED = {"a1": box(3), "a2": box(0), "b1": box(1), "c1": box(0), "d1": box(3)}


@pytest.fixture
def cohort(tmp_path: Path) -> Path:
    rows = []
    for seed, series in enumerate(SERIES):
        hu = np.random.default_rng([seed]).integers(-900, 80, SHAPE).astype(np.int16)
        hu[LABELS[series]] = 250
        write_nifti(Volume(hu, GRID), tmp_path / f"images/{series}.nii.gz")
        write_nifti(Volume(LABELS[series], GRID), tmp_path / f"labels/{series}.nii.gz")
        paths = (f"images/{series}.nii.gz", f"labels/{series}.nii.gz")
        rows.append((series[0], series, *paths, "test", 2.0, 0.5, 0.5, 2.0, "", "", 10.0))
    columns = ["patient_id", "series_id", "image", "label", "split", "slice_thickness_mm"]
    columns += ["spacing_x_mm", "spacing_y_mm", "spacing_z_mm", "kernel", "manufacturer", "true_volume_mm3"]
    write_cohort(tmp_path / "cohort.csv", pd.DataFrame(rows, columns=columns))
    return tmp_path / "cohort.csv"


@pytest.fixture
def masks(tmp_path: Path) -> Path:
    for series, mask in PREDICTED.items():
        write_nifti(Volume(mask, GRID), tmp_path / f"masks/{series}.nii.gz")
    return tmp_path / "masks"


def test_masks_by_hand(cohort: Path, masks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    command = ["evaluate", "--predictions", str(masks), "--cohort", str(cohort), "--out", str(out), "--workers", "1"]
    assert main([*command, "--label", "other"]) == 0
    table = pd.read_csv(out / "evaluation/test.csv").set_index("series_id")
    assert list(table.index) == sorted(SERIES)
    assert table["dice"].tolist() == pytest.approx([2 * 12 / 28, 0, 1, 1, 1])  # nothing that b1 predicts is bright
    assert table["plain_dice"].tolist() == pytest.approx([2 * 12 / 28, 0, 0, 1, 1])
    assert table["plain_both_empty"].tolist() == [False, False, False, True, False]
    assert table["plain_volume_error_mm3"].tolist() == pytest.approx([-2.0, -4.0, 2.0, 0.0, 0.0])  # voxels of 0.5 mm³
    assert table["plain_true_volume_error_mm3"].tolist() == pytest.approx([-4.0, -10.0, -8.0, -10.0, -4.0])
    assert np.isinf(table.loc[["a2", "b1"], "plain_hd95_mm"]).all()
    assert table.loc["a1", "label_agatston"] == pytest.approx(2 * 8 * 0.25 * 2 * 2 / 3)  # 2 slices, 250 HU, 2 mm
    assert table.loc["b1", "plain_agatston"] == 0.0
    summary = json.loads((out / "evaluation/test.json").read_text())
    assert (summary["run"], summary["threshold"]) == ("other", None)
    counts = ("n_series", "n_patients", "n_both_empty", "n_false_alarm", "n_missed", "n_hd95_infinite")
    assert [summary[c] for c in counts] == [5, 4, 2, 0, 1, 1]
    assert [summary["plain"][c] for c in counts[2:]] == [1, 1, 1, 2]
    assert load_external(out).label == "other"
    printed = capsys.readouterr().out
    assert "5 scans of 4 patients (masks)" in printed
    assert "2 without and 1 with lesions; false alarms: 0 of 2" in printed
    assert "1 without and 1 with lesions; false alarms: 1 of 2" in printed


def test_a_second_reader_is_measured_as_a_prediction_is(cohort: Path, masks: Path, tmp_path: Path) -> None:
    second = {"a1": box(2), "b1": box(0)}
    for series, mask in second.items():
        write_nifti(Volume(mask, GRID), tmp_path / f"second/{series}.nii.gz")
    table = pd.read_csv(cohort, keep_default_na=False)
    paths = [f"second/{s}.nii.gz" if s in second else "" for s in table["series_id"]]
    write_cohort(cohort, table.assign(label_2=paths))
    evaluate_predictions(masks, cohort, "test", tmp_path / "out", workers=1)
    measured = read_series_table(tmp_path / "out/evaluation/test.csv").set_index("series_id")
    assert measured.loc["a1", "reader_2_dice"] == pytest.approx(2 * 8 / 24)  # 8 of 16 voxels
    assert measured.loc["b1", ["reader_2_dice", "reader_2_both_empty"]].tolist() == [1, 1]
    assert measured["reader_2_dice"].notna().sum() == 2
    assert measured["dice_against_reader_2"].dropna().tolist() == [pytest.approx(2 * 8 / 20), 1]
    found = readings({"m": measured.reset_index()})
    assert found is not None
    assert (found.n, found.n_lesion, found.n_lesion_2, found.n_patients) == (2, 1, 1, 2)
    reader, model = found.rows
    assert (reader.name, reader.first.dice["mean"]) == (SECOND, pytest.approx(2 / 3))
    assert reader.first.bias_mm3 == pytest.approx(-8 * 0.5 / 2)
    assert reader.second is not None
    assert (reader.second.dice["mean"], reader.second.bias_mm3) == (reader.first.dice["mean"], -reader.first.bias_mm3)
    assert model.second is not None
    assert model.second.dice["mean"] == pytest.approx(2 * 8 / 20)
    assert model.second.bias_mm3 == pytest.approx(4 * 0.5 / 2)
    assert model.against_reader is not None
    assert model.against_reader["difference"]["value"] == pytest.approx(24 / 28 - 2 / 3)
    models = {"m": ModelResult(name="m", label="M", table=measured.reset_index(), summary={}, threshold=None)}
    context = ReportContext(title="T", question="Q", split="test", seed=0)
    section = readers_section(models, context)
    assert section is not None
    of_first, of_each = section.tables
    assert [row[0] for row in of_first.rows] == [SECOND, "M"]
    assert [row[0] for row in of_each.rows] == ["The other reader", "M"]
    assert of_first.source == of_each.source == "2 scans of 2 patients with two readers, test split, seed 0"
    early = measured.reset_index().drop(columns="dice_against_reader_2")
    older = readers_section({"m": replace(models["m"], table=early)}, context)
    assert older is not None
    assert older.tables[1].rows[1][2] == "–"
    assert "Not measured against the second reader: M (evaluate again)" in older.tables[1].legend
    alone = measured.reset_index().drop(columns=[c for c in measured if c.startswith("reader_2_")])
    assert readings({"m": alone}) is None


def test_every_form_gives_the_same_table(cohort: Path, masks: Path, tmp_path: Path) -> None:
    expected = evaluate_predictions(masks, cohort, "test", workers=1)
    for series, mask in PREDICTED.items():
        probability = np.where(mask, 0.8, 0.1).astype(np.float32)
        write_nifti(Volume(mask, GRID), tmp_path / f"both/{series}_mask.nii.gz")
        write_nifti(Volume(probability, GRID), tmp_path / f"both/{series}_probability.nii.gz")
        write_nifti(Volume(probability, GRID), tmp_path / f"plain/{series}.nii")
        write_nifti(Volume(mask, GRID), tmp_path / f"nnunet/{series}.nii.gz")
        np.savez(tmp_path / f"nnunet/{series}.npz", probabilities=np.stack([1 - probability.T, probability.T]))
    for folder, threshold in (("both", None), ("both", 0.5), ("plain", None), ("nnunet", None), ("nnunet", 0.3)):
        found = evaluate_predictions(tmp_path / folder, cohort, "test", threshold=threshold, workers=1)
        assert found["dice"] == expected["dice"]
        probabilities = 5 if threshold or folder == "plain" else 0
        assert found["predictions"]["n_probabilities"] == probabilities
        assert found["threshold"] == (threshold or (0.5 if folder == "plain" else None))
    for folder in ("both", "plain", "nnunet"):  # nothing reaches 0.9, everything 0.05
        assert evaluate_predictions(tmp_path / folder, cohort, "test", threshold=0.9, workers=1)["dice"]["mean"] == 0
        everything = evaluate_predictions(tmp_path / folder, cohort, "test", threshold=0.05, workers=1)
        assert everything["sensitivity"]["mean"] == 1.0
        assert everything["plain"]["n_false_alarm"] == 2


def test_one_error_lists_everything(cohort: Path, masks: Path) -> None:
    shifted = GRID.affine.copy()
    shifted[2, 3] += 2.0
    write_nifti(Volume(PREDICTED["a1"], Grid(SHAPE, shifted)), masks / "a1.nii.gz")
    write_nifti(Volume(np.zeros((3, 3, 3), bool), Grid((3, 3, 3), GRID.affine)), masks / "a2.nii.gz")
    (masks / "b1.nii.gz").unlink()
    (masks / "b1.npz").write_bytes(b"no")
    (masks / "c1.nii.gz").rename(masks / "zz.nii.gz")
    write_nifti(Volume(PREDICTED["d1"], GRID), masks / "d1_mask.nii.gz")
    with pytest.raises(UserError) as caught:
        evaluate_predictions(masks, cohort, "test", workers=1)
    text = str(caught.value)
    assert "6 problems" in text
    for part in (
        "a1.nii.gz: lies elsewhere than its scan",
        "a2.nii.gz: (3, 3, 3) voxels, the scan has (12, 10, 6)",
        "b1: b1.npz: an .npz needs the NIfTI beside it",
        "c1: no prediction",
        "zz.nii.gz: no series of this split is called so",
        "d1: d1.nii.gz, d1_mask.nii.gz: more than one prediction",
    ):
        assert part in text
    assert not (masks / "evaluation").exists()


def test_a_shift_of_a_rounded_header_is_none(cohort: Path, masks: Path) -> None:
    rounded = GRID.affine.copy()
    rounded[:3, 3] += 0.004
    write_nifti(Volume(PREDICTED["a1"], Grid(SHAPE, rounded)), masks / "a1.nii.gz")
    assert evaluate_predictions(masks, cohort, "test", workers=1)["n_series"] == 5


def test_what_only_voxels_show_is_listed_too(cohort: Path, masks: Path) -> None:
    for series in ("a1", "a2"):
        write_nifti(Volume(np.full(SHAPE, 3.5, np.float32), GRID), masks / f"{series}.nii.gz")
    with pytest.raises(UserError, match=r"2 problems.*(?s:.*)a1\.nii\.gz: holds values from 3\.5(?s:.*)a2\.nii\.gz"):
        evaluate_predictions(masks, cohort, "test", workers=1)


@pytest.mark.parametrize(
    ("probabilities", "message"),
    [
        (np.stack([1 - box(3).T, box(3).T]).astype(np.float32)[:, ::-1], "contradicts the mask"),
        (np.stack([1 - box(3), box(3)]).astype(np.float32), r"expected \[classes, z, y, x\]"),
        (np.full((2, *SHAPE[::-1]), 2, np.float32), "not probabilities"),
    ],
)
def test_nnunet_archives_that_do_not_fit(cohort: Path, masks: Path, probabilities: np.ndarray, message: str) -> None:
    np.savez(masks / "a1.npz", probabilities=probabilities)
    series = [s for s in read_cohort(cohort).series if s.series_id == "a1"]
    found, problems = find_predictions(masks, series, 0.5)
    look = record_look(masks, "evaluate", "test", "", None)
    results = [p for p in problems if "a1" in p] or [str(measure_prediction(found[0], look))]
    assert len(results) == 1
    assert re.search(message, results[0])


def test_misuse(cohort: Path, masks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match="a threshold needs probabilities"):
        evaluate_predictions(masks, cohort, "test", threshold=0.4)
    with pytest.raises(UserError, match="above 0"):
        evaluate_predictions(masks, cohort, "test", threshold=0.0)
    with pytest.raises(UserError, match="no such folder"):
        evaluate_predictions(tmp_path / "nowhere", cohort, "test")
    with pytest.raises(UserError, match="'dev' has 0 series"):
        evaluate_predictions(masks, cohort, "dev")
    assert main(["evaluate"]) == 2
    assert main(["evaluate", "--predictions", str(masks)]) == 2
    assert "--cohort" in capsys.readouterr().err


def test_worker_processes_give_the_same_table(cohort: Path, masks: Path, tmp_path: Path) -> None:
    for workers in (1, 2):
        evaluate_predictions(masks, cohort, "test", tmp_path / str(workers), workers=workers)
    one, two = ((tmp_path / w / "evaluation/test.csv").read_bytes() for w in "12")
    assert one == two


def test_workers_need_no_torch() -> None:
    code = "import sys, iac_lightning.workflows.external.evaluate; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.slow
def test_report_beside_one_another(cohort: Path, masks: Path, tmp_path: Path) -> None:
    for name in ("first", "second"):
        evaluate_predictions(masks, cohort, "test", tmp_path / name, workers=1)
    assert load_external(tmp_path / "first").predictions == {"test": masks}
    evaluate_predictions(masks, cohort, "test", tmp_path / "second", label="other", workers=1)
    folders = [str(tmp_path / name) for name in ("first", "second")]
    assert main(["report", *folders, "--out", str(tmp_path / "report")]) == 0
    models = pd.read_csv(tmp_path / "report/models.csv")
    assert models["model"].tolist() == ["masks", "masks", "other", "other"]
    assert models["n_both_empty"].tolist() == [2, 1, 2, 1]
    page = (tmp_path / "report/index.html").read_text()
    assert "cannot be checked here: masks, other" in page
    assert "Best, median and worst scan" in page
    (masks / "a1.nii.gz").unlink()
    assert main(["report", *folders, "--out", str(tmp_path / "report")]) == 2
    (tmp_path / "first/model.json").write_text("{}")
    with pytest.raises(UserError, match=r"model\.json"):
        load_external(tmp_path / "first")


def test_a_look_is_on_record_before_a_label_is_read(
    cohort: Path, masks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []

    def measuring(prediction, look=None):
        seen.append(len(looks(tmp_path / "out")))
        return measure_prediction(prediction, look)

    monkeypatch.setattr(external, "measure_prediction", measuring)
    first = evaluate_predictions(masks, cohort, "test", tmp_path / "out", workers=1)
    again = evaluate_predictions(
        masks, cohort, "test", tmp_path / "out", workers=1, evaluation=EvaluationConfig(thickness_edges_mm=(2.5,))
    )
    assert seen == [1] * 5 + [2] * 5
    assert first["test_looks"] == {"n": 1, "n_configs": 1, "n_weights": 0}
    assert again["test_looks"] == {"n": 2, "n_configs": 2, "n_weights": 0}
    assert [s["stratum"] for s in again["thickness"]] == ["≤ 2.5 mm", "> 2.5 mm"]
    assert load_external(tmp_path / "out").evaluation.thickness_edges_mm == (2.5,)


def test_predictions_take_settings_of_their_evaluation_only(
    cohort: Path, masks: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["evaluate", "--predictions", str(masks), "--cohort", str(cohort), "--workers", "1"]
    assert main([*command, "inference.mirror=true"]) == 2
    assert "settings of the section evaluation only" in capsys.readouterr().err
    assert main([*command, "evaluation.thickness_edges_mm=[1,5]"]) == 0
    assert load_external(masks).evaluation == EvaluationConfig(thickness_edges_mm=(1.0, 5.0))  # no defaults of before


def test_predictions_of_before_keep_what_was_done_to_them() -> None:
    assert external.external_settings({"coverage": 0.8}).operating_point == "dice"


@pytest.mark.parametrize(
    ("key", "value", "complaint"),
    [
        ("threshold", 2, "threshold 2, expected a number from 0 to 1"),
        ("threshold", True, "threshold True, expected a number from 0 to 1"),
        ("evaluation", {"coverage": 3}, "evaluation.coverage = 3.0: out of range"),
        ("evaluation", {"coverage": "${oc.env:SECRET}"}, "taken as they are written"),
        ("evaluation", [1], "not what evaluation writes"),
    ],
)
def test_a_foreign_description_of_a_model_is_data(
    key: str, value: object, complaint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET", "0.77")
    known = {"label": "x", "predictions": {}, "cohort": "c.csv", "threshold": 0.5, "evaluation": {}}
    (tmp_path / external.MODEL_FILE).write_text(json.dumps(known))
    assert external.load_external(tmp_path).threshold == 0.5
    (tmp_path / external.MODEL_FILE).write_text(json.dumps(known | {key: value}))
    with pytest.raises(UserError, match=complaint) as caught:
        external.load_external(tmp_path)
    assert "0.77" not in str(caught.value)


def test_an_evaluation_that_was_cut_off_goes_on_as_the_same_look(
    cohort: Path, masks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def evaluated() -> int:
        return evaluate_predictions(masks, cohort, "test", tmp_path / "out", workers=1)["test_looks"]["n"]

    def cut_off() -> None:
        def stopped(prediction, look=None):
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(external, "measure_prediction", stopped)
            with pytest.raises(KeyboardInterrupt):
                evaluated()

    for _ in range(3):
        cut_off()
    assert evaluated() == 1
    assert evaluated() == 2, "what was shown whole is looked at again"
    cut_off()
    os.utime(next(masks.glob("*.nii.gz")), ns=(1, 1))
    assert evaluated() == 4, "other predictions may show something else"
