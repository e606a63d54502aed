"""What a report refuses, what it calls the models, and when it analyses them."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from data_modules.errors import UserError
from iac_lightning.evaluation.analysis import analyse
from iac_lightning.evaluation.summary import COLUMNS, summarise, write_series_table, write_summary
from iac_lightning.runs import Run
from iac_lightning.schema import CNNConfig, ExperimentConfig, ModelConfig
from iac_lightning.workflows import report as workflow
from iac_lightning.workflows.external import ExternalModel
from iac_lightning.workflows.report import model_labels, report


def test_two_runs_of_one_name_are_refused(tmp_path: Path) -> None:
    runs = [Run(tmp_path / folder, ExperimentConfig(name=name)) for folder, name in (("a", "vit"), ("b", "vit"))]
    with pytest.raises(UserError, match="more than one run is called vit"):
        report(runs, tmp_path / "page", "test")
    assert not (tmp_path / "page").exists()


def test_a_run_without_evaluation_is_told_how(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"iac evaluate {tmp_path / 'a'} --split dev"):
        report([Run(tmp_path / "a", ExperimentConfig(name="vit"))], tmp_path / "page", "dev")


def test_models_of_one_kind_are_told_apart_by_name() -> None:
    vit = ExperimentConfig(name="one", init_from="runs/mae")
    other = ExperimentConfig(name="two", init_from="runs/mae")
    scratch = ExperimentConfig(name="three")
    cnn = ExperimentConfig(name="four", model=ModelConfig(name="cnn", cnn=CNNConfig(encoder="residual")))
    assert model_labels([vit, other, scratch, cnn]) == [
        "ViT, MAE pre-trained (one)",
        "ViT, MAE pre-trained (two)",
        "ViT, from scratch",
        "CNN (residual, nnU-Net-style)",
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
    series = [SimpleNamespace(patient_id="a", split="test", slice_thickness_mm=0.8)]
    monkeypatch.setattr(workflow, "read_cohort", lambda path: SimpleNamespace(series=series))
    monkeypatch.setattr(workflow, "overlays", lambda *_: [])
    monkeypatch.setattr(workflow, "analyse", partial(analyse, resamples=50))
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
    summary = summarise(table, 0, resamples=20, split=split, threshold=threshold)
    write_summary({**summary, "prior_threshold": None}, folder / f"{split}.json")


def test_models_with_development_tables_are_analysed(entries: list[ExternalModel], tmp_path: Path) -> None:
    for entry in entries:
        evaluated(entry, "dev", 24)
    page = report(entries, tmp_path / "page", "test").read_text()
    for title in ("Risk groups", "Volume intervals", "Slice thickness", "Detection per patient"):
        assert f"<h2>{title}</h2>" in page
    assert "are left out" not in page
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
    assert "<h2>Risk groups</h2>" not in again
    assert not (tmp_path / "page/analysis.json").exists()


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
    assert f"--split dev --out {entries[1].directory}</code>" in page
    assert "<h2>Risk groups</h2>" not in page
    assert "<h3>Slice thickness</h3>" in page
    assert not (tmp_path / "page/analysis.json").exists()


def test_a_page_about_the_development_split_has_no_analysis(entries: list[ExternalModel], tmp_path: Path) -> None:
    for entry in entries:
        evaluated(entry, "dev", 24)
    page = report(entries, tmp_path / "page", "dev").read_text()
    assert "Risk groups" not in page


def test_a_run_evaluated_before_it_was_trained_on_is_not_analysed(tmp_path: Path) -> None:
    for split, weights in (("dev", "old"), ("test", "new")):
        (tmp_path / f"{split}.csv").touch()
        (tmp_path / f"{split}.json").write_text(json.dumps({"checkpoint_sha256": weights, "threshold": 0.5}))
    assert not workflow.has_development(tmp_path, "test")
    (tmp_path / "dev.json").write_text((tmp_path / "test.json").read_text())
    assert workflow.has_development(tmp_path, "test")
    missing = workflow.development({"vit": Run(tmp_path / "vit", ExperimentConfig(name="vit"))}, "test")
    assert missing[2] == (f"iac evaluate {tmp_path / 'vit'} --split dev",)
