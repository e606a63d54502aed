"""What the card of a model says, and of which weights."""

from __future__ import annotations

import shutil
from pathlib import Path

from data_modules.files import write_json_atomic
from iac_lightning.runs.directory import Run, load_run
from iac_lightning.runs.looks import end_look, record_look
from iac_lightning.workflows.calibrate import load_calibrated
from iac_lightning.workflows.model_card import model_card


def test_the_card_tells_values_of_these_weights_only(trained_run: Run, tmp_path: Path) -> None:
    copy = load_run(Path(shutil.copytree(trained_run.directory, tmp_path / "run")))
    model = load_calibrated(copy)
    assert "The test split was not evaluated with these weights." in model_card(copy, model)
    dice = {"mean": 0.651, "ci95": [0.62, 0.684]}
    summary = {"checkpoint_sha256": "0" * 16, "n_series": 5, "n_patients": 4, "n_with_lesion": 3, "dice": dice}
    write_json_atomic(copy.directory / "evaluation" / "test.json", summary)
    assert "0.651" not in model_card(copy, model)
    summary["checkpoint_sha256"] = model.checkpoint_sha256
    write_json_atomic(copy.directory / "evaluation" / "test.json", summary)
    card = model_card(copy, model)
    assert "| Dice, scans with lesions | 0.651 [0.620; 0.684] | – |" in card
    assert "test: 5 scans of 4 patients, 3 with lesions" in card
    assert "looked at" not in card
    for what in ("evaluate", "report"):
        end_look(record_look(copy.directory, what, "test", "a", None))
    assert "had been looked at 2 times" in model_card(copy, model)
    assert "The cohort table was not at hand" in card


def test_an_encoder_of_another_project_is_named_with_its_licence(trained_run: Run, tmp_path: Path) -> None:
    copy = load_run(Path(shutil.copytree(trained_run.directory, tmp_path / "run")))
    model = load_calibrated(copy)
    assert "Apache-2.0 (code and weights)" in model_card(copy, model)
    record = {"file": "checkpoint_final.pth", "sha256": "ab" * 32, "data": "OpenMind", "licence": "CC-BY-SA 4.0"}
    (copy.directory / "logs").mkdir(exist_ok=True)
    write_json_atomic(copy.directory / "logs" / "foreign_encoder.json", record)
    card = model_card(copy, model)
    assert "`checkpoint_final.pth` (SHA-256 `abababababababab`; data OpenMind)" in card
    assert "as stated by who trained this model: CC-BY-SA 4.0." in card
    assert "Apache-2.0 (code)." in card
    assert "code and weights" not in card
