"""History across a restart, and which weights the figures show."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from torch import nn

from data_modules.config import DataConfig, SamplingConfig
from data_modules.scan.geometry import Grid, Volume
from iac_lightning.config.model_schema import MAEConfig, ModelConfig, ViTConfig
from iac_lightning.config.schema import ExperimentConfig
from iac_lightning.modules import callbacks
from iac_lightning.modules.callbacks import (
    EpochHistory,
    LossBar,
    OverlayFigure,
    ReconstructionFigure,
    median_burden,
    read_history,
)
from iac_lightning.modules.mae_module import MAEModule
from iac_lightning.modules.segmentation_module import SegmentationModule
from iac_lightning.runs.directory import Run


@pytest.fixture
def run(tmp_path: Path) -> Run:
    (tmp_path / "logs").mkdir()
    return Run(tmp_path, ExperimentConfig(name="demo/a"))


def trainer(epoch: int, every: int = 1, **metrics: float) -> Any:
    values = {k.replace("__", "/"): torch.tensor(v) for k, v in metrics.items()}
    return SimpleNamespace(
        current_epoch=epoch,
        max_epochs=4,
        global_step=10 * (epoch + 1),
        callback_metrics=values,
        check_val_every_n_epoch=every,
        logger=None,
    )


def train(history: EpochHistory, first: int, stop: int, loss: float) -> None:
    history.on_train_start(trainer(first), None)  # type: ignore[arg-type]
    for epoch in range(first, stop):
        history.on_train_epoch_start(trainer(epoch), None)  # type: ignore[arg-type]
        state = trainer(epoch, train__loss=loss, train__loss_step=9.0, dev__dice=0.25)
        history.on_train_epoch_end(state, None)  # type: ignore[arg-type]


def test_a_line_an_epoch_on_disk_and_on_screen(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    train(EpochHistory(run), 0, 2, loss=0.5)
    rows = read_history(run.directory / "logs/history.jsonl")
    assert [(r["epoch"], r["step"], r["train/loss"], r["dev/dice"]) for r in rows] == [
        (0, 10, 0.5, 0.25),
        (1, 20, 0.5, 0.25),
    ]
    assert "train/loss_step" not in rows[0]
    assert rows[0]["seconds"] >= 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("demo/a: epoch 1/4  dev/dice 0.25  train/loss 0.5  ")
    assert second.startswith("demo/a: epoch 2/4  ")


def test_development_figures_stand_only_where_they_were_measured(run: Run) -> None:
    history = EpochHistory(run)
    for epoch in range(2):
        state = trainer(epoch, every=2, train__loss=0.5, dev__dice=0.25, **{"lr-AdamW": 0.1})
        history.on_train_epoch_end(state, None)  # type: ignore[arg-type]
    first, second = read_history(run.directory / "logs/history.jsonl")
    assert "dev/dice" not in first  # Lightning would repeat the last validation's
    assert second["dev/dice"] == 0.25
    assert not any(key.startswith("lr-") for key in second)


def test_epochs_that_run_again_are_written_once(run: Run) -> None:
    train(EpochHistory(run), 0, 3, loss=0.5)
    train(EpochHistory(run), 1, 4, loss=0.25)  # the checkpoint was that of the first epoch
    rows = read_history(run.directory / "logs/history.jsonl")
    assert [(r["epoch"], r["train/loss"]) for r in rows] == [(0, 0.5), (1, 0.25), (2, 0.25), (3, 0.25)]


def test_a_new_run_starts_with_an_empty_history(run: Run) -> None:
    train(EpochHistory(run), 0, 2, loss=0.5)
    EpochHistory(run).on_train_start(trainer(0), None)  # type: ignore[arg-type]
    assert (run.directory / "logs/history.jsonl").read_text() == ""


def test_a_line_cut_off_by_a_crash_is_left_out(run: Run) -> None:
    path = run.directory / "logs/history.jsonl"
    train(EpochHistory(run), 0, 2, loss=0.5)
    path.write_text(path.read_text()[:-20])
    assert [r["epoch"] for r in read_history(path)] == [0]
    train(EpochHistory(run), 1, 2, loss=0.5)  # mends the file: the next line does not join the broken one
    assert [json.loads(line)["epoch"] for line in path.read_text().splitlines()] == [0, 1]
    assert read_history(run.directory / "logs/none.jsonl") == []


def test_the_bar_shows_the_loss_that_was_logged_last() -> None:
    bar = LossBar(7)
    assert bar.refresh_rate == 7
    state: Any = SimpleNamespace(loggers=[], progress_bar_metrics={"dev/loss": 0.5}, callback_metrics={})
    assert bar.get_metrics(state, None) == {"dev/loss": 0.5}  # type: ignore[arg-type]
    state.callback_metrics["train/loss_step"] = torch.tensor(0.25)
    assert bar.get_metrics(state, None) == {"dev/loss": 0.5, "train/loss": 0.25}  # type: ignore[arg-type]


def series(name: str, voxels: int) -> Any:
    label = np.zeros((4, 4, 4), dtype=np.uint8)
    label.flat[:voxels] = 1
    grid = Grid((4, 4, 4), np.eye(4))
    return SimpleNamespace(
        native_label=lambda: label,
        native_hu=lambda: label.astype(np.int16) * 500,
        native_grid=grid,
        slice_thickness_mm=1.0,
        series=SimpleNamespace(series_id=name),
    )


def test_the_median_burden_ignores_scans_without_lesions() -> None:
    some = [series("none", 0), series("b", 9), series("zero", 0), series("a", 2), series("c", 30)]
    assert median_burden(some).series.series_id == "b"
    assert median_burden(some[:1] + some[2:3]).series.series_id == "zero"
    assert median_burden([series("y", 5), series("x", 5), series("z", 5)]).series.series_id == "y"  # ties by name


class Constant(SegmentationModule):
    """Its model is a number, which averaging swaps as it would swap weights."""

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.number = nn.Parameter(torch.zeros(1))
        self.model = nn.ParameterList([self.number])

    logger = None
    device = torch.device("cpu")


def test_the_overlay_shows_the_weights_that_were_validated(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}
    module = Constant()

    def validate(*indices: int) -> None:
        volume = Volume(np.full((4, 4, 4), module.number.item(), np.float32), data.dev_series[0].native_grid)
        module.predicted = dict.fromkeys(indices, volume)
        overlay.on_validation_batch_end(state, module, None, {}, 0)  # type: ignore[arg-type]

    monkeypatch.setattr(callbacks, "native_probability", lambda item, common, restrict_hu: common)
    monkeypatch.setattr(callbacks, "overlay_figure", lambda volume, **kwargs: seen.update(kwargs) or Figure())
    data = SimpleNamespace(dev_series=[series("a", 3), series("elsewhere", 5)])
    state = SimpleNamespace(
        sanity_checking=False,
        datamodule=data,
        world_size=2,
        current_epoch=1,
        callback_metrics={"dev/threshold": torch.tensor(0.6)},
    )
    overlay = OverlayFigure(run)
    nn.init.constant_(module.number, 0.75)  # the averaged weights, while validation runs
    validate(0)
    nn.init.constant_(module.number, 0.25)  # swapped back before on_validation_end
    validate(1)
    overlay.on_validation_end(state, module)  # type: ignore[arg-type]
    assert seen["probability"].data == pytest.approx(0.75)
    assert seen["prediction"].data.all()
    assert seen["label"].data.sum() == 3
    assert "epoch 2" in seen["title"]
    assert (run.directory / "figures/overlay.png").stat().st_size > 0


def test_nothing_is_drawn_while_lightning_checks_sanity(run: Run) -> None:
    state = SimpleNamespace(sanity_checking=True)
    for callback in (OverlayFigure(run), ReconstructionFigure(run)):
        callback.on_validation_batch_end(state, Constant(), None, {}, 0)  # type: ignore[arg-type]
        callback.on_validation_end(state, Constant())  # type: ignore[arg-type]
    assert not (run.directory / "figures").exists()


def test_the_reconstruction_hides_the_tokens_of_validation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = ExperimentConfig(
        name="mae",
        task="pretrain",
        data=DataConfig(sampling=SamplingConfig(crop=(16, 16, 16))),
        model=ModelConfig(
            vit=ViTConfig(dim=24, depth=1, heads=2), mae=MAEConfig(decoder_dim=24, decoder_depth=1, decoder_heads=2)
        ),
    )
    seen: dict[str, Any] = {}

    def draw(image: Any, hidden: Any, reconstruction: Any, **kwargs: Any) -> Figure:
        seen.update(image=image, hidden=hidden, reconstruction=reconstruction, **kwargs)
        return Figure()

    monkeypatch.setattr(callbacks, "reconstruction_figure", draw)
    module = MAEModule(config).eval()  # as in validation: only then is a reconstruction made
    batch = {"image": torch.randn(2, 1, 16, 16, 16), "sample_index": torch.tensor([5, 6])}
    measured = {"dev/r2": 0.4, "dev/r2_interpolation": 0.1, "dev/r2_patch_mean": 0.3}
    state = SimpleNamespace(sanity_checking=False, current_epoch=0, callback_metrics=measured)
    module._trainer = SimpleNamespace(logger=None)  # type: ignore[assignment]
    callback = ReconstructionFigure(Run(tmp_path, config))

    def validate() -> None:
        callback.on_validation_batch_end(state, module, None, batch, 0)  # type: ignore[arg-type]
        callback.on_validation_batch_end(state, module, None, {}, 1)  # type: ignore[arg-type]
        callback.on_validation_end(state, module)  # type: ignore[arg-type]

    validate()
    assert "0.40 against 0.10 of interpolation" in seen["title"]
    np.testing.assert_array_equal(seen["image"], batch["image"][0, 0].numpy())
    assert seen["reconstruction"].shape == (16, 16, 16)
    assert seen["hidden"].mean() == 0.75  # 6 of 8 tokens
    first = seen["hidden"].copy()
    validate()
    np.testing.assert_array_equal(seen["hidden"], first)  # the same mask at every validation
    assert (tmp_path / "figures/reconstruction.png").exists()


def test_a_job_leaves_after_a_whole_update_only(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    class LeftError(Exception):
        pass

    def leave() -> None:
        raise LeftError

    monkeypatch.setattr(callbacks.slurm, "asked", lambda: True)
    monkeypatch.setattr(callbacks.slurm, "requeue", leave)
    saved: list[Path] = []
    state = SimpleNamespace(
        is_last_batch=False,
        accumulate_grad_batches=3,
        strategy=SimpleNamespace(reduce_boolean_decision=lambda decision, all: decision),
        save_checkpoint=saved.append,
    )
    callback = callbacks.RequeueCallback(run)
    for batch_idx in (0, 1, 3, 4):  # a checkpoint holds no accumulated gradients
        callback.on_train_batch_end(state, None, None, {}, batch_idx)  # type: ignore[arg-type]
    assert not saved
    with pytest.raises(LeftError):
        callback.on_train_batch_end(state, None, None, {}, 2)  # type: ignore[arg-type]
    assert len(saved) == 1
