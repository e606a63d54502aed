"""What a report refuses, and what it calls the models."""

from __future__ import annotations

from pathlib import Path

import pytest

from data_modules.errors import UserError
from iac_lightning.runs import Run
from iac_lightning.schema import CNNConfig, ExperimentConfig, ModelConfig
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
