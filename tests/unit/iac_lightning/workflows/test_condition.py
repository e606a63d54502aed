"""A network that is told more than the image is told it wherever it predicts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from torch import Tensor, nn

from benchmarks.bench import throwaway_run
from iac_lightning.cli import main
from iac_lightning.config.reading import load_experiment
from iac_lightning.models.condition import Film
from iac_lightning.runs.directory import load_run
from iac_lightning.workflows.bundle import export_bundle, load_bundle
from iac_lightning.workflows.plan import plan
from iac_lightning.workflows.predict import OUTPUTS
from tests.unit.iac_lightning.workflows.test_stress import Bright, model_of, rows_of, run_stress


def test_a_run_and_its_bundle_are_told_alike(small_scan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    start = Film.__init__

    def taught(film: Film, *args: object) -> None:
        start(film, *args)  # type: ignore[arg-type]
        nn.init.normal_(film.weight, std=0.2)

    monkeypatch.setattr(Film, "__init__", taught)
    told = ["model.name=cnn", "model.cnn.base_features=4", "data.sampling.crop=[32,32,16]"]
    told.append("model.condition_on=[slice_thickness,position]")
    run = load_run(throwaway_run(tmp_path / "runs", *told))
    monkeypatch.undo()
    bundle = export_bundle(run, tmp_path / "bundle")
    assert load_bundle(bundle).config.model.condition_on == ("slice_thickness", "position")
    for name, words in {
        "run": ["--run", str(run.directory), "--slice-thickness-mm", "4"],
        "bundled": ["--bundle", str(bundle), "--slice-thickness-mm", "4"],
        "thicker": ["--bundle", str(bundle), "--slice-thickness-mm", "6"],
    }.items():
        assert main(["predict", str(small_scan), str(tmp_path / name), *words]) == 0
    for name in OUTPUTS:
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "bundled" / name).read_bytes(), name
    found, thicker = (
        np.asarray(nib.load(tmp_path / name / "probability.nii.gz").dataobj) for name in ("run", "thicker")
    )
    assert np.abs(found - thicker).max() > 0.01


class Recording(Bright):
    """Notes what it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[float, ...]] = []

    def forward(self, image: Tensor, condition: Tensor) -> Tensor:  # type: ignore[override]
        self.seen += [tuple(row) for row in condition.tolist()]
        return super().forward(image)


def test_stress_tells_the_thickness_of_the_slices_it_made(
    phantom_cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = Recording()
    model = replace(model_of(phantom_cohort, tmp_path), network=network)
    model.run.config.model.condition_on = ("slice_thickness", "spacing")
    run_stress([model], monkeypatch, (3.0, 8.0))
    table = rows_of(model)
    told = {(round(thickness, 3), round(z, 3)) for thickness, _, _, z in network.seen}
    assert {thickness for thickness, _ in told} == set(table["slice_thickness_mm"].round(3))
    assert (8.0, 8.0) in told  # slices of 8 mm that touch
    assert {z for thickness, z in told if thickness == 8.0} == {8.0}


def test_the_plan_says_what_the_network_is_told() -> None:
    settings = ["name=x", "model.name=cnn", "model.cnn.base_features=4"]
    told = plan(load_experiment(None, [*settings, "model.condition_on=[position,slice_thickness]"]))
    (line,) = (line for line in told.splitlines() if line.startswith("told "))
    assert "position, slice_thickness, in mm; layers that it changes: 7," in line
    assert "told " not in plan(load_experiment(None, settings))
