"""What a rule counts, by hand, and that its run is a run like any other."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from data_modules.prepare.store import open_store
from iac_lightning.cli import main
from iac_lightning.config.schema import ExperimentConfig
from iac_lightning.modules.rule_module import count_prior
from iac_lightning.runs.directory import Run, load_run
from iac_lightning.workflows.bundle import export_bundle, load_bundle
from iac_lightning.workflows.trained import load_trained

RECIPE = Path(__file__).parents[4] / "experiments/baselines/rule.yaml"


def settings(smoothing_mm: float) -> ExperimentConfig:
    config = ExperimentConfig(name="rule")
    config.data.grid.spacing_mm, config.data.grid.roi_mm = (1.0, 1.0, 1.0), (5.0, 1.0, 1.0)
    config.model.rule.smoothing_mm = smoothing_mm
    return config


def series(hu: list[int], occupancy: list[int]) -> Any:
    values = np.array(hu, np.int16).reshape(5, 1, 1), np.array(occupancy, np.uint8).reshape(5, 1, 1)
    return SimpleNamespace(hu=lambda: values[0], occupancy=lambda: values[1])


SCANS = (
    series([130, 129, 500, 40, 300], [255, 255, 0, 0, 0]),  # of bright voxels 0, 2, 4, the first is labelled
    series([200, 900, 40, 40, 129], [51, 0, 0, 0, 255]),  # of 0, 1, a fifth of the first
)


def probabilities(smoothing_mm: float) -> np.ndarray:
    return 1 / (1 + np.exp(-count_prior(SCANS, settings(smoothing_mm))[:, 0, 0]))


def test_the_share_of_labelled_among_bright_voxels_at_a_place_and_its_mirror_image() -> None:
    # Labelled 1.2 of 5 bright voxels: 0.24, once more at each place. With mirror images, the ends hold 1.2 of 3, the
    # next 0 of 1, the middle 0 of 2 (itself twice).
    expected = [(1.2 + 0.24) / 4, 0.24 / 2, 0.24 / 3, 0.24 / 2, (1.2 + 0.24) / 4]
    assert probabilities(0.01) == pytest.approx(expected, rel=1e-5)


def test_neighbours_count_by_a_gaussian() -> None:
    w = np.exp(-0.5 * np.arange(5.0) ** 2)  # 1 mm apart, deviation 1 mm
    bright, labelled = np.array([3, 1, 2, 1, 3.0]), np.array([1.2, 0, 0, 0, 1.2])
    weights = w[np.abs(np.subtract.outer(range(5), range(5)))]
    expected = (weights @ labelled + 0.24) / (weights @ bright + 1)
    assert probabilities(1.0) == pytest.approx(expected, rel=1e-5)


def run_rule(cohort: Path, runs: Path, name: str, *words: str) -> Run:
    small = ["data.grid.spacing_mm=[2,2,4]", "data.sampling.crop=[24,24,8]", "trainer.accelerator=cpu"]
    places = [f"data.cohort={cohort}", f"runs_dir={runs}", f"name={name}", "tracking.enabled=false"]
    assert main(["finetune", str(RECIPE), *small, *places, *words]) == 0
    return load_run(runs / name)


@pytest.fixture(scope="module")
def finished(phantom_cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return run_rule(phantom_cohort, tmp_path_factory.mktemp("runs"), "rule")


def test_it_counts_the_training_series_alone(finished: Run) -> None:
    network, config = load_trained(finished).network, finished.config
    store = open_store(config.data, ("finetune", "dev"))
    counted = torch.from_numpy(count_prior(store.split("finetune"), config))
    assert torch.equal(network.state_dict()["logits"], counted)
    assert not torch.equal(counted, torch.from_numpy(count_prior(store.split("dev"), config)))
    assert counted.std() > 0
    assert torch.allclose(counted, counted.flip(0), atol=1e-5)


def test_a_share_of_the_labels_is_a_share_of_what_is_counted(finished: Run, tmp_path: Path) -> None:
    fewer = run_rule(Path(finished.config.data.cohort), tmp_path, "third", "data.labelled_fraction=0.34")
    states = [load_trained(run).network.state_dict()["logits"] for run in (finished, fewer)]
    assert not torch.equal(*states)


def test_its_run_is_like_any_other(finished: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert {path.name for path in finished.checkpoints_dir.iterdir()} == {"best.ckpt", "last.ckpt"}
    assert finished.is_finished
    assert main(["finetune", str(finished.directory / "config.yaml")]) == 0
    assert "is finished already" in capsys.readouterr().out
    calibration = json.loads((finished.directory / "calibration.json").read_text())
    alternatives = calibration["operating_point"]["alternatives"]
    assert max(a["fitted"]["dice"] for a in alternatives if a["fitted"]) > 0
    assert main(["evaluate", str(finished.directory), "--split", "dev"]) == 0
    bundle = load_bundle(export_bundle(finished, tmp_path / "bundle"))
    assert torch.equal(bundle.network.state_dict()["logits"], load_trained(finished).network.state_dict()["logits"])
    assert bundle.config.model.condition_on == ("position",)
