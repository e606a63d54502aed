"""What a report refuses, what it calls the models, and when it analyses them."""

from __future__ import annotations

import io
import json
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from data_modules.cohort.look import TestSetGuardError
from data_modules.cohort.table import Series
from data_modules.errors import UserError
from data_modules.prepare.warnings import summarise_warnings
from iac_lightning.config.model_schema import CNNConfig, ModelConfig, ViTConfig
from iac_lightning.config.schema import EvaluationConfig, ExperimentConfig
from iac_lightning.evaluation.tables.series_table import COLUMNS, write_series_table
from iac_lightning.evaluation.tables.summary import summarise, write_summary
from iac_lightning.report.checklist.page import anchors
from iac_lightning.report.checklist.places import PLACES
from iac_lightning.report.page import ExtraFigure
from iac_lightning.runs.directory import Run
from iac_lightning.runs.looks import looks
from iac_lightning.workflows.external.evaluate import ExternalModel, write_external
from iac_lightning.workflows.reports import further
from iac_lightning.workflows.reports import model_results as report_models
from iac_lightning.workflows.reports import models as workflow
from iac_lightning.workflows.reports.development import has_development
from iac_lightning.workflows.reports.evaluated import evaluation, load_entry, look_at, model_labels, shared_settings
from iac_lightning.workflows.reports.models import report, report_command


def test_two_runs_of_one_name_are_refused(tmp_path: Path) -> None:
    runs = [Run(tmp_path / folder, ExperimentConfig(name=name)) for folder, name in (("a", "vit"), ("b", "vit"))]
    with pytest.raises(UserError, match="more than one run is called vit"):
        report(runs, tmp_path / "page", "test")
    assert not (tmp_path / "page").exists()


def test_a_run_without_evaluation_is_told_how(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="iac evaluate …/a --split dev"):
        report([Run(tmp_path / "a", ExperimentConfig(name="vit"))], tmp_path / "page", "dev")


def test_models_of_one_kind_are_told_apart_by_name() -> None:
    vit = ExperimentConfig(name="one", init_from="runs/mae")
    other = ExperimentConfig(name="two", init_from="runs/mae")
    scratch = ExperimentConfig(name="three")
    cnn = ExperimentConfig(name="four", model=ModelConfig(name="cnn", cnn=CNNConfig(encoder="residual")))
    told = ExperimentConfig(name="seven", model=ModelConfig(name="cnn", condition_on=("position", "slice_thickness")))
    flat = ExperimentConfig(name="five", model=ModelConfig(vit=ViTConfig(depth=0)))
    begun = replace(cnn, name="six", init_from="runs/mae_cnn")
    assert model_labels([vit, other, scratch, cnn, flat, begun, told]) == [
        "ViT, MAE pre-trained (one)",
        "ViT, MAE pre-trained (two)",
        "ViT, from scratch",
        "CNN (residual, nnU-Net-style)",
        "ViT without transformer",
        "CNN (residual, nnU-Net-style), MAE pre-trained",
        "CNN (plain, nnU-Net-style), told position and slice thickness",
    ]


def hand_made(split: str, patients: int, gain: float) -> pd.DataFrame:
    """Two scans a patient, thin and thick; volumes 0, 10, … mm³, predicted too large by `gain`."""
    n = np.arange(2 * patients)
    label = np.where(n // 2 % 4 == 0, 0.0, 10.0 * (n // 2))
    table = pd.DataFrame(0.5, index=n, columns=list(COLUMNS))
    return table.assign(
        series_id=[f"{split}{k:03d}" for k in n],
        patient_id=[f"{split}{k // 2:03d}" for k in n],
        slice_thickness_mm=np.where(n % 2, 5.0, 0.8),
        has_lesion=label > 0,
        label_volume_mm3=label,
        volume_mm3=label * gain,
        dice=np.where(n % 2, 0.6, 0.8) + 0.01 * (n % 3),
        both_empty=label == 0,
        n_lesions=1,
    )


@pytest.fixture
def entries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[ExternalModel]:
    """Two models evaluated on the test split; their scans are not at hand."""
    series = [Series("a", "a1", Path("/nowhere/a1.nii.gz"), None, "test", None)]
    monkeypatch.setattr(workflow, "read_cohort", lambda path: SimpleNamespace(series=series))
    monkeypatch.setattr(workflow, "overlays", lambda *_: [])
    monkeypatch.setattr(further, "gallery_section", lambda *_: None)
    monkeypatch.setattr("iac_lightning.report.page.png", lambda figure: dot())
    found = [
        ExternalModel(tmp_path / name, name, {"test": tmp_path / name}, tmp_path / "cohort.csv", None)
        for name in ("good", "large")
    ]
    for entry in found:
        evaluated(entry, "test", 20)
    return found


def evaluated(entry: ExternalModel, split: str, patients: int, threshold: float | None = None) -> None:
    """What `iac evaluate` leaves."""
    table = hand_made(split, patients, {"good": 1.05, "large": 1.6}[entry.label])
    folder = entry.directory / "evaluation"
    write_series_table(table, folder / f"{split}.csv")
    summary = summarise(table, split=split, threshold=threshold)
    write_summary({**summary, "plain_threshold": None}, folder / f"{split}.json")


ALWAYS = (  # what the checklists count on in every report of two models with both splits
    *("question", "better", "sure", "fails", "glance", "models", "more", "pairs", "everything", "values", "agreement"),
    *("thickness", "risk", "detection", "stages", "scans", "volumes", "flow", "data", "made"),
)


def test_models_with_development_tables_are_analysed(entries: list[ExternalModel], tmp_path: Path) -> None:
    for entry in entries:
        evaluated(entry, "dev", 24)
    page = report(entries, tmp_path / "page", "test").read_text()
    for title in ("Slice thickness", "Risk groups", "Volume intervals", "Detection per patient"):
        assert f">{title}</h2>" in page
    assert "are left out" not in page
    for title in ("Before and after calibration", "Volumes by size", "Subgroups", "Flow of patients and scans"):
        assert f">{title}</h2>" in page
    listed = set(re.findall(r'"index.html#(.*?)"', (tmp_path / "page/checklist.html").read_text()))
    assert listed <= set(anchors(page))
    assert listed >= {PLACES[key][1] for key in ALWAYS}
    names = (tmp_path / "good/test_scan_names.csv").read_text().splitlines()
    assert (names[0], len(names)) == ("name,series_id", 1 + 40)
    assert names[1].split(",")[1] not in page
    analysis = json.loads((tmp_path / "page/analysis.json").read_text())
    assert list(analysis["models"]) == ["good", "large"]
    assert [(c["model"], c["baseline"]) for c in analysis["comparisons"]] == [("good", "large")]
    labels = hand_made("dev", 24, 1.0).drop_duplicates("patient_id")["label_volume_mm3"]
    low, medium = np.quantile(labels[labels > 0], [1 / 3, 2 / 3])
    assert analysis["cutoffs"]["low_mm3"] == pytest.approx(low)
    assert analysis["cutoffs"]["medium_mm3"] == pytest.approx(medium)
    wrong = {name: model["risk"]["misclassified"] for name, model in analysis["models"].items()}
    assert wrong["large"] > wrong["good"]
    assert f"{wrong['good']} against {wrong['large']}" in page

    (entries[0].directory / "evaluation/dev.csv").unlink()
    again = report(entries, tmp_path / "page", "test").read_text()
    assert ">Risk groups</h2>" not in again
    assert ">Slice thickness</h2>" in again
    assert json.loads((tmp_path / "page/analysis.json").read_text())["cutoffs"] is None


@pytest.mark.parametrize(
    ("dev", "threshold", "expected", "commands"),
    [
        ((), None, "left out until good and large are evaluated on the development split", 2),
        (("good",), None, "left out until large is evaluated on the development split", 1),
        (
            ("good", "large"),
            0.4,
            "until good and large are evaluated",
            2,
        ),  # masks on one split, probabilities on the other
        (("good", "large"), None, "because of only 8 development patients", 2),
    ],
)
def test_without_development_tables_the_page_says_how_to_make_them(
    entries: list[ExternalModel],
    tmp_path: Path,
    dev: tuple[str, ...],
    threshold: float | None,
    expected: str,
    commands: int,
) -> None:
    for entry in entries:
        if entry.label in dev:
            evaluated(entry, "dev", 8, threshold)
    page = report(entries, tmp_path / "page", "test").read_text()
    assert expected in page
    assert page.count("<code>iac evaluate --predictions DIR") == commands
    assert "--split dev --out …/large</code>" in page
    assert str(tmp_path) not in page
    assert ">Risk groups</h2>" not in page
    assert ">Slice thickness</h2>" in page


def test_a_page_about_the_development_split_has_no_analysis(entries: list[ExternalModel], tmp_path: Path) -> None:
    for entry in entries:
        evaluated(entry, "dev", 24)
    page = report(entries, tmp_path / "page", "dev").read_text()
    assert "Risk groups" not in page


def test_a_run_evaluated_before_it_was_trained_on_is_not_analysed(tmp_path: Path) -> None:
    for split, weights in (("dev", "old"), ("test", "new")):
        (tmp_path / f"{split}.csv").touch()
        (tmp_path / f"{split}.json").write_text(json.dumps({"checkpoint_sha256": weights, "threshold": 0.5}))
    assert not has_development(tmp_path, "test")
    (tmp_path / "dev.json").write_text((tmp_path / "test.json").read_text())
    assert has_development(tmp_path, "test")
    run = Run(tmp_path / "vit", ExperimentConfig(name="vit"))
    missing = workflow.development({"vit": run}, "test", EvaluationConfig())
    assert missing[2] == ("iac evaluate …/vit --split dev",)


def test_every_page_about_the_test_split_is_a_look(entries: list[ExternalModel], tmp_path: Path) -> None:
    report(entries, tmp_path / "page", "test")
    report([replace(e, evaluation=EvaluationConfig(coverage=0.8)) for e in entries], tmp_path / "page", "test")
    for entry in entries:
        assert [look["what"] for look in looks(entry.directory)] == ["report", "report"]
        evaluated(entry, "dev", 10)
    assert pd.read_csv(tmp_path / "page/tables/models_more.csv")["looks (at the test split)"].tolist() == [
        "2 (2 settings)",
        "2 (2 settings)",
    ]
    page = report(entries, tmp_path / "dev", "dev").read_text()
    assert "at the test split" not in page
    assert len(looks(entries[0].directory)) == 2


def test_without_a_look_there_are_no_figures(entries: list[ExternalModel]) -> None:
    with pytest.raises(TestSetGuardError, match="evaluation of the split 'test'"):
        evaluation(entries[0], "test", None)
    table, _ = evaluation(entries[0], "test", look_at(entries[0], "compare", "test"))
    assert len(table) == 40


def test_intervals_of_an_earlier_version_are_made_again(entries: list[ExternalModel]) -> None:
    path = entries[0].directory / "evaluation/test.json"
    now = json.loads(path.read_text())
    assert now["dice"]["ci95"][0] is not None
    bootstrap = {"mean": 0.5, "ci95": [0.1, 0.2], "n": 3, "n_patients": 3}
    old = {key: value for key, value in now.items() if key != "intervals"}
    old |= {"dice": bootstrap, "controls": {"mean_tokens": {"dice": bootstrap}}}
    path.write_text(json.dumps(old))
    _, found = evaluation(entries[0], "test", look_at(entries[0], "compare", "test"))
    assert found["dice"] == now["dice"]
    assert found["controls"]["mean_tokens"]["dice"]["ci95"] == [None, None]  # of three patients


def test_settings_of_the_evaluation_decide_strata_groups_and_intervals(
    entries: list[ExternalModel], tmp_path: Path
) -> None:
    for entry in entries:
        evaluated(entry, "dev", 24)
    settings = EvaluationConfig(thickness_edges_mm=(3.0,), risk_cutoffs_mm3=(0.0, 30.0, 90.0), coverage=0.8)
    page = report([replace(entry, evaluation=settings) for entry in entries], tmp_path / "page", "test").read_text()
    analysis = json.loads((tmp_path / "page/analysis.json").read_text())
    assert analysis["settings"]["coverage"] == 0.8
    assert (analysis["cutoffs"]["low_mm3"], analysis["cutoffs"]["source"]) == (30.0, "fixed in the settings")
    assert [s["stratum"] for s in analysis["models"]["good"]["thickness"]["ppv"]["strata"]] == ["≤ 3 mm", "> 3 mm"]
    table = pd.read_csv(tmp_path / "page/tables/thickness_dice.csv")
    thin = hand_made("test", 20, 1.05).query("has_lesion and slice_thickness_mm < 3")["dice"].mean()
    assert table.filter(like="≤ 3 mm (15 scans").iloc[0, 0] == pytest.approx(thin, abs=5e-4)
    command = "evaluation.thickness_edges_mm=[3.0] evaluation.risk_cutoffs_mm3=[0.0,30.0,90.0] evaluation.coverage=0.8"
    assert f"iac report …/good …/large --out …/page --split test {command}" in page
    with pytest.raises(UserError, match=r"different settings of evaluation \(thickness_edges_mm, .*coverage=…"):
        report([entries[0], replace(entries[1], evaluation=settings)], tmp_path / "page", "test")


def test_operating_points_may_differ_and_no_page_changes_them(entries: list[ExternalModel]) -> None:
    chosen = replace(entries[1], evaluation=EvaluationConfig(operating_point="dice", false_components_per_scan=2.0))
    assert shared_settings([entries[0], chosen]).operating_point == "balanced"
    assert "operating_point" not in report_command([chosen], Path("out"), "test", chosen.evaluation)


def test_the_operating_point_may_be_said_where_it_is_the_one_in_use(entries: list[ExternalModel]) -> None:
    good = entries[0]
    write_external(good, "test", good.predictions["test"])
    said = "evaluation.operating_point=lesion_f1"
    with pytest.raises(UserError, match=rf"…/good \(test split\) were cut without it; .*--dev-predictions .* {said}"):
        load_entry(good.directory, [said])
    thickness = {"used": False, "strata": []}
    applied = {"temperature": 1.0, "bias": 0.0, "checkpoint_sha256": None, "depends_on": "x", "plain_threshold": 0.5}
    applied |= {"by_thickness": None, "plain_thickness": thickness}
    point = {"aim": "lesion_f1", "rule": "protocol", "least_lesion_mm3": 2.0, "threshold": 0.3, "thickness": thickness}
    summary = json.loads((good.directory / "evaluation/test.json").read_text())
    write_summary(
        {**summary, "calibration": {**applied, "operating_point": point}}, good.directory / "evaluation/test.json"
    )
    assert load_entry(good.directory, [said])
    keep = "evaluation.keep_lesions_from_mm3=3"
    with pytest.raises(UserError, match="cut without it"):  # what else decided is not on record
        load_entry(good.directory, [said, keep])
    chosen = {**point, "keep_lesions_from_mm3": 3.0, "most_false_components_per_scan": None}
    (good.directory / "calibration.json").write_text(json.dumps({**applied, "operating_point": chosen}))
    assert load_entry(good.directory, [said, keep, "evaluation.false_components_per_scan=7"])
    again = r"iac evaluate .* --split test .* evaluation\.operating_point=dice$"
    with pytest.raises(UserError, match=rf"were cut with evaluation\.operating_point=lesion_f1; .*: {again}"):
        load_entry(good.directory, ["evaluation.operating_point=dice"])
    with pytest.raises(UserError, match=r"were cut with evaluation\.keep_lesions_from_mm3=3\.0"):
        load_entry(good.directory, ["evaluation.keep_lesions_from_mm3=5"])
    (good.directory / "calibration.json").write_text(
        json.dumps({**applied, "operating_point": {**chosen, "aim": "sensitivity_at_fp"}})
    )
    with pytest.raises(UserError, match="were cut without it"):  # calibrated anew since
        load_entry(good.directory, ["evaluation.false_components_per_scan=7"])
    assert load_entry(good.directory, ["evaluation.operating_point=dice"], "dev")  # without an evaluation: said later


def test_settings_that_decide_no_value_may_differ() -> None:
    runs = [
        Run(Path("a"), ExperimentConfig(name=name, evaluation=EvaluationConfig(controls=controls, workers=workers)))
        for name, controls, workers in (("a", True, 1), ("b", False, 2))
    ]
    assert shared_settings(runs).controls


def test_a_fixed_cut_off_needs_no_development_split(entries: list[ExternalModel], tmp_path: Path) -> None:
    settings = EvaluationConfig(risk_cutoffs_mm3=(0.0, 30.0, 90.0))
    page = report([replace(entry, evaluation=settings) for entry in entries], tmp_path / "page", "test").read_text()
    assert ">Risk groups</h2>" in page
    assert ">Volume intervals</h2>" not in page
    assert "Volume intervals are left out until good and large" in page


def test_the_page_says_how_many_scans_carry_warnings(entries: list[ExternalModel], tmp_path: Path) -> None:
    assert "preparation" not in report(entries, tmp_path / "earlier", "test").read_text()  # of evaluations without
    for entry, warnings in zip(entries, ([("tilt: 4°",), (), ("tilt: 2°", "odd")], [(), (), ()]), strict=True):
        path = entry.directory / "evaluation" / "test_warnings.json"
        path.write_text(json.dumps(summarise_warnings(warnings)))
    sentence = "2 of the 3 evaluated scans carry warnings of preparation: tilt (2); odd (1)."
    page = report(entries, tmp_path / "page", "test").read_text()
    assert f"<p>good: {sentence}</p>" in page
    assert "<p>large: None of the 3 evaluated scans carries a warning" in page
    path.write_text((entries[0].directory / "evaluation" / "test_warnings.json").read_text())
    assert report(entries, tmp_path / "page", "test").read_text().count(f"<p>{sentence}</p>") == 1


def test_page_tables_and_figures_go_to_each_run(
    entries: list[ExternalModel], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored: dict[str, Any] = {}
    run = Run(tmp_path / "good", ExperimentConfig(name="vit"))
    model = report_models.external_result(entries[0], "test", look_at(entries[0], "report", "test"))
    monkeypatch.setattr(workflow, "model_result", lambda *_: model)
    monkeypatch.setattr(workflow, "training_curves", lambda *_: ExtraFigure(title="T", caption="c", png=dot()))
    monkeypatch.setattr(workflow.tracking, "log_summary", lambda run, figures, prefix: stored.update({prefix: figures}))
    monkeypatch.setattr(
        workflow.tracking, "log_files", lambda run, paths, root, folder: stored.update(paths=paths, folder=folder)
    )
    report([run], tmp_path / "page", "test")
    assert stored["folder"] == "report/test"
    names = {str(path.relative_to(tmp_path / "page")) for path in stored["paths"]}
    assert {"index.html", "analysis.json", "models.csv", "tables/models.tex", "figures/dice.png"} <= names
    assert stored["report/test"]["dice"] == model.summary["dice"]["mean"]
    assert stored["report/test"]["looks"] == 1


def dot() -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (2, 2)).save(buffer, format="PNG")
    return buffer.getvalue()
