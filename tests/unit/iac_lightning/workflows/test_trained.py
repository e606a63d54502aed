"""Which weights are loaded, which scans they may be judged on, and which saved predictions are theirs."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from data_modules.errors import UserError
from iac_lightning.config.schema import ExperimentConfig
from iac_lightning.runs.directory import Run, load_run
from iac_lightning.workflows.trained import (
    TrainedModel,
    file_digest,
    labelled,
    load_trained,
    prediction_key,
)


def test_the_best_weights_are_loaded_ready_to_predict(trained_run: Run) -> None:
    model = load_trained(trained_run)
    path = trained_run.best_checkpoint
    assert path is not None
    assert model.checkpoint_sha256 == file_digest(path) == hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    assert not model.network.training
    stored = torch.load(path, weights_only=True)["state_dict"]
    state = model.network.state_dict()
    assert {f"model.{name}" for name in state} == set(stored)
    assert all(torch.equal(stored[f"model.{name}"].cpu(), tensor.cpu()) for name, tensor in state.items())


def test_a_run_that_cannot_predict_is_refused(trained_run: Run, tmp_path: Path) -> None:
    config = load_run(trained_run.directory).config
    with pytest.raises(UserError, match=r"has no checkpoint yet.*iac finetune"):
        load_trained(Run(tmp_path, config))
    config.task = "pretrain"
    with pytest.raises(UserError, match="is a pre-training"):
        load_trained(Run(trained_run.directory, config))


@pytest.mark.parametrize(
    ("broken", "told"),
    [
        (lambda saved: saved["state_dict"].popitem(), r"is not of the network .* is missing"),
        (lambda saved: next(iter(saved["state_dict"].values())).fill_(float("nan")), "hold values that are not finite"),
        (lambda saved: saved.pop("iac"), "is not a checkpoint of this project"),
    ],
)
def test_weights_that_are_not_those_of_the_run_are_refused(
    broken: Callable[[dict[str, Any]], object], told: str, trained_run: Run, tmp_path: Path
) -> None:
    shutil.copytree(trained_run.directory, tmp_path / "run")
    run = load_run(tmp_path / "run")
    assert run.best_checkpoint is not None
    saved = torch.load(run.best_checkpoint, weights_only=True)
    broken(saved)
    torch.save(saved, run.best_checkpoint)
    with pytest.raises(UserError, match=rf"best\.ckpt: .*{told}"):
        load_trained(run)


def test_series_without_label_are_named() -> None:
    def item(name: str, label: Path | None) -> Any:
        return SimpleNamespace(series=SimpleNamespace(series_id=name, label=label))

    both = (item("a", Path("l")), item("b", Path("l")))
    assert labelled(both, "dev") is both
    with pytest.raises(UserError, match=r"'dev' has 2 series, 1 of them without label \(b …\)"):
        labelled((both[0], item("b", None)), "dev")
    with pytest.raises(UserError, match="'test' has 0 series"):
        labelled((), "test")


def test_the_key_changes_with_all_that_a_prediction_depends_on() -> None:
    def key(checkpoint: str = "0", source: str = "1", **settings: Any) -> dict[str, Any]:
        config = ExperimentConfig(name="a")
        config.loss.restrict_hu = settings.get("restrict_hu", 100.0)
        config.inference.overlap = settings.get("overlap", 0.5)
        config.data.grid.spacing_mm = settings.get("spacing_mm", (1.0, 1.0, 2.0))
        config.seed = settings.get("seed", 0)
        model = TrainedModel(Run(Path("a"), config), torch.nn.Identity(), torch.device("cpu"), checkpoint, [])
        item: Any = SimpleNamespace(source_sha256=source)
        return prediction_key(model, item)

    plain = key()
    for other in (
        key("9"),
        key(source="9"),
        key(restrict_hu=None),
        key(overlap=0.25),
        key(spacing_mm=(1.0, 1.0, 1.0)),
    ):
        assert other != plain
    assert key(seed=5) == plain  # trained weights say it already
